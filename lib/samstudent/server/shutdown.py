"""The server's end: at once when a signal asks for it, whatever runs or waits, and with its state whole.

Requests get a moment to be answered (a label that is being saved). Jobs are stopped, none that waits begins any more,
and their rounds are marked as interrupted. Then the process ends without Python's own wait for threads: a pool that
works through its queue at the interpreter's end kept the server alive for minutes.
"""

from __future__ import annotations

import logging
import signal
import threading
import time
from types import FrameType
from typing import TYPE_CHECKING

from samstudent.server.datastore.study_list import export_all
from samstudent.server.jobs.runner import JobRunner
from samstudent.util.signals import LONGEST_END, end_now, handle_signals

if TYPE_CHECKING:
    import uvicorn

    from samstudent.rounds.ledger import Ledger

logger = logging.getLogger(__name__)

STOPPED = "the server was stopped"
#: Longest wait for the export of the list of labels for the host's tools, seconds.
LONGEST_EXPORT = 1.0
#: Seconds until a process that was killed counts as gone; on busy cores that is not at once.
GONE_WITHIN = 0.5


class Shutdown:
    """Takes over the signals from the HTTP server, which would wait for every connection.

    Args:
        exit_code: of the process; 0: a stop that was asked for is no failure.
    """

    def __init__(self, exit_code: int = 0) -> None:
        self.exit_code = exit_code
        #: Whose rounds are marked; None: the server is still starting.
        self.ledger: Ledger | None = None
        self._asked = threading.Event()
        self._http: uvicorn.Server | None = None
        self._jobs: JobRunner | None = None

    def install(self, jobs: JobRunner) -> None:
        """To be called in the main thread, in the HTTP server's start; elsewhere it does nothing.

        Args:
            jobs: of the server.
        """
        if threading.current_thread() is not threading.main_thread():
            return
        self._jobs = jobs
        self._http = getattr(signal.getsignal(signal.SIGINT), "__self__", None)
        handle_signals(self)
        if getattr(self._http, "should_exit", False):  # asked for while the app was imported
            end_now(self.exit_code, "stopped")

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """Of a signal: begin the end. A second one, or one while the server starts, ends the process at once."""
        if self._asked.is_set() or self.ledger is None:
            end_now(self.exit_code, "stopped")
        self._asked.set()
        if self._http is not None:
            self._http.should_exit = True  # no new connections; idle ones are closed
        # No daemon: should the HTTP server be done first, the interpreter waits for this thread, and so for the end.
        threading.Thread(target=self._end, name="shutdown").start()

    def _end(self) -> None:
        deadline = time.monotonic() + LONGEST_END
        try:
            if self._jobs is not None:
                self._jobs.end_all(deadline - LONGEST_END / 2)
            if self.ledger is not None:
                _mark_rounds(self.ledger)
            while self._busy() and time.monotonic() < deadline:
                time.sleep(0.05)
            # A daemon: who holds the study's lock must not keep this process alive; the next one would export it.
            export = threading.Thread(target=export_all, name="export", daemon=True)
            export.start()
            export.join(LONGEST_EXPORT)
        except Exception:
            logger.exception("the server ends all the same")
        finally:
            end_now(self.exit_code, "stopped")

    def _busy(self) -> bool:
        return self._http is not None and bool(self._http.server_state.connections or self._http.server_state.tasks)


def _mark_rounds(ledger: Ledger) -> None:
    """Mark the rounds whose jobs were ended as interrupted."""
    deadline = time.monotonic() + GONE_WITHIN
    while ledger.running() is not None and time.monotonic() < deadline:
        time.sleep(0.02)
    ledger.mark_interrupted(STOPPED)
