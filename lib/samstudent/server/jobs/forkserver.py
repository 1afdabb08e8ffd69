"""Jobs of the host start as forks of a process that has everything imported.

The host starts an interpreter for each training, scoring and batch inference, which imports 6,500 modules before it
works: some 14 s of a processor for each label that is saved. Here a process is forked from the server once its imports
are done and nothing else is begun: no thread of ours, no lock, no open study. For each job it forks again, and the fork
does what the host's command line says. Python's own ``multiprocessing.forkserver`` would import everything once more
and hold it twice; here server, fork server and jobs share the memory.

Only on Linux, and only without a GPU: CUDA cannot be used in the fork of a process that has asked for it.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import traceback
from collections.abc import Mapping, Sequence
from multiprocessing import connection, get_context
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import SimpleNamespace
from typing import IO, Any, NoReturn

import numpy as np
from monailabel.config import Settings, settings
from monailabel.utils.async_tasks import utils as host_jobs

from samstudent.server.jobs.processes import HOST_MODULE, SERVER
from samstudent.util.signals import SIGNALS

logger = logging.getLogger(__name__)

#: In ``ps`` and ``top``, of which 15 characters are shown; a job's kind follows its prefix.
SERVER_NAME, JOB_PREFIX = "sam-forkserver", "sam-"
#: What the host sets for one job. Anything else that differs from the server's may have been read before the fork.
FOR_ONE_JOB = frozenset({"MONAI_LABEL_DATASTORE_AUTO_RELOAD", "MASTER_ADDR", "MASTER_PORT"})
GPU_DEVICES = ("/dev/nvidiactl", "/dev/kfd")
PR_SET_NAME = 15


def is_possible() -> bool:
    """Whether jobs can be forks on this machine."""
    return sys.platform == "linux" and not any(Path(device).exists() for device in GPU_DEVICES)


class ForkedJob:
    """A running job; what the host and ``children.end_all`` use of ``subprocess.Popen``.

    Args:
        status: tells the process id, and the exit code when the job has ended.
        output: the job's standard output and error.

    Raises:
        ConnectionError: the fork server has ended, or could not fork.
    """

    def __init__(self, status: IO[bytes], output: IO[str]) -> None:
        self.stdout = output
        self.returncode: int | None = None
        self._status, self._turn = status, threading.Lock()
        told = status.readline()
        if not told:
            raise ConnectionError("the fork server has ended, or could not fork")
        self.pid = int(told)

    def poll(self) -> int | None:
        """The exit code, as in ``subprocess``: negative for a signal, None while the job runs."""
        with self._turn:
            if self.returncode is None and connection.wait([self._status.fileno()], timeout=0):
                # Nothing is told where the fork server has ended, which kills its jobs.
                self.returncode = int(self._status.readline() or -signal.SIGKILL)
                self._status.close()
            return self.returncode

    def kill(self) -> None:
        if self.poll() is None:
            os.kill(self.pid, signal.SIGKILL)


class ForkServer:
    """The server's side. To be made in the main thread, before other threads run and files are locked."""

    def __init__(self) -> None:
        self._requests, theirs = socket.socketpair()
        self._turn = threading.Lock()
        if os.fork() == 0:
            self._requests.close()
            _serve(theirs)
        theirs.close()

    def start(self, command: Sequence[str], environment: Mapping[str, str]) -> ForkedJob:
        """Start a job.

        Args:
            command: the host's, from the interpreter on.
            environment: the job's.

        Raises:
            OSError: the fork server has ended, or could not fork.
        """
        (request, ask), (output, print_to), (status, tell) = os.pipe(), os.pipe(), os.pipe()
        with contextlib.ExitStack() as until_it_runs:
            said = until_it_runs.enter_context(os.fdopen(output, encoding="utf-8", errors="replace"))
            told = until_it_runs.enter_context(os.fdopen(status, "rb", buffering=0))
            with os.fdopen(ask, "w") as file:
                try:
                    with self._turn:
                        socket.send_fds(self._requests, [b"j"], [request, print_to, tell])
                finally:
                    for descriptor in (request, print_to, tell):
                        os.close(descriptor)
                json.dump([list(command[3:]), dict(environment)], file)
            job = ForkedJob(told, said)
            until_it_runs.pop_all()
            return job

    def popen(self, command: Sequence[str], **options: Any) -> ForkedJob | subprocess.Popen[str]:
        """In the place of ``subprocess.Popen`` in the host's starter of jobs. Where no fork is possible, that one."""
        environment = options.get("env") or os.environ
        fixed = [{k: v for k, v in e.items() if k not in FOR_ONE_JOB} for e in (environment, os.environ)]
        if list(command[1:3]) == ["-m", HOST_MODULE] and fixed[0] == fixed[1]:
            try:
                return self.start(command, environment)
            except OSError as error:
                logger.warning("a job starts as a new interpreter, since the fork server cannot be used: %s", error)
        return subprocess.Popen(list(command), **options)

    def install(self) -> None:
        """From now on the host's jobs start here."""
        host_jobs.subprocess = SimpleNamespace(Popen=self.popen, PIPE=subprocess.PIPE, STDOUT=subprocess.STDOUT)


