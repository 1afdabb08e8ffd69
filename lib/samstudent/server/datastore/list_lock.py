"""Lock around changes of a study's list, between threads and between processes."""

from __future__ import annotations

import threading
from pathlib import Path
from types import TracebackType

from filelock import FileLock, Timeout

#: Interval between two attempts to lock the file while another process holds it, seconds.
POLL_SECONDS = 0.01


class ListLock:
    """Re-entrant lock of a list: a context manager.

    Threads of this process wait for a lock in memory first: among them the file lock alone would be polled.

    Args:
        path: lock file, shared with the host's tools.
    """

    def __init__(self, path: Path) -> None:
        self._threads = threading.RLock()
        self._file = FileLock(path, poll_interval=POLL_SECONDS)

    def __enter__(self) -> ListLock:
        self._threads.acquire()
        try:
            self._file.acquire()
        except BaseException:
            self._threads.release()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def acquire_now(self) -> bool:
        """Acquire the lock if no other thread or process holds it; whether it was acquired."""
        if not self._threads.acquire(blocking=False):
            return False
        try:
            self._file.acquire(timeout=0)
        except Timeout:
            self._threads.release()
            return False
        except BaseException:
            self._threads.release()
            raise
        return True

    def release(self) -> None:
        """Release the lock once."""
        try:
            self._file.release()
        finally:
            self._threads.release()
