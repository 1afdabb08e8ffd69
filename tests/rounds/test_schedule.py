"""Schedule: a pending trigger is kept once and survives a restart."""

from __future__ import annotations

import hashlib
import threading
from dataclasses import replace
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from samstudent.rounds.ledger import Ledger
from samstudent.rounds.round_record import PseudoUsed
from samstudent.rounds.schedule import ScheduleClock, ScheduledJobs, Scheduler, due, next_time
from samstudent.task import ScheduleSection

BERLIN = ZoneInfo("Europe/Berlin")
EVERY_3 = ScheduleSection(every_labels=3)
AT_2 = ScheduleSection(at="02:00")


def stamp(text: str, fold: int = 0) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=BERLIN, fold=fold).timestamp()


class TestDue:
    def test_schedule_without_triggers_starts_no_round(self):
        assert due(ScheduleSection(), 100, [1, 2, 3], None, 0) is None

    def test_round_is_due_after_n_labels(self):
        assert due(EVERY_3, 100, [10, 20], None, 0) is None
        assert due(EVERY_3, 100, [10, 20, 30], None, 0) == "3 new labels (every 3)"
        assert due(EVERY_3, 100, [10, 20, 30], 15, 0) is None
        # The first is saved again, corrected.
        assert due(EVERY_3, 100, [40, 20, 30], 15, 0) == "3 new labels (every 3)"
        assert due(EVERY_3, 100, [40, 20, 30], 40, 0) is None

    def test_labels_with_future_times_are_ignored(self):
        assert due(EVERY_3, 100, [10, 20, 101], None, 0) is None
        assert due(EVERY_3, 101, [10, 20, 101], None, 0)

    @given(times=st.lists(st.floats(0, 1000), max_size=20), every=st.integers(1, 5))
    def test_concluded_round_clears_earlier_triggers(self, times, every):
        section = ScheduleSection(every_labels=every, at="02:00")
        assert due(section, 1e6, times, 1000, 0, BERLIN) is None
        assert bool(due(ScheduleSection(every_labels=every), 1e6, times, None, 0)) == (len(times) >= every)

    def test_once_a_day_if_there_is_a_new_label(self):
        created, label = stamp("2026-05-01 12:00"), stamp("2026-05-01 15:00")
        before, after = stamp("2026-05-02 01:59"), stamp("2026-05-02 02:00")
        assert due(AT_2, before, [label], None, created, BERLIN) is None
        assert due(AT_2, after, [label], None, created, BERLIN) == "02:00 o'clock, 1 new label"
        assert due(AT_2, after, [], None, created, BERLIN) is None
        # The round has run; a label that comes later in the day waits for the next night.
        late = stamp("2026-05-02 09:00")
        assert due(AT_2, late + 60, [label, late], after + 1, created, BERLIN) is None
        assert due(AT_2, stamp("2026-05-03 02:00"), [label, late], after + 1, created, BERLIN)

    def test_missed_time_of_day_is_made_up_for(self):
        created, label = stamp("2026-05-01 12:00"), stamp("2026-05-01 15:00")
        assert due(AT_2, stamp("2026-05-02 08:00"), [label], None, created, BERLIN)
        assert due(AT_2, stamp("2026-05-09 08:00"), [label], None, created, BERLIN)

    def test_times_before_the_schedule_are_not_made_up_for(self):
        assert due(AT_2, stamp("2026-05-02 08:00"), [0.0], None, stamp("2026-05-02 07:00"), BERLIN) is None

    def test_spring_time_change_skips_no_day(self):
        section, label = ScheduleSection(at="02:30"), stamp("2026-03-28 12:00")
        assert due(section, stamp("2026-03-29 01:59"), [label], stamp("2026-03-28 02:30"), 0, BERLIN) is None
        assert due(section, stamp("2026-03-29 03:30"), [label], stamp("2026-03-28 02:30"), 0, BERLIN)
        assert next_time(section, stamp("2026-03-29 00:00"), BERLIN).timestamp() == stamp("2026-03-29 03:30")

    def test_time_after_midnight_of_the_spring_change(self):
        midnight = stamp("2028-03-27 00:00")
        assert next_time(ScheduleSection(at="00:00"), midnight - 1, BERLIN).timestamp() == midnight

    def test_autumn_time_change_repeats_no_round(self):
        section, first = ScheduleSection(at="02:30"), stamp("2026-10-25 02:30")
        label = first + 60
        assert next_time(section, first - 60, BERLIN).timestamp() == first
        second = stamp("2026-10-25 02:30", fold=1)
        assert second == first + 3600
        assert due(section, second + 60, [label], first, 0, BERLIN) is None
        assert next_time(section, first, BERLIN).timestamp() == stamp("2026-10-26 02:30")

    @given(st.integers(1_700_000_000, 1_900_000_000), st.integers(0, 23), st.integers(0, 59))
    def test_next_time_is_within_a_day_at_the_local_time(self, now, hour, minute):
        at = next_time(ScheduleSection(at=f"{hour:02}:{minute:02}"), now, BERLIN)
        assert 0 < at.timestamp() - now <= 25 * 3600
        wall = datetime.fromtimestamp(at.timestamp(), BERLIN)
        assert (wall.hour, wall.minute) == (hour, minute) or (hour == 2 and wall.hour == 3)


