"""Engine that runs all items in the calling process, one after another, while outcomes are collected."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Sequence

from samstudent.engine.protocol import OnProgress, Outcome, Work, reason_of
from samstudent.util.progress import Progress, Report

logger = logging.getLogger(__name__)


class Cancelled(Exception):
    """Raised inside an item by its progress report after the engine was cancelled."""


class InProcess:
    """Engine of this process; see ``protocol.Engine``. A running item is stopped at its next progress report.

    Args:
        capacity: largest number of shards in flight.
    """

    workers = 1

    def __init__(self, capacity: int = 2) -> None:
        self._capacity = capacity
        self._shards: deque[tuple[Work, deque[str], OnProgress | None]] = deque()
        self._cancelled = False

    @property
    def room(self) -> int:
        return 0 if self._cancelled else self._capacity - len(self._shards)

    def submit(self, work: Work, keys: Sequence[str], on_progress: OnProgress | None = None) -> None:
        if not self.room:
            raise RuntimeError("the engine was cancelled" if self._cancelled else "no room: collect before you submit")
        if keys:
            self._shards.append((work, deque(keys), on_progress))

    def collect(self, timeout: float | None = None) -> Outcome | None:
        """Outcome of the next item, which runs now; ``timeout`` is ignored."""
        if not self._shards:
            return None
        work, keys, on_progress = self._shards[0]
        key = keys.popleft()
        if not keys:
            self._shards.popleft()
        if self._cancelled:
            return Outcome(key, "cancelled")

        def report(progress: Progress) -> None:
            if on_progress is not None:
                on_progress(key, progress)
            if self._cancelled:
                raise Cancelled

        return run_item(work, key, report)

    def cancel(self) -> None:
        self._cancelled = True

    def __enter__(self) -> InProcess:
        return self

    def __exit__(self, *exception: object) -> None:
        self.cancel()
        self._shards.clear()


def run_item(work: Work, key: str, report: Report) -> Outcome:
    """Run one item unless the store has its result; exceptions of the work become its outcome."""
    started = time.monotonic()
    try:
        if work.is_done(key):
            return Outcome(key, "skipped")
        work(key, report)
        if not work.is_done(key):
            return Outcome(key, "failed", "no result was written", time.monotonic() - started)
    except Cancelled:
        return Outcome(key, "cancelled", seconds=time.monotonic() - started)
    except Exception as error:
        logger.warning("item %s failed", key, exc_info=True)
        return Outcome(key, "failed", reason_of(error), time.monotonic() - started)
    return Outcome(key, "done", seconds=time.monotonic() - started)
