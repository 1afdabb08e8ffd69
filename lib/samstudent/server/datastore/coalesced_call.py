"""One call for a burst of events."""

from __future__ import annotations

import threading
from collections.abc import Callable


class CoalescedCall:
    """Calls a function in a daemon thread, once for all triggers of some time.

    Args:
        call: must raise nothing.
        delay: seconds from the first trigger to the call; looked up at each first trigger.
        name: of the thread.
    """

    def __init__(self, call: Callable[[], object], delay: Callable[[], float], name: str) -> None:
        self._call, self._delay, self._name = call, delay, name
        self._mutex = threading.Lock()
        self._timer: threading.Timer | None = None
        self._running: threading.Thread | None = None

    def trigger(self) -> None:
        """Call after the delay, unless a call is due already."""
        with self._mutex:
            if self._timer is None:
                self._timer = threading.Timer(self._delay(), self._run)
                self._timer.name, self._timer.daemon = self._name, True
                self._timer.start()

    def cancel(self) -> None:
        """Drop a call that is due, and wait for one that runs."""
        with self._mutex:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
            running = self._running
        if running is not None and running is not threading.current_thread():
            running.join()

    def _run(self) -> None:
        with self._mutex:
            if self._timer is not threading.current_thread():
                return  # cancelled
            self._timer = None  # a trigger from now on is for another call
            self._running = threading.current_thread()
        self._call()
