"""Shutdown of the server by a signal: within seconds, with a consistent state.

Running requests get some time to finish (a label that is being saved). Jobs are stopped, waiting ones are cancelled,
and their rounds are marked as interrupted. Then the process ends without Python's wait for threads: a pool that works
through its queue at the end of the interpreter kept the server alive for minutes.
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
#: Longest wait for the export of the host's list, seconds.
LONGEST_EXPORT = 1.0
#: Longest wait until a killed process has ended, seconds.
GONE_WITHIN = 0.5


class Shutdown:
    """Signal handler in place of the HTTP server's, which would wait for every connection.

    Args:
        exit_code: exit code of the process; 0: a requested stop is no failure.
    """

    def __init__(self, exit_code: int = 0) -> None:
        self.exit_code = exit_code
        #: Ledger of the study; None: the server is still starting.
        self.ledger: Ledger | None = None
        self._requested = threading.Event()
        self._http: uvicorn.Server | None = None
        self._jobs: JobRunner | None = None

    def install(self, jobs: JobRunner) -> None:
        """Set the signal handlers. Call it in the main thread during the start; in other threads it does nothing.

        Args:
            jobs: job runner of the server.
        """
        if threading.current_thread() is not threading.main_thread():
            return
        self._jobs = jobs
        self._http = getattr(signal.getsignal(signal.SIGINT), "__self__", None)
        handle_signals(self)
        if getattr(self._http, "should_exit", False):  # requested while the app was imported
            end_now(self.exit_code, "stopped")

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """Begin the shutdown. A second signal, or one during the start, ends the process immediately."""
        if self._requested.is_set() or self.ledger is None:
            end_now(self.exit_code, "stopped")
        self._requested.set()
        if self._http is not None:
            self._http.should_exit = True  # no new connections; idle ones are closed
        # No daemon: if the HTTP server ends first, the interpreter waits for this thread.
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
            # A daemon: another process with the study's lock must not delay the end; the next start exports.
            export = threading.Thread(target=export_all, name="export", daemon=True)
            export.start()
            export.join(LONGEST_EXPORT)
        except Exception:
            logger.exception("error during the shutdown; the process ends now")
        finally:
            end_now(self.exit_code, "stopped")

    def _busy(self) -> bool:
        return self._http is not None and bool(self._http.server_state.connections or self._http.server_state.tasks)


def _mark_rounds(ledger: Ledger) -> None:
    """Mark the rounds of the stopped jobs as interrupted."""
    deadline = time.monotonic() + GONE_WITHIN
    while ledger.running() is not None and time.monotonic() < deadline:
        time.sleep(0.02)
    ledger.mark_interrupted(STOPPED)
