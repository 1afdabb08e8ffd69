"""Runner of the server's jobs: each in a process of its own, one of a kind at a time, others wait in order."""

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
from samstudent.server.jobs.job_process import Assignment, Result, Work
from samstudent.util.processes import process_family
from samstudent.util.progress import Progress

logger = logging.getLogger(__name__)

#: Jobs of a kind that are remembered, each with its request and its last lines.
MOST_REMEMBERED = 50
#: Seconds that killed processes get to be gone.
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


#: Starts a process that calls ``job_process.run_job`` with both connections; raises OSError where it cannot.
StartProcess = Callable[[Connection, Connection], JobProcess]


class JobRunner:
    """Jobs of one server.

    Args:
        work: what a job's process does.
        start_process: how it is started (``start_methods``).
    """

    def __init__(self, work: Work, start_process: StartProcess) -> None:
        self._work, self._start_process = work, start_process
        self._jobs: dict[str, list[Job]] = {kind: [] for kind in KINDS}
        self._waiting: dict[str, deque[Job]] = {kind: deque() for kind in KINDS}
        #: Kinds whose thread works through what waits.
        self._working: set[str] = set()
        self._lock = threading.Lock()
        self._is_ending = False

    # ---- what the endpoints and the schedule call ----

    def start(self, kind: str, request: dict[str, Any], enqueue: bool = False) -> dict[str, Any]:
        """Start a job, or have it wait for the one that runs.

        Args:
            kind: one of ``KINDS``.
            request: as the host's tasks take it; plain values.
            enqueue: wait where another job of the kind runs, instead of being refused.

        Returns:
            The job as JSON.

        Raises:
            JobRunning: another runs or waits, and ``enqueue`` is false.
        """
        return self._submit(kind, request, enqueue).as_json()

    def run(self, kind: str, request: dict[str, Any], enqueue: bool = False) -> Any:
        """Start a job, wait for its end and return its result, a JSON value. Arguments as of ``start``.

        Raises:
            JobRunning: another runs or waits, and ``enqueue`` is false. Conflict: the job failed or was stopped.
        """
        job = self._submit(kind, request, enqueue)
        job.ended.wait()
        if job.status is not Status.DONE:
            raise Conflict(f"{kind} ended with {job.status.value}: {job.details[-1]}")
        return job.result

    def jobs(self, kind: str) -> list[dict[str, Any]]:
        """Jobs of a kind as JSON, the last one at the end.

        Raises:
            NotFound: there is none yet.
        """
        with self._lock:
            found = list(self._jobs[kind])
        if not found:
            raise NotFound(f"no job of this kind ({kind}) was started yet")
        return [job.as_json() for job in found]

    def running(self, kind: str) -> dict[str, Any]:
        """The job of a kind that runs, or is about to, as JSON.

        Raises:
            NotFound: none does.
        """
        for job in self.active(kind):
            return job.as_json()
        raise NotFound(f"no job of this kind ({kind}) is running at the moment")

    def active(self, *kinds: str) -> list[Job]:
        """Jobs of these kinds (none: all) that run or wait, in the order in which they were submitted."""
        with self._lock:
            return [job for kind in kinds or KINDS for job in self._jobs[kind] if job.is_active]

    def is_busy(self, *kinds: str) -> bool:
        """Whether a job of these kinds (none: all) runs or waits."""
        return bool(self.active(*kinds))

    def stop(self, kind: str) -> dict[str, Any] | None:
        """Kill the job of a kind that runs, or else take back the first that waits; None where there is neither.

        Jobs behind it go on.
        """
        with self._lock:
            job = next((job for job in self._jobs[kind] if job.is_active), None)
            if job is None:
                return None
            job.end(Status.STOPPED, "stopped on request")
        if job.pid is not None:
            _kill(process_family(job.pid))  # else its thread does, as soon as the process is there
        return job.as_json()

    def end_all(self, deadline: float) -> None:
        """End all jobs, and let none that waits begin; for the server's end.

        Args:
            deadline: until then (``time.monotonic``) a job may put things in order (SIGTERM); then it is killed.
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
                raise JobRunning(f"a job of this kind ({kind}) runs or waits already")
            job = Job(kind, dict(request))
            ended = [job for job in known if not job.is_active]
            for old in ended[: max(0, len(known) + 1 - MOST_REMEMBERED)]:
                known.remove(old)
            known.append(job)
            self._waiting[kind].append(job)
            if kind not in self._working:
                self._working.add(kind)
                # A daemon: the server's end does not wait for what is in the queue.
                threading.Thread(target=self._work_through, args=(kind,), name=f"jobs: {kind}", daemon=True).start()
        logger.info("%s %s: %s", kind, job.id, request)
        return job

    def _work_through(self, kind: str) -> None:
        """Run what waits, one after the other, until nothing does."""
        while True:
            with self._lock:
                if not self._waiting[kind]:
                    self._working.discard(kind)
                    return
                job = self._waiting[kind].popleft()
            try:
                self._run(job)
            except Exception as error:
                logger.exception("%s %s was lost", kind, job.id)
                job.end(Status.ERROR, f"the job could not be run: {error}")

    def _run(self, job: Job) -> None:
        if not job.begin():
            return
        messages, theirs = Pipe()
        output, printed = Pipe(duplex=False)
        with messages, output:
            with theirs, printed:
                process = self._start_process(theirs, printed)
            try:
                job.pid = process.pid
                with contextlib.suppress(BrokenPipeError):  # it has ended already
                    messages.send(Assignment(self._work, job.kind, job.request))
                if job.is_active:  # else it was stopped while its process was started
                    _follow(job, messages, output, process)
                    _conclude(job, process.exitcode)
            finally:
                if process.exitcode is None and process.pid is not None:
                    _kill(process_family(process.pid))
                    wait([process.sentinel], KILLED_WITHIN)
                process.close()


def _follow(job: Job, messages: Connection, output: Connection, process: JobProcess) -> None:
    """Take what a job says until its process has ended and all of it is read."""
    log = logging.getLogger(f"task_{job.kind}")
    sources: list[Any] = [messages, output, process.sentinel]
    rest = b""
    while (ready := wait(sources)) != [process.sentinel]:
        if messages in ready:
            try:
                _take(job, messages.recv(), log)
            except (EOFError, OSError):
                sources.remove(messages)
        if output in ready:
            if not (read := os.read(output.fileno(), 1 << 16)):
                sources.remove(output)
            *lines, rest = (rest + read).split(b"\n")
            for line in lines:
                _take(job, line.decode(errors="replace").rstrip(), log)
    _take(job, rest.decode(errors="replace").rstrip(), log)


def _take(job: Job, message: Progress | Result | str, log: logging.Logger) -> None:
    """Keep an event, the result or a line of output; what comes after a stop is of no use to anybody."""
    if isinstance(message, Result):
        job.result = message.value
    elif message and job.is_active:
        log.info("%s", message)
        if isinstance(message, Progress):
            job.add_progress(message)
        else:
            job.add_line(message)


def _conclude(job: Job, exitcode: int | None) -> None:
    if exitcode == 0:
        job.end(Status.DONE)
    elif exitcode is not None and exitcode < 0:
        name = signal.Signals(-exitcode).name
        memory = "; the system does this where memory runs out" if -exitcode == signal.SIGKILL else ""
        job.end(Status.ERROR, f"the job's process was ended by signal {-exitcode} ({name}){memory}")
    else:
        job.end(Status.ERROR)


def _kill(processes: list[psutil.Process]) -> None:
    for process in processes:
        with contextlib.suppress(psutil.Error):
            process.kill()
    psutil.wait_procs(processes, KILLED_WITHIN)
