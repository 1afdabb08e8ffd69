"""Requests of one kind wait for their turn without a thread; inferences run in few threads of low priority."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import anyio
import pytest
import torch
from fastapi import FastAPI
from fastapi.testclient import TestClient

from samstudent.server.api.exception_handlers import HANDLERS
from samstudent.server.auth.current_user import Caller, caller, enter, leave
from samstudent.server.concurrency import INFERENCE_NICENESS, LIMITS, THREADS, Busy, InferencePool, Turns, takes_turn


def test_requests_beyond_the_limit_wait_or_are_refused() -> None:
    turns, seen, most = Turns(2, waiting=1, kind="things"), [0], [0]

    async def work(refused: list[str]) -> None:
        try:
            async with turns.turn():
                seen[0] += 1
                most[0] = max(most[0], seen[0])
                await anyio.sleep(0.05)
                seen[0] -= 1
        except Busy as error:
            refused.append(str(error))

    async def all_at_once() -> list[str]:
        refused: list[str] = []
        async with anyio.create_task_group() as group:
            for _ in range(5):
                group.start_soon(work, refused)
        await work(refused)  # there is room again
        return refused

    refused = anyio.run(all_at_once)
    assert most[0] == 2 and len(refused) == 2 and refused[0].startswith("3 things are running or waiting")


def test_failed_request_releases_its_turn() -> None:
    turns = Turns(1, waiting=0)

    async def fail_twice() -> None:
        for _ in range(2):
            with pytest.raises(ValueError, match="no"):
                async with turns.turn():
                    raise ValueError("no")

    anyio.run(fail_twice)


@pytest.fixture
def client() -> Iterator[TestClient]:
    """Application with a slow endpoint, which takes a turn, and one that reads."""
    go, app = threading.Event(), FastAPI(exception_handlers=HANDLERS)
    app.state.context = SimpleNamespace(turns={"inference": Turns(1, waiting=1)})
    app.state.go = go

    @app.get("/slow", dependencies=[takes_turn("inference")])
    def get_slow() -> str:
        assert go.wait(60)
        return "done"

    with TestClient(app) as client:
        yield client


def test_endpoint_waits_for_its_turn(client: TestClient) -> None:
    go = client.app.state.go  # type: ignore[attr-defined]
    with ThreadPoolExecutor(2) as people:
        asked = [people.submit(client.get, "/slow") for _ in range(2)]
        turns = client.app.state.context.turns["inference"]  # type: ignore[attr-defined]
        while turns._present < 2:
            time.sleep(0.01)
        refused = client.get("/slow")
        assert refused.status_code == 503 and refused.headers["retry-after"] == "5"
        go.set()
        assert [future.result().json() for future in asked] == ["done", "done"]
    assert client.get("/slow").json() == "done"


def test_inferences_share_the_cores_and_have_the_current_user() -> None:
    pool, both = InferencePool(2), threading.Barrier(2)
    cores = torch.get_num_threads()

    def infer() -> tuple[str, int, int]:
        both.wait(30)
        niceness = os.getpriority(os.PRIO_PROCESS, threading.get_native_id()) if sys.platform == "linux" else 0
        return caller().address, torch.get_num_threads(), niceness

    def asked_from(address: str) -> tuple[str, int, int]:
        token = enter(Caller(address))
        try:
            return pool.run(infer)
        finally:
            leave(token)

    before = os.getpriority(os.PRIO_PROCESS, 0)
    with ThreadPoolExecutor(2) as people:
        answers = sorted(people.map(asked_from, ["10.0.0.1", "10.0.0.2"]))
    assert [address for address, _, _ in answers] == ["10.0.0.1", "10.0.0.2"]
    assert min(threads for _, threads, _ in answers) == max(1, cores // 2)
    if sys.platform == "linux":
        # Set, not added: a process that is nicer already stays so only up to this.
        assert {niceness for _, _, niceness in answers} == {INFERENCE_NICENESS} or before > INFERENCE_NICENESS
    with pytest.raises(ZeroDivisionError):
        pool.run(lambda: 1 // 0)


def test_read_requests_have_threads_left() -> None:
    """All limits together leave as many threads for requests that only read."""
    assert sum(LIMITS.values()) + 4 <= THREADS // 2
