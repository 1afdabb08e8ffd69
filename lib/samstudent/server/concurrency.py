"""Thread pool for inferences, and limits on concurrent requests of one kind.

FastAPI runs plain endpoints in threads of one pool. A request of a kind that may take long waits in a coroutine
(``Turns``) before it occupies a thread, so that requests that only read (``/info``, lists) are not delayed. Inferences
run in threads of low priority that share the cores.
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

#: Largest number of concurrent inferences on CPUs: more share the same cores, and each has its image in memory.
MOST_INFERENCES = 4
#: Largest number of waiting inferences; further ones are refused with Retry-After.
MOST_WAITING = 32
#: Nice value of inferences: below other requests, above the jobs of the server.
INFERENCE_NICENESS = 5
#: Threads of FastAPI's pool (``anyio``): the sum of all ``LIMITS``, and as many again for requests that only read.
THREADS = 96
#: Largest number of concurrent requests by kind.
LIMITS = {
    # Waits for the end of a job, reads a large upload or writes an archive: minutes.
    "long": 8,
    # Computes password hashes, or waits for an OpenID provider.
    "login": 4,
    # Waits for a PACS.
    "pacs": 16,
    # Changes the study's list, which is locked meanwhile.
    "write": 8,
    # Selects the next case to label, and may fetch it from a PACS.
    "sample": 8,
}

Result = TypeVar("Result")


class Busy(UserError):
    """Too many requests are waiting (HTTP 503, with Retry-After)."""

    status = 503
    #: Seconds.
    retry_after = 5


class Turns:
    """Limit on concurrent requests of one kind; further ones wait without a thread.

    Args:
        at_once: maximum number of concurrent requests.
        waiting: maximum number of waiting requests; None: unlimited.
        kind: plural name of the requests, for messages.
    """

    def __init__(self, at_once: int, waiting: int | None = None, kind: str = "requests") -> None:
        self.at_once, self.waiting, self.kind = at_once, waiting, kind
        self._limiter: CapacityLimiter | None = None
        self._present = 0  # only changed in the event loop

    @contextlib.asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Wait until the request may run; the block is the request.

        Raises:
            Busy: too many requests are waiting.
        """
        if self.waiting is not None and self._present >= self.at_once + self.waiting:
            raise Busy(f"{self._present} {self.kind} are running or waiting; try again in a few seconds")
        if self._limiter is None:  # created here, because it belongs to the event loop
            self._limiter = CapacityLimiter(self.at_once)
        self._present += 1
        try:
            async with self._limiter:
                yield
        finally:
            self._present -= 1


class InferencePool:
    """Pool of low-priority threads for inferences, which share the cores.

    Args:
        size: maximum number of concurrent inferences.
        waiting: maximum number of waiting inferences.
    """

    def __init__(self, size: int, waiting: int = MOST_WAITING) -> None:
        self.turns = Turns(size, waiting, "inferences")
        self._threads = ThreadPoolExecutor(size, "inference", initializer=_yield_to_others)
        self._cores = torch.get_num_threads()
        self._running = 0
        self._lock = threading.Lock()

    def run(self, call: Callable[[], Result]) -> Result:
        """Run a function in the pool and wait for it; returns its result or raises its error."""
        return self._threads.submit(contextvars.copy_context().run, self._work, call).result()

    def _work(self, call: Callable[[], Result]) -> Result:
        with self._lock:
            self._running += 1
            share = max(1, self._cores // self._running)
        # OpenMP has a team of threads for each calling thread: without this, four inferences on two cores are eight
        # threads that wait for each other (docs/decisions/0006-waiting-threads-sleep.md).
        torch.set_num_threads(share)
        try:
            return call()
        finally:
            with self._lock:
                self._running -= 1


def inferences_at_once() -> int:
    """Number of concurrent inferences: MONAI_LABEL_INFER_CONCURRENCY, else one for each GPU, else one for each core."""
    if settings.MONAI_LABEL_INFER_CONCURRENCY > 0:
        return int(settings.MONAI_LABEL_INFER_CONCURRENCY)
    if torch.cuda.is_available():
        return torch.cuda.device_count()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(MOST_INFERENCES, cores)


def _yield_to_others() -> None:
    """Lower the priority of the calling thread; on Linux each thread has its own."""
    if hasattr(os, "setpriority") and os.uname().sysname == "Linux":
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), INFERENCE_NICENESS)


def all_turns(inference: InferencePool) -> dict[str, Turns]:
    """Limits of one server by kind, including ``inference``."""
    return {"inference": inference.turns} | {kind: Turns(at_once, kind=kind) for kind, at_once in LIMITS.items()}


def takes_turn(kind: str) -> Any:
    """Dependency of an endpoint: limit on requests of its kind (key of ``LIMITS``, or ``inference``)."""

    async def turn(request: Request) -> AsyncIterator[None]:
        async with request.app.state.context.turns[kind].turn():
            yield

    return Depends(turn, scope="function")
