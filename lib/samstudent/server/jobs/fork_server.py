"""Fork server: a process with all imports done, from which each job process is forked.

Python's ``multiprocessing.forkserver`` would import PyTorch, MONAI and the host again: 10 s of CPU time and 850 MB more
(docs/decisions/0012-jobs-are-forks.md). Here a process is forked from the server after its imports, before it has
threads, locks or an open study. Server, fork server and jobs share the memory.

Only on Linux without a GPU: CUDA cannot be used in the fork of a process that has initialised it.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import logging
import os
import signal
import socket
import sys
import threading
import traceback
from collections.abc import Sequence
from multiprocessing import connection, get_context
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import IO, Any, NoReturn

from samstudent.server.jobs.job_process import name_process, run_job
from samstudent.util.signals import SIGNALS

#: Name in ``ps`` and ``top``, at most 15 characters.
FORK_SERVER_NAME = "sam-forkserver"
GPU_DEVICES = ("/dev/nvidiactl", "/dev/kfd")
#: Requests for a process: of a job that trains, of another job.
_TRAINING, _OTHER = b"t", b"o"


def is_possible() -> bool:
    """Whether job processes can be forked on this machine."""
    return sys.platform == "linux" and not any(Path(device).exists() for device in GPU_DEVICES)


class ForkedProcess:
    """Job process with the part of ``multiprocessing.Process`` that the runner uses.

    Args:
        status: pipe with the process id, and the exit code after the end of the process.

    Raises:
        ConnectionError: the fork server has ended, or could not fork.
    """

    def __init__(self, status: IO[bytes]) -> None:
        line = status.readline()
        if not line:
            status.close()
            raise ConnectionError("the fork server has ended, or could not fork")
        self.pid: int | None = int(line)
        self._status, self._lock = status, threading.Lock()
        self._exitcode: int | None = None

    @property
    def sentinel(self) -> int:
        """File descriptor that is readable when the process has ended."""
        return self._status.fileno()

    @property
    def exitcode(self) -> int | None:
        """Exit code; negative for a signal; None while the process runs."""
        with self._lock:
            if self._exitcode is None and connection.wait([self.sentinel], timeout=0):
                # Empty if the fork server has ended: its jobs end with it.
                self._exitcode = int(self._status.readline() or -signal.SIGKILL)
            return self._exitcode

    def close(self) -> None:
        """Release the resources of a process that has ended."""
        self._status.close()


class ForkServer:
    """Server's side of the fork server. Create it in the main thread, before other threads run and files are locked.

    Modules that the server imports later (``server/deferred_imports.py``) are imported by each job that needs them, but
    for those of ``preload``.

    Args:
        preload: modules that the fork server imports before the first training, for this and all later jobs.
    """

    def __init__(self, preload: Sequence[str] = ()) -> None:
        self._requests, theirs = socket.socketpair()
        self._lock = threading.Lock()
        if os.fork() == 0:
            self._requests.close()
            _serve(theirs, preload)
        theirs.close()

    def __call__(self, kind: str, messages: Connection, output: Connection) -> ForkedProcess:
        """Start a process for one job: ``run_job(messages, output)``.

        Args:
            kind: kind of the job.
            messages: connection for its assignment and its progress.
            output: connection for what it prints.

        Raises:
            OSError: the fork server has ended, or could not fork.
        """
        status, theirs = os.pipe()
        file = os.fdopen(status, "rb", buffering=0)
        try:
            with self._lock:
                request = _TRAINING if kind == "train" else _OTHER
                socket.send_fds(self._requests, [request], [messages.fileno(), output.fileno(), theirs])
        except OSError:
            file.close()
            raise
        finally:
            os.close(theirs)
        return ForkedProcess(file)

    def close(self) -> None:
        """End the fork server, and with it the running jobs."""
        self._requests.close()


# ---- in the fork server ----


def _serve(requests: socket.socket, preload: Sequence[str]) -> NoReturn:
    """Fork a process for each request; end with the server, and with it the jobs."""
    try:
        _leave_server()
        gc.freeze()  # garbage collection would write to, and so copy, the shared memory
        missing = list(preload)
        jobs: dict[Any, tuple[BaseProcess, int]] = {}
        while True:
            for ready in connection.wait([requests, *jobs]):
                if ready is not requests:
                    process, status = jobs.pop(ready)
                    process.join()
                    _write(status, process.exitcode)
                    os.close(status)
                    continue
                request, descriptors, _, _ = socket.recv_fds(requests, 1, 3)
                if not descriptors:
                    os._exit(0)
                if request == _TRAINING and missing:
                    _import(missing)
                    missing = []
                messages, output, status = descriptors
                process = get_context("fork").Process(target=_run, args=(requests, *descriptors))
                try:
                    process.start()
                except OSError:  # no memory; the server notices the closed pipe
                    traceback.print_exc()
                    os.close(status)
                else:
                    jobs[process.sentinel] = process, status
                    _write(status, process.pid)
                os.close(messages)
                os.close(output)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(1)


def _import(modules: Sequence[str]) -> None:
    """Import modules into the shared memory; those that cannot be imported are left to the jobs, which report it."""
    for module in modules:
        with contextlib.suppress(ImportError):
            importlib.import_module(module)
    gc.freeze()


def _run(requests: socket.socket, messages: int, output: int, status: int) -> None:
    requests.close()
    os.close(status)
    run_job(Connection(messages), Connection(output))


def _write(status: int, number: int | None) -> None:
    with contextlib.suppress(BrokenPipeError):  # the server has closed the pipe
        os.write(status, f"{number}\n".encode())


def _leave_server() -> None:
    """Separate name, signal handlers and log handlers of this process from the server's."""
    name_process(FORK_SERVER_NAME)
    signal.set_wakeup_fd(-1)
    for number in SIGNALS:  # the server gets them, too, and this process ends with it
        signal.signal(number, signal.SIG_IGN)
    logging.getLogger().handlers.clear()  # the server writes the output of jobs to its log