class World:
    """Study with a clock of its own, and a host that runs one training at a time."""

    def __init__(self, folder: Path, section: ScheduleSection = EVERY_3) -> None:
        self.now, self.times, self.busy = 1000.0, [], False
        self.started: list[str] = []
        self.ledger, self.section = Ledger(folder), section
        self.restart()

    def restart(self) -> None:
        self.scheduler = Scheduler(
            self.section,
            self.ledger,
            ScheduledJobs(lambda: list(self.times), lambda: self.busy, self.start),
            ScheduleClock(10, lambda: self.now, BERLIN),
        )

    def start(self, reason: str) -> None:
        self.started.append(reason)
        self.ledger.new_round(reason, started=self.now)

    def label(self, n: int) -> None:
        for _ in range(n):
            self.now += 1
            self.times.append(self.now)

    def check(self, after: float = 1) -> int:
        self.now += after
        self.scheduler.check()
        return len(self.started)

    def end(self, status: str = "done", **fields: Any) -> None:
        self.ledger.update(self.ledger.rounds()[-1].id, status=status, **fields)

    def end_with_pseudo_labels(self, difference: float | None = None) -> None:
        """End a round whose student is served, with a difference of Dice to the champion."""
        comparison = None if difference is None else {"mean": {"difference": difference}}
        round_id = self.ledger.rounds()[-1].id
        model = self.ledger.folder / "rounds" / round_id / "model.pt"
        model.write_bytes(round_id.encode())
        digest = hashlib.sha256(round_id.encode()).hexdigest()
        self.end(pseudo_used=PseudoUsed(n=2), comparison=comparison, model_digest=digest)
        self.ledger.promote(round_id, who="test")


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_rounds_repeat_while_dice_rises(world: World):
    world.label(3)
    assert world.check() == 1
    world.end_with_pseudo_labels()
    assert world.check(60) == 2
    world.end_with_pseudo_labels(0.02)
    assert world.scheduler.status()["pending"] == "mean Dice rose by 2.0 points"
    assert world.check(60) == 3
    world.end_with_pseudo_labels(0.001)
    assert world.check(60) == 3
    status = world.scheduler.status()
    assert status["pending"] is None
    assert status["repetition"] == "mean Dice rose by 0.1 points, not by more than 0.5"


def test_rounds_do_not_repeat_where_the_task_forbids_it(tmp_path: Path):
    world = World(tmp_path, ScheduleSection(every_labels=3, repeat=False))
    world.label(3)
    world.check()
    world.end_with_pseudo_labels()
    assert world.check(60) == 1


def test_labels_trigger_rounds(world: World):
    world.label(2)
    assert world.check() == 0 and world.scheduler.status()["new_labels"] == 2
    world.label(1)
    assert world.check() == 1 and world.started == ["3 new labels (every 3)"]
    status = world.scheduler.status()
    assert status["running"]["id"] == "r0001" and status["pending"] is None and status["new_labels"] == 0
    world.end()
    assert world.check() == 1
    assert world.scheduler.status()["last_round"]["status"] == "done"


def test_trigger_during_a_training_is_kept_once(world: World):
    world.label(3)
    assert world.check() == 1
    world.label(7)
    assert world.check() == 1
    status = world.scheduler.status()
    assert status["pending"] == "7 new labels (every 3)" and status["waiting"] == "a training runs"
    world.end()
    world.busy = True  # another job of the host
    assert world.check() == 1
    world.busy = False
    assert world.check() == 2
    world.end()
    assert world.check() == 2


def test_clock_set_back_does_not_stop_the_schedule(world: World):
    world.label(3)
    assert world.check() == 1
    world.end()
    assert world.check() == 1
    world.now -= 900
    world.label(2)
    assert world.check() == 1
    world.label(1)
    assert world.check() == 2
    world.end("interrupted")  # its trigger stays; the wait between two starts is not three days long
    world.now -= 50
    world.label(3)
    assert world.check() == 2 and world.scheduler.status()["waiting"].endswith("next try in 10 s")
    assert world.check(after=11) == 3