# ---- the fork server's side ----


def _serve(requests: socket.socket) -> NoReturn:
    """Fork a job for each request until the server is gone; then end, and the jobs with it (``children.settle``)."""
    try:
        _forget_the_server()
        gc.freeze()  # the collector would otherwise touch, and so copy, what the forks share
        jobs: dict[Any, tuple[BaseProcess, int]] = {}
        while True:
            for ready in connection.wait([requests, *jobs]):
                if ready is not requests:
                    process, status = jobs.pop(ready)
                    process.join()
                    _tell(status, process.exitcode)
                    os.close(status)
                    continue
                _, descriptors, _, _ = socket.recv_fds(requests, 1, 3)
                if not descriptors:
                    os._exit(0)
                request, output, status = descriptors
                process = get_context("fork").Process(target=_work, args=(requests, *descriptors, os.getpid()))
                try:
                    process.start()
                except OSError:  # no memory for one more; the server hears of it by the closed pipe
                    traceback.print_exc()
                    os.close(status)
                else:
                    jobs[process.sentinel] = process, status
                    _tell(status, process.pid)
                os.close(request)
                os.close(output)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(1)


def _tell(status: int, number: int | None) -> None:
    with contextlib.suppress(BrokenPipeError):  # the server does not listen any more
        os.write(status, f"{number}\n".encode())


def _forget_the_server() -> None:
    """Name, signals and log lines are this process' own from now on."""
    _name(SERVER_NAME)
    signal.set_wakeup_fd(-1)
    for number in SIGNALS:  # Ctrl-C reaches the server, too, whose end is this one's
        signal.signal(number, signal.SIG_DFL if number == signal.SIGTERM else signal.SIG_IGN)
    logging.getLogger().handlers.clear()  # a job's lines go to the server, which writes them into its files


def _name(name: str) -> None:
    ctypes.CDLL(None).prctl(PR_SET_NAME, name.encode())


# ---- the job's side ----


def _work(requests: socket.socket, request: int, output: int, status: int, parent: int) -> None:
    """What ``python -m monailabel.interfaces.utils.app ARGUMENTS`` does."""
    requests.close()
    os.close(status)
    for standard in (1, 2):
        os.dup2(output, standard)
    os.close(output)
    with os.fdopen(request) as file:
        arguments, environment = json.load(file)
    _name(JOB_PREFIX + arguments[1])
    os.environ.clear()
    os.environ.update(environment)
    os.environ[SERVER] = str(parent)
    settings.MONAI_LABEL_DATASTORE_AUTO_RELOAD = Settings().MONAI_LABEL_DATASTORE_AUTO_RELOAD
    np.random.seed()  # not the same numbers in each job
    host = importlib.import_module(HOST_MODULE)
    sys.modules["__main__"] = host
    sys.argv = [str(host.__file__), *arguments]
    host.run_main()
