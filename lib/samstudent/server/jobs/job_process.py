"""A job's side: the process that does one job, yields to the server, tells it of its progress and ends with it.

The server sends the work over a connection; progress and the result come back over the same one. Standard output and
error go to the server through a pipe, also those of libraries in C.
"""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch

from samstudent.errors import UserError, explain
from samstudent.util.progress import Progress, Report
from samstudent.util.signals import SIGNALS, end_now

#: What a job does: kind, request and report -> result, a JSON value. A function that can be pickled.
Work = Callable[[str, dict[str, Any], Report], Any]

#: Prefix of a job's name in ``ps`` and ``top``, which show 15 characters; its kind follows.
JOB_PREFIX = "sam-"
#: Of a job that failed by a user's mistake.
MISTAKE = 2

_is_job = False


@dataclass(frozen=True)
class Assignment:
    """What a job's process is to do: ``work`` with this kind and request."""

    work: Work
    kind: str
    request: dict[str, Any]


@dataclass(frozen=True)
class Result:
    """Result of a job, a JSON value."""

    value: Any


class ProgressSender:
    """Report of a job's process: sends each event to the server. May be called from several threads."""

    def __init__(self, connection: Connection) -> None:
        self._connection, self._lock = connection, threading.Lock()

    def __call__(self, progress: Progress) -> None:
        with self._lock, contextlib.suppress(BrokenPipeError):  # the server has ended; soon this process does, too
            self._connection.send(progress)


def is_job_process() -> bool:
    """Whether this process was started by a server to do one job."""
    return _is_job


def run_job(connection: Connection, output: Connection) -> None:
    """Main function of a job's process.

    Args:
        connection: gives the ``Assignment``; takes ``Progress`` and the ``Result``.
        output: takes standard output and error.
    """
    global _is_job
    _is_job = True
    for standard in (1, 2):
        os.dup2(output.fileno(), standard)
    output.close()
    _set_signals()
    threading.Thread(target=_end_with_server, name="end with server", daemon=True).start()
    assignment: Assignment = connection.recv()
    name_process(f"{JOB_PREFIX}{assignment.kind}")
    logging.basicConfig(level=logging.INFO, format="[%(asctime)s] [%(levelname)s] (%(name)s) %(message)s")
    logging.captureWarnings(True)
    _yield_to_server(assignment.request)
    report = ProgressSender(connection)
    np.random.seed()  # a fork would draw the same numbers in each job
    try:
        result = assignment.work(assignment.kind, assignment.request, report)
    except (UserError, OSError) as error:
        print(f"samstudent: {explain(error)}", file=sys.stderr, flush=True)
        sys.exit(MISTAKE)
    connection.send(Result(result))


def name_process(name: str) -> None:
    """Set the process' name in ``ps`` and ``top``; Linux only."""
    with contextlib.suppress(OSError):
        Path("/proc/self/comm").write_text(name)


def _yield_to_server(request: dict[str, Any]) -> None:
    """Lower priority, and with three cores or more one stays free; only the GPUs that the request names.

    With fewer cores the priority alone does: measured on two, an answer of the server takes 1.0 ms (median) beside a
    training, with one thread or two.
    """
    with contextlib.suppress(OSError):
        os.nice(10)
    if (cores := os.cpu_count() or 1) > 2:
        torch.set_num_threads(min(torch.get_num_threads(), cores - 1))
    gpus = request.get("gpus") or "all"
    if gpus != "all":
        os.environ["CUDA_VISIBLE_DEVICES"] = str(gpus)
        request["gpus"] = "all"


def _set_signals() -> None:
    # A terminal's Ctrl-C reaches this process, too; the server decides what becomes of it.
    for number in SIGNALS:
        signal.signal(number, _stop if number == signal.SIGTERM else signal.SIG_IGN)


def _stop(number: int, frame: object) -> NoReturn:
    """As ``sys.exit``: files that are half-written are removed, the round is marked as interrupted."""
    sys.exit(128 + number)


def _end_with_server() -> None:
    """End this process and its own when the process that started it has ended.

    The server's jobs would otherwise go on without it; after a restart the same trigger would start a second training.
    """
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        end_now(1)
