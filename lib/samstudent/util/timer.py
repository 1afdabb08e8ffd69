"""What is done again and again."""

from __future__ import annotations

import threading
from collections.abc import Callable


class Timer:
    """Calls a function at once and then after every pause, in a thread, until it is stopped.

    Not by the time of day, as APScheduler and the host's ``schedule`` do: they do nothing for days where a clock is set
    back by days. A call that takes long delays the next; it never runs twice at once.
    """

    def __init__(self, seconds: float, call: Callable[[], object], name: str) -> None:
        """Begin.

        Args:
            seconds: of each pause.
            call: must raise nothing.
            name: of the thread.
        """
        self._seconds, self._call = seconds, call
        self._stopped = threading.Event()
        threading.Thread(target=self._run, name=name, daemon=True).start()

    def stop(self) -> None:
        """No call begins any more."""
        self._stopped.set()

    def _run(self) -> None:
        while not self._stopped.is_set():
            self._call()
            self._stopped.wait(self._seconds)
