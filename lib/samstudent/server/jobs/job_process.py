"""Job process: runs one job with lower priority than the server, sends its progress, and ends with the server.

The server sends the work over a connection; progress and the result are sent back over the same one. Standard output
and error are redirected to a pipe of the server, also those of C libraries.
"""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import signal
import sys
import threading
import traceback
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

#: Picklable function of a job: kind, request and report -> result, a JSON value.
Work = Callable[[str, dict[str, Any], Report], Any]

#: Prefix of a job process's name in ``ps`` and ``top`` (15 characters), followed by the kind of job.
JOB_PREFIX = "sam-"
#: Exit code of a job that failed because of a user's mistake.
USER_ERROR_EXIT = 2

_is_job = False


@dataclass(frozen=True)
class Assignment:
    """Assignment of a job process: ``work`` with this kind and request."""

    work: Work
    kind: str
    request: dict[str, Any]


@dataclass(frozen=True)
class Result:
    """Result of a job, a JSON value."""

    value: Any


@dataclass(frozen=True)
class Failure:
    """Reason of a job that failed, one line."""

    reason: str


class ProgressSender:
    """Report of a job process: sends each event to the server. Thread-safe."""

    def __init__(self, connection: Connection) -> None:
        self._connection, self._lock = connection, threading.Lock()

    def __call__(self, progress: Progress) -> None:
        with self._lock, contextlib.suppress(BrokenPipeError):  # the server has ended, and this process will
            self._connection.send(progress)


def is_job_process() -> bool:
    """Whether this process is a job process."""
    return _is_job


def run_job(connection: Connection, output: Connection) -> None:
    """Main function of a job process.

    Args:
        connection: source of the ``Assignment``, and destination of ``Progress``, and ``Result`` or ``Failure``.
        output: destination of standard output and error.
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
    np.random.seed()  # forks would have the same random state
    try:
        result = assignment.work(assignment.kind, assignment.request, report)
    except (UserError, OSError) as error:
        connection.send(Failure(f"samstudent: {explain(error)}"))
        sys.exit(USER_ERROR_EXIT)
    except Exception as error:
        _print_stack(error)
        connection.send(Failure(f"{type(error).__name__}: {error}"))
        sys.exit(1)
    connection.send(Result(result))


def _print_stack(error: Exception) -> None:
    """Print the traceback of an error without its reason (type and message), which the ``Failure`` contains.

    The traceback of an exception group is complete: its last lines are those of the contained errors.
    """
    lines, reason = traceback.format_exception(error), traceback.format_exception_only(error)
    if lines[-len(reason) :] == reason:
        del lines[-len(reason) :]
    print(*lines, sep="", end="", file=sys.stderr, flush=True)


def name_process(name: str) -> None:
    """Set the name of the process in ``ps`` and ``top``; Linux only."""
    with contextlib.suppress(OSError):
        Path("/proc/self/comm").write_text(name)


def _yield_to_server(request: dict[str, Any]) -> None:
    """Lower the priority, leave one of three or more cores free, and restrict the GPUs to those of the request.

    With fewer cores the priority is sufficient: on two cores a response of the server takes 1.0 ms (median) during a
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
    # A terminal sends Ctrl-C to this process, too; the server stops it.
    for number in SIGNALS:
        signal.signal(number, _stop if number == signal.SIGTERM else signal.SIG_IGN)


def _stop(number: int, frame: object) -> NoReturn:
    """End by ``sys.exit``: incomplete files are removed, and the round is marked as interrupted."""
    sys.exit(128 + number)


def _end_with_server() -> None:
    """End this process and its child processes when its parent has ended.

    Otherwise jobs would continue without the server, and after a restart a second training would be started.
    """
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        end_now(1)
