"""End of a process by a signal: Ctrl-C (SIGINT), SIGTERM, a closed terminal (SIGHUP).

By default Python waits at its end for every thread of a pool, and for the jobs that these wait for: minutes. All our
files are written atomically, so an end without this wait loses nothing.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import NoReturn

import psutil

SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
#: Largest time in seconds from the signal to the end.
LONGEST_END = 1.5

Handler = Callable[[int, FrameType | None], None]


def handle_signals(handler: Handler) -> None:
    """Set a handler for each of ``SIGNALS``. Only possible in the main thread.

    SIGHUP stays ignored in a process that was started with ``nohup``.
    """
    for number in SIGNALS:
        if number == getattr(signal, "SIGHUP", None) and signal.getsignal(number) == signal.SIG_IGN:
            continue
        signal.signal(number, handler)


def end_now(code: int, message: str | None = None) -> NoReturn:
    """Kill the processes that this one started and end it, without a wait for threads. Never returns.

    Args:
        code: the exit code.
        message: a line for the terminal.
    """
    with contextlib.suppress(psutil.Error):
        for started in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.Error):
                started.kill()
    with contextlib.suppress(OSError, ValueError, RuntimeError):  # the terminal may be gone
        sys.stdout.flush()
        if message is not None:
            # After "^C", or an unfinished progress bar.
            line_break = "\n" if sys.stderr.isatty() else ""
            print(f"{line_break}samstudent: {message}", file=sys.stderr, flush=True)
    os._exit(code)


class Stop:
    """Signal handler of a command: the first signal raises KeyboardInterrupt, a second ends the process at once.

    Attributes:
        message: last line on the terminal.
    """

    def __init__(self) -> None:
        self.message = "stopped"
        self._number: int | None = None

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if self._number is not None:
            self._end()
        self._number = number
        logging.disable(logging.CRITICAL)  # libraries log the interruption as an error
        # Running threads, and code that catches KeyboardInterrupt, get this much time.
        timer = threading.Timer(LONGEST_END, self._end)
        timer.daemon = True
        timer.start()
        raise KeyboardInterrupt

    def _end(self) -> NoReturn:
        end_now(128 + (self._number or signal.SIGINT), self.message)

    @contextlib.contextmanager
    def handled(self) -> Iterator[None]:
        """Signals that arrive in the block end the process: after the block was left, or after ``LONGEST_END``.

        The exit code is the shell's: 128 + the signal's number, 130 for Ctrl-C.
        """
        handle_signals(self)
        try:
            yield
        finally:
            if self._number is not None:
                self._end()


#: Handler of the running command.
stop = Stop()
