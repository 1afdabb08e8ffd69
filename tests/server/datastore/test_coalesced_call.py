"""One call for a burst of triggers, another one for triggers after it."""

from __future__ import annotations

import threading
import time

from samstudent.server.datastore.coalesced_call import CoalescedCall


def test_triggers_in_a_burst_cause_one_call() -> None:
    calls, called = [], threading.Event()
    call = CoalescedCall(lambda: (calls.append(time.monotonic()), called.set()), lambda: 0.1, "test")
    started = time.monotonic()
    for _ in range(20):
        call.trigger()
    assert called.wait(10)
    time.sleep(0.2)
    assert len(calls) == 1 and calls[0] - started >= 0.1


def test_trigger_during_the_call_causes_another_call() -> None:
    calls, done = [], threading.Event()

    def work() -> None:
        calls.append(1)
        if len(calls) == 1:
            call.trigger()
        else:
            done.set()

    call = CoalescedCall(work, lambda: 0.0, "test")
    call.trigger()
    assert done.wait(10) and len(calls) == 2


def test_pending_call_can_be_dropped() -> None:
    calls: list[int] = []
    call = CoalescedCall(lambda: calls.append(1), lambda: 0.05, "test")
    call.trigger()
    call.cancel()
    time.sleep(0.15)
    assert not calls
    call.trigger()
    time.sleep(0.3)
    assert calls == [1]
