"""One delayed call for a burst of events."""

from __future__ import annotations

import threading
from collections.abc import Callable


class CoalescedCall:
    """Call of a function in a daemon thread, once for all triggers within a delay.

    Args:
        call: function; must not raise.
        delay: returns the seconds from the first trigger to the call.
        name: name of the thread.
    """

    def __init__(self, call: Callable[[], object], delay: Callable[[], float], name: str) -> None:
        self._call, self._delay, self._name = call, delay, name
        self._mutex = threading.Lock()
        self._timer: threading.Timer | None = None
        self._running: threading.Thread | None = None

    def trigger(self) -> None:
        """Schedule a call after the delay, unless one is scheduled."""
        with self._mutex:
            if self._timer is None:
                self._timer = threading.Timer(self._delay(), self._run)
                self._timer.name, self._timer.daemon = self._name, True
                self._timer.start()

    def cancel(self) -> None:
        """Cancel a scheduled call, and wait for a running one."""
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
            self._timer = None  # a trigger from now on schedules another call
            self._running = threading.current_thread()
        self._call()