def test_pending_trigger_survives_a_restart_once(world: World):
    world.busy = True
    world.label(4)
    assert world.check() == 0
    world.restart()
    assert world.scheduler.status()["pending"]
    world.busy = False
    assert world.check() == 1
    world.restart()  # while the round runs
    assert world.check() == 1
    world.end()
    world.restart()
    assert world.check() == 1 and world.scheduler.status()["pending"] is None


def test_a_time_of_day_survives_a_restart(tmp_path: Path):
    world = World(tmp_path, AT_2)
    world.now = stamp("2026-05-01 12:00")
    world.label(1)
    assert world.check() == 0
    assert world.scheduler.status()["next_time"] == "2026-05-02T02:00:00+02:00"
    world.now = stamp("2026-05-02 07:00")
    world.restart()
    assert world.check() == 1
    world.end()
    assert world.check() == 1


def test_interrupted_round_keeps_its_trigger_but_failed_one_does_not(world: World):
    world.label(3)
    assert world.check() == 1
    world.end("interrupted")
    assert world.check(after=10) == 2
    world.end("interrupted")
    assert world.check(after=10) == 2  # the wait has doubled
    assert "2 start(s) led to no finished round" in world.scheduler.status()["waiting"]
    assert world.check(after=10) == 3
    world.end("failed")
    assert world.check(after=1000) == 3
    world.label(3)
    assert world.check() == 4


def test_a_failing_start_is_reported_and_does_not_stop_the_next(world: World):
    def broken(reason: str) -> None:
        raise OSError("no memory")

    healthy = world.scheduler._jobs
    world.scheduler._jobs = replace(healthy, start=broken)
    world.label(3)
    assert world.check() == 0
    assert world.scheduler.status()["last_error"] == "OSError: no memory"
    world.scheduler._jobs = healthy
    assert world.check(after=9) == 0  # not hammered
    assert world.check(after=1) == 1
    assert world.scheduler.status()["last_error"] is None


def test_start_without_a_round_is_reported_and_delayed_increasingly(world: World):
    attempts: list[float] = []
    world.scheduler._jobs = replace(world.scheduler._jobs, start=lambda reason: attempts.append(world.now))
    world.label(3)
    for _ in range(200):
        world.check(after=1)
    assert [b - a for a, b in pairwise(attempts)] == [10, 20, 40, 80]
    assert "a start opened no round" in world.scheduler.status()["last_error"]


def test_an_error_in_a_check_does_not_stop_the_next(world: World):
    def broken() -> list[float]:
        raise ValueError("datastore is away")

    healthy = world.scheduler._jobs
    world.scheduler._jobs = replace(healthy, label_times=broken)
    world.label(3)
    assert world.check() == 0 and world.scheduler.last_error == "ValueError: datastore is away"
    world.scheduler._jobs = healthy
    assert world.check() == 1


def test_paused_schedules_keep_their_trigger_over_a_restart(world: World):
    world.scheduler.pause(True)
    world.label(3)
    assert world.check() == 0
    world.restart()
    assert world.check() == 0
    status = world.scheduler.status()
    assert status["paused"] and status["pending"] and status["waiting"] == "the schedule is paused"
    world.scheduler.pause(False)
    assert world.check() == 1


def test_status_request_writes_nothing(tmp_path: Path):
    world = World(tmp_path / "state")
    assert world.scheduler.status()["last_round"] is None
    assert not (tmp_path / "state").exists()


def test_time_of_day_is_valid_after_the_clock_was_set_back():
    at = ScheduleSection(at="03:00")
    noon = datetime(2026, 3, 10, 12, tzinfo=BERLIN).timestamp()
    label, created = noon - 36000, noon + 86400
    assert due(at, noon, [label], None, created, BERLIN)
    assert not due(at, noon, [label], None, noon - 60, BERLIN)


def test_thread_continues_polling_after_an_error(tmp_path: Path):
    ledger, looked = Ledger(tmp_path), threading.Semaphore(0)

    def label_times() -> list[float]:
        looked.release()
        raise ValueError("always")

    jobs = ScheduledJobs(label_times, lambda: False, lambda reason: None)
    scheduler = Scheduler(EVERY_3, ledger, jobs, ScheduleClock(0.02))
    scheduler.run()
    try:
        assert all(looked.acquire(timeout=30) for _ in range(3))
    finally:
        scheduler.stop()
    assert scheduler.last_error == "ValueError: always"


def test_without_a_schedule_no_thread_runs(tmp_path: Path):
    jobs = ScheduledJobs(list, lambda: False, lambda reason: None)
    scheduler = Scheduler(ScheduleSection(), Ledger(tmp_path), jobs)
    before = threading.active_count()
    scheduler.run()
    assert threading.active_count() == before and scheduler.status()["next_time"] is None
    scheduler.stop()
