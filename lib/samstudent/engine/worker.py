"""Worker process of ``local_processes``: runs the shards that it receives, and ends with its parent.

This module imports nothing that starts threads: the variables that limit threads and select the GPU are set before the
work, and with it torch, is imported.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import pickle
import signal
import sys
import threading
import time
from collections.abc import Mapping
from multiprocessing.connection import Connection, wait
from pathlib import Path

from samstudent.engine.in_process import run_item
from samstudent.engine.protocol import Outcome, reason_of
from samstudent.util.progress import Progress
from samstudent.util.signals import end_now

#: Least time in seconds between two progress messages of one item.
_PAUSE = 0.5


def serve(connection: Connection, environment: Mapping[str, str], log: Path | None) -> None:
    """Run shards until the connection is closed.

    Args:
        connection: receives (pickled work, keys); sends ("started",) once, ("progress", key, Progress) and
            ("outcome", Outcome).
        environment: variables to set before the work is imported.
        log: file to which standard output and error are appended, also of libraries; None: the parent's.
    """
    # The terminal sends Ctrl-C to all processes; the parent handles it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, name="end with parent", daemon=True).start()
    if log is not None:
        _append_output_to(log)
    logging.basicConfig(format="%(asctime)s %(message)s", level=logging.INFO)
    os.environ.update(environment)
    connection.send(("started",))
    while True:
        try:
            pickled, keys = connection.recv()
        except EOFError:
            return
        try:
            work = pickle.loads(pickled)
        except Exception as error:
            logging.warning("the work cannot be unpickled", exc_info=True)
            for key in keys:
                connection.send(("outcome", Outcome(key, "failed", reason_of(error))))
            continue
        for key in keys:
            connection.send(("outcome", run_item(work, key, _Progress(connection, key))))


class _Progress:
    """Progress report of one item over the connection, at most every ``_PAUSE`` seconds."""

    def __init__(self, connection: Connection, key: str) -> None:
        self.connection, self.key, self.last = connection, key, 0.0

    def __call__(self, progress: Progress) -> None:
        now = time.monotonic()
        if now - self.last >= _PAUSE:
            self.last = now
            self.connection.send(("progress", self.key, progress))


def _end_with_parent() -> None:
    """End this process and those that it started when the parent has ended for any reason."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        end_now(1)


def _append_output_to(log: Path) -> None:
    log.parent.mkdir(parents=True, exist_ok=True)
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    sys.stdout.flush()
    sys.stderr.flush()
    os.dup2(file, 1)
    os.dup2(file, 2)
    os.close(file)
