"""Periodic call in a daemon thread."""

from __future__ import annotations

import threading
from collections.abc import Callable


class Timer:
    """Periodic call of a function in a daemon thread: at once, then after every pause, until it is stopped.

    Independent of the time of day, unlike APScheduler and the host's ``schedule``, which pause for days if the clock is
    set back by days. A long call delays the next one; calls never overlap.
    """

    def __init__(self, seconds: float, call: Callable[[], object], name: str) -> None:
        """Start the thread.

        Args:
            seconds: length of a pause.
            call: function to call; must not raise.
            name: name of the thread.
        """
        self._seconds, self._call = seconds, call
        self._stopped = threading.Event()
        threading.Thread(target=self._run, name=name, daemon=True).start()

    def stop(self) -> None:
        """Stop: no further call starts."""
        self._stopped.set()

    def _run(self) -> None:
        while not self._stopped.is_set():
            self._call()
            self._stopped.wait(self._seconds)
