"""Threads for inferences, and limits on how many requests of one kind are worked on at once.

FastAPI runs plain endpoints in threads of one pool. A request of a kind that may take long waits for its turn as a
coroutine (``Turns``), before it takes a thread: so none of them keeps those that only read (``/info``, lists) waiting.
Inferences run in threads of low priority that share the cores.
"""

from __future__ import annotations

import contextlib
import contextvars
import os
import threading
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import torch
from anyio import CapacityLimiter
from fastapi import Depends, Request
from monailabel.config import settings

from samstudent.errors import UserError

#: More inferences at once only share the cores, and each holds its image.
MOST_INFERENCES = 4
#: Inferences that may wait for their turn; later ones are refused, with the time after which to try again.
MOST_WAITING = 32
#: Inferences yield to the threads that answer /info; jobs of the server yield to both.
INFERENCE_NICENESS = 5
#: Threads of FastAPI's pool (``anyio``): the sum of all ``LIMITS``, and as many for requests that only read.
THREADS = 96
#: Requests of one kind that are worked on at once.
LIMITS = {
    # Whatever waits for the end of a job, reads a large upload or makes an archive: minutes.
    "long": 8,
    # Hashes passwords, or waits for an OpenID provider.
    "login": 4,
    # Waits for a PACS.
    "pacs": 16,
    # Changes the study's list: each waits for the one before it anyway.
    "write": 8,
    # Chooses the next case to label, and may fetch it from a PACS.
    "sample": 8,
}

Result = TypeVar("Result")


class Busy(UserError):
    """Too many requests wait already (HTTP 503, with Retry-After)."""

    status = 503
    #: Seconds.
    retry_after = 5


class Turns:
    """Limit on requests of one kind that are worked on at once; others wait without a thread.

    Args:
        at_once: requests that are worked on at once.
        waiting: how many more may wait; None: any number.
        what: the kind, in messages.
    """

    def __init__(self, at_once: int, waiting: int | None = None, what: str = "requests") -> None:
        self.at_once, self.waiting, self.what = at_once, waiting, what
        self._limiter: CapacityLimiter | None = None
        self._present = 0  # only changed in the event loop

    @contextlib.asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Wait for a turn, and have it until the block ends.

        Raises:
            Busy: too many wait.
        """
        if self.waiting is not None and self._present >= self.at_once + self.waiting:
            raise Busy(f"{self._present} {self.what} run or wait already; try again in some seconds")
        if self._limiter is None:  # it belongs to the event loop that it is made in
            self._limiter = CapacityLimiter(self.at_once)
        self._present += 1
        try:
            async with self._limiter:
                yield
        finally:
            self._present -= 1


class InferencePool:
    """Threads of low priority for inferences, sharing the cores.

    Args:
        size: inferences at once.
        waiting: how many more may wait.
    """

    def __init__(self, size: int, waiting: int = MOST_WAITING) -> None:
        self.turns = Turns(size, waiting, "inferences")
        self._threads = ThreadPoolExecutor(size, "inference", initializer=_yield_to_others)
        self._cores = torch.get_num_threads()
        self._running = 0
        self._lock = threading.Lock()

    def run(self, call: Callable[[], Result]) -> Result:
        """What a call returns or raises; the calling thread, an endpoint's, sleeps meanwhile."""
        return self._threads.submit(contextvars.copy_context().run, self._work, call).result()

    def _work(self, call: Callable[[], Result]) -> Result:
        with self._lock:
            self._running += 1
            share = max(1, self._cores // self._running)
        # OpenMP keeps a team of threads for each thread that calls it: unshared, four inferences on two cores are eight
        # threads that wait for each other (docs/decisions/0006-waiting-threads-sleep.md).
        torch.set_num_threads(share)
        try:
            return call()
        finally:
            with self._lock:
                self._running -= 1


def inferences_at_once() -> int:
    """As many as the host's MONAI_LABEL_INFER_CONCURRENCY says, else one for each GPU, else one for each core."""
    if settings.MONAI_LABEL_INFER_CONCURRENCY > 0:
        return int(settings.MONAI_LABEL_INFER_CONCURRENCY)
    if torch.cuda.is_available():
        return torch.cuda.device_count()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(MOST_INFERENCES, cores)


def _yield_to_others() -> None:
    """Lower the calling thread's priority; Linux has one for each thread."""
    if hasattr(os, "setpriority") and os.uname().sysname == "Linux":
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), INFERENCE_NICENESS)


def all_turns(inference: InferencePool) -> dict[str, Turns]:
    """The limits of one server by kind, ``inference`` among them."""
    return {"inference": inference.turns} | {kind: Turns(at_once, what=kind) for kind, at_once in LIMITS.items()}


def takes_turn(kind: str) -> Any:
    """Dependency of endpoints of one kind (``LIMITS``, or ``inference``), which wait for their turn."""

    async def turn(request: Request) -> AsyncIterator[None]:
        async with request.app.state.context.turns[kind].turn():
            yield

    return Depends(turn, scope="function")
