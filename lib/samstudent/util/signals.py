"""How a process ends when a signal asks for it: Ctrl-C (SIGINT), SIGTERM, a terminal that is closed (SIGHUP).

Python alone waits at its end for every thread of a pool, and for the jobs that these wait for: minutes. Everything of
ours that is written appears whole or not at all, so an end without that wait loses nothing.
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
#: Seconds from the signal to the end, whatever still runs.
LONGEST_END = 1.5

Handler = Callable[[int, FrameType | None], None]


def handle_signals(handler: Handler) -> None:
    """Have a function called for each of ``SIGNALS``. Only possible in the main thread.

    A process that was started to go on when the terminal is closed (``nohup``) goes on.
    """
    for number in SIGNALS:
        if number == getattr(signal, "SIGHUP", None) and signal.getsignal(number) == signal.SIG_IGN:
            continue
        signal.signal(number, handler)


def end_now(code: int, message: str | None = None) -> NoReturn:
    """Kill the child processes and end this one, without a wait for threads. Never returns.

    Args:
        code: the exit code.
        message: a line for the terminal.
    """
    with contextlib.suppress(psutil.Error):
        for child in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.Error):
                child.kill()
    with contextlib.suppress(OSError, ValueError, RuntimeError):  # the terminal may be gone
        sys.stdout.flush()
        if message is not None:
            # Behind "^C", or a half-drawn progress bar.
            line_break = "\n" if sys.stderr.isatty() else ""
            print(f"{line_break}samstudent: {message}", file=sys.stderr, flush=True)
    os._exit(code)


class Stop:
    """What a command does with a signal: the first is a KeyboardInterrupt, a second ends the process at once.

    Attributes:
        message: the last line on the terminal.
    """

    def __init__(self) -> None:
        self.message = "stopped"
        self._number: int | None = None

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if self._number is not None:
            self._end()
        self._number = number
        logging.disable(logging.CRITICAL)  # of the interruption itself, libraries say that it is an error
        # Threads that calculate, and whatever does not let a KeyboardInterrupt through, get this much time.
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


#: Of the running command.
stop = Stop()
