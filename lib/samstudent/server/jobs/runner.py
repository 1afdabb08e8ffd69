"""Runner of the server's jobs: separate processes, one job of each kind at a time, further ones in a queue."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait
from typing import Any, Protocol

import psutil

from samstudent.errors import Conflict, NotFound
from samstudent.server.jobs.job import KINDS, Job, JobRunning, Status
from samstudent.server.jobs.job_process import Assignment, Failure, Result, Work
from samstudent.util.processes import process_family
from samstudent.util.progress import Progress

logger = logging.getLogger(__name__)

#: Largest number of jobs of a kind in the list, each with its request and last lines.
MOST_REMEMBERED = 50
#: Longest wait for the end of killed processes, seconds.
KILLED_WITHIN = 0.5


class JobProcess(Protocol):
    """Running process of a job; ``multiprocessing.Process`` is one."""

    @property
    def pid(self) -> int | None: ...

    @property
    def sentinel(self) -> int: ...

    @property
    def exitcode(self) -> int | None: ...

    def close(self) -> None: ...


#: Function that starts a process with ``job_process.run_job`` for a kind of job and both connections; raises OSError.
StartProcess = Callable[[str, Connection, Connection], JobProcess]


class JobRunner:
    """Jobs of one server.

    Args:
        work: function of a job process.
        start_process: start of a job process (``start_methods``).
    """

    def __init__(self, work: Work, start_process: StartProcess) -> None:
        self._work, self._start_process = work, start_process
        self._jobs: dict[str, list[Job]] = {kind: [] for kind in KINDS}
        self._waiting: dict[str, deque[Job]] = {kind: deque() for kind in KINDS}
        #: Kinds with a thread that runs the waiting jobs.
        self._working: set[str] = set()
        self._lock = threading.Lock()
        self._is_ending = False

    # ---- for endpoints and schedule ----

    def start(self, kind: str, request: dict[str, Any], enqueue: bool = False) -> dict[str, Any]:
        """Start a job, or put it into the queue.

        Args:
            kind: one of ``KINDS``.
            request: request of the host's task; JSON values.
            enqueue: whether to wait for another job of the kind; False: refuse the job.

        Returns:
            The job as JSON.

        Raises:
            JobRunning: another job is running or waiting, and ``enqueue`` is false.
        """
        return self._submit(kind, request, enqueue).as_json()

    def run(self, kind: str, request: dict[str, Any], enqueue: bool = False) -> Any:
        """Start a job, wait for its end and return its result, a JSON value. Arguments as of ``start``.

        Raises:
            JobRunning: see ``start``. Conflict: the job failed or was stopped.
        """
        job = self._submit(kind, request, enqueue)
        job.ended.wait()
        if job.status is not Status.DONE:
            raise Conflict(f"{kind} ended with {job.status.value}: {job.details[-1]}")
        return job.result

    def jobs(self, kind: str) -> list[dict[str, Any]]:
        """Jobs of a kind as JSON, the latest last.

        Raises:
            NotFound: there is none.
        """
        with self._lock:
            found = list(self._jobs[kind])
        if not found:
            raise NotFound(f"no job of this kind ({kind}) was started yet")
        return [job.as_json() for job in found]

    def running(self, kind: str) -> dict[str, Any]:
        """First running or waiting job of a kind, as JSON.

        Raises:
            NotFound: there is none.
        """
        for job in self.active(kind):
            return job.as_json()
        raise NotFound(f"no job of this kind ({kind}) is running at the moment")

    def active(self, *kinds: str) -> list[Job]:
        """Running and waiting jobs of these kinds (default: all), in the order of submission."""
        with self._lock:
            return [job for kind in kinds or KINDS for job in self._jobs[kind] if job.is_active]

    def is_busy(self, *kinds: str) -> bool:
        """Whether a job of these kinds (default: all) is running or waiting."""
        return bool(self.active(*kinds))

    def stop(self, kind: str) -> dict[str, Any] | None:
        """Kill the running job of a kind, or cancel the first waiting one; None if there is neither.

        Further waiting jobs are run.
        """
        with self._lock:
            job = next((job for job in self._jobs[kind] if job.is_active), None)
            if job is None:
                return None
            job.end(Status.STOPPED, "stopped on request")
        if job.pid is not None:
            _kill(process_family(job.pid))  # otherwise its thread kills the process after its start
        return job.as_json()

    def end_all(self, deadline: float) -> None:
        """Stop all jobs, and cancel waiting ones; for the shutdown of the server.

        Args:
            deadline: time (``time.monotonic``) until which a job may handle SIGTERM; then it is killed.
        """
        with self._lock:
            self._is_ending = True
        running = self.active()
        for job in running:
            job.end(Status.STOPPED, "the server was stopped")
        trees = [tree for job in running if job.pid is not None and (tree := process_family(job.pid))]
        roots = [root for root, *_ in trees]
        for root in roots:
            with contextlib.suppress(psutil.Error):
                root.terminate()
        psutil.wait_procs(roots, max(0.0, deadline - time.monotonic()))
        _kill([process for tree in trees for process in tree])

    # ---- one thread for each kind with jobs ----

    def _submit(self, kind: str, request: dict[str, Any], enqueue: bool) -> Job:
        with self._lock:
            if self._is_ending:
                raise JobRunning("the server is being stopped")
            known = self._jobs[kind]
            if not enqueue and any(job.is_active for job in known):
                raise JobRunning(f"a job of this kind ({kind}) is already running or waiting")
            job = Job(kind, dict(request))
            ended = [job for job in known if not job.is_active]
            for old in ended[: max(0, len(known) + 1 - MOST_REMEMBERED)]:
                known.remove(old)
            known.append(job)
            self._waiting[kind].append(job)
            if kind not in self._working:
                self._working.add(kind)
                # A daemon: the shutdown must not wait for the queue.
                threading.Thread(target=self._work_through, args=(kind,), name=f"jobs: {kind}", daemon=True).start()
        logger.info("%s %s: %s", kind, job.id, request)
        return job

    def _work_through(self, kind: str) -> None:
        """Run the waiting jobs one after the other."""
        while True:
            with self._lock:
                if not self._waiting[kind]:
                    self._working.discard(kind)
                    return
                job = self._waiting[kind].popleft()
            try:
                self._run(job)
            except Exception as error:
                logger.exception("%s %s failed", kind, job.id)
                job.end(Status.ERROR, f"the job could not be run: {error}")

    def _run(self, job: Job) -> None:
        if not job.begin():
            return
        messages, theirs = Pipe()
        output, printed = Pipe(duplex=False)
        with messages, output:
            with theirs, printed:
                process = self._start_process(job.kind, theirs, printed)
            try:
                job.pid = process.pid
                with contextlib.suppress(BrokenPipeError):  # the process has ended
                    messages.send(Assignment(self._work, job.kind, job.request))
                if job.is_active:  # otherwise it was stopped during the start of its process
                    failure = _follow(job, messages, output, process)
                    _conclude(job, process.exitcode, failure)
            finally:
                if process.exitcode is None and process.pid is not None:
                    _kill(process_family(process.pid))
                    wait([process.sentinel], KILLED_WITHIN)
                process.close()


def _follow(job: Job, messages: Connection, output: Connection, process: JobProcess) -> Failure | None:
    """Receive messages and output of a job until its process has ended and all is read.

    Returns:
        The reason of a failure, if the process sent one. It is not a line of output, because the order of lines and
        events, which come over two connections, is not exact.
    """
    log = logging.getLogger(f"task_{job.kind}")
    failure: Failure | None = None
    sources: list[Any] = [messages, output, process.sentinel]
    rest = b""
    while (ready := wait(sources)) != [process.sentinel]:
        if messages in ready:
            try:
                message = messages.recv()
            except (EOFError, OSError):
                sources.remove(messages)
            else:
                failure = message if isinstance(message, Failure) else failure
                _receive(job, message, log)
        if output in ready:
            if not (read := os.read(output.fileno(), 1 << 16)):
                sources.remove(output)
            *lines, rest = (rest + read).split(b"\n")
            for line in lines:
                _receive(job, line.decode(errors="replace").rstrip(), log)
    _receive(job, rest.decode(errors="replace").rstrip(), log)
    return failure


def _receive(job: Job, message: Progress | Result | Failure | str, log: logging.Logger) -> None:
    """Store an event, the result or a line of output; events and lines after a stop are dropped."""
    if isinstance(message, Result):
        job.result = message.value
    elif isinstance(message, Failure):
        log.error("%s", message.reason)
    elif message and job.is_active:
        log.info("%s", message)
        if isinstance(message, Progress):
            job.add_progress(message)
        else:
            job.add_line(message)


def _conclude(job: Job, exitcode: int | None, failure: Failure | None) -> None:
    if exitcode == 0:
        job.end(Status.DONE)
    elif exitcode is not None and exitcode < 0:
        name = signal.Signals(-exitcode).name
        memory = "; a likely reason is a lack of memory" if -exitcode == signal.SIGKILL else ""
        job.end(Status.ERROR, f"the job's process was ended by signal {-exitcode} ({name}){memory}")
    else:
        job.end(Status.ERROR, None if failure is None else failure.reason)


def _kill(processes: list[psutil.Process]) -> None:
    for process in processes:
        with contextlib.suppress(psutil.Error):
            process.kill()
    psutil.wait_procs(processes, KILLED_WITHIN)
