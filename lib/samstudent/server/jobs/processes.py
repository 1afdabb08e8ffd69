"""The host's child processes (training, batch inference, scoring): polite to the server, gone when it is gone."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import json
import logging
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any, NoReturn

import psutil
from monailabel.utils.async_tasks import utils as host_jobs
from monailabel.utils.async_tasks.task import AsyncTask
from monailabel.utils.async_tasks.utils import (
    background_processes,
    background_tasks,
    processes,
)

from samstudent.errors import Conflict, UserError
from samstudent.util.files import atomic_write
from samstudent.util.signals import SIGNALS

logger = logging.getLogger(__name__)

#: What the host starts its child processes with: ``python -m``.
HOST_MODULE = "monailabel.interfaces.utils.app"
#: What the host runs in child processes.
METHODS = ("train", "batch_infer", "scoring")
#: A job's status while it waits or runs.
ACTIVE = ("SUBMITTED", "RUNNING")
#: Jobs that the host remembers; it forgets none, and each holds its request and twenty lines.
MOST_REMEMBERED = 50
#: In a job's request: the file that its child writes the result to, for whoever waits for it.
ANSWER = "_answer_file"
#: In the environment of a server's children: the server's process id.
SERVER = "SAMSTUDENT_SERVER_PID"
PR_SET_PDEATHSIG = 1
#: Of a request, where the host passes it on a command line: Linux takes arguments of 128 KiB, the host adds keys.
MAX_REQUEST = 120 << 10


class TooLong(UserError):
    """More than a job's command line takes (HTTP 413)."""

    status = 413


def is_child() -> bool:
    """Whether this process was started by the host's server to do one job."""
    spec = getattr(sys.modules.get("__main__"), "__spec__", None)
    return spec is not None and spec.name == HOST_MODULE


def announce_server() -> None:
    """Called in the server, before it starts a child: tells its children whose they are."""
    os.environ[SERVER] = str(os.getpid())


def settle() -> None:
    """Called in a child: lower priority, and an end with the server.

    The host leaves a training running when the server ends; after a restart the same trigger would start a second one
    beside it. Linux only; elsewhere, and for jobs that no server started, the process runs to its end.
    """
    with contextlib.suppress(OSError):
        os.nice(10)
    if threading.current_thread() is threading.main_thread():
        # A terminal's Ctrl-C reaches this process, too; the server decides what becomes of it.
        for number in SIGNALS:
            signal.signal(number, _stop if number == signal.SIGTERM else signal.SIG_IGN)
    server = os.environ.get(SERVER)
    if sys.platform == "linux" and server is not None:
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        # The kernel tells of deaths from now on. Importing torch took seconds, in which the server may have ended: then
        # the parent is another already, so who is there now cannot be the measure.
        if os.getppid() != int(server):
            print("samstudent: the server that started this job has ended", file=sys.stderr, flush=True)
            os.kill(os.getpid(), signal.SIGKILL)


def _stop(number: int, frame: object) -> NoReturn:
    """As ``sys.exit``: files that are half-written are removed, the round is marked as interrupted."""
    sys.exit(128 + number)


def is_busy(*methods: str) -> bool:
    """Whether a job of these kinds runs or waits in this server."""
    tasks = [task for method in methods for task in background_tasks.get(method, [])]
    return any(task["status"] in ACTIVE for task in tasks)


# ---- how the server ends them ----

_ending = threading.Event()


def end_all(deadline: float) -> None:
    """End all children, and let none that waits begin; for the server's end.

    Args:
        deadline: until then (``time.monotonic``) a job may put things in order (``settle``); then it is killed.
    """
    _ending.set()
    for method in METHODS:
        logging.getLogger(f"task_{method}").disabled = True  # what a job says of its end is of no use to anybody
    jobs = [process for method in METHODS for process in list(processes(method).values())]
    trees = [tree for job in jobs if (tree := _tree(job.pid))]
    for job, *_ in trees:
        with contextlib.suppress(psutil.Error):
            job.terminate()
    everybody = [process for tree in trees for process in tree]
    _, alive = psutil.wait_procs(everybody, max(0.0, deadline - time.monotonic()))
    for process in alive:
        with contextlib.suppress(psutil.Error):
            process.kill()
    psutil.wait_procs(alive, 0.5)


def _tree(pid: int) -> list[psutil.Process]:
    """The process and all that it started."""
    try:
        process = psutil.Process(pid)
        return [process, *process.children(recursive=True)]
    except psutil.Error:
        return []


# ---- how the server starts jobs ----

_starting = threading.Lock()


def one_job_at_a_time() -> None:
    """Mend how the host starts jobs: requests are worked on in threads (``server/api/threads.py``). Idempotent.

    - Two requests at once must not start two jobs: the host looks only for a process, which comes later.
    - ``run_sync=true`` waits for a child, too. The host would work in the server's own process, unseen by the rule
      that one training runs at a time, and with its memory.
    - Old jobs are forgotten.
    - A request that is too long for a command line is refused, where one is needed.
    - A job that cannot be started has failed. The host's stays "SUBMITTED", and no other of its kind is ever started.
    """
    if not hasattr(host_jobs._task_func, "_of_host"):
        host_jobs._task_func = _failing(host_jobs._task_func)
    if not hasattr(AsyncTask.run, "_of_host"):
        AsyncTask.run = staticmethod(_started(AsyncTask.run))


def _failing(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def work(task: dict[str, Any], method: str, callback: Any = None) -> None:
        if _ending.is_set():
            task["status"] = "STOPPED"
            return
        try:
            original(task, method, callback)
        except Exception as error:
            logger.exception("job %s of %s ended before it began, or was lost", task["id"], method)
            background_processes[method].pop(task["id"], None)
            task["details"] = [*task.get("details", ()), f"it could not be done: {error}"]
            task["end_ts"] = datetime.now().strftime("%Y-%m-%d %H:%M:%S")
            task["status"] = "ERROR"

    work._of_host = original  # type: ignore[attr-defined]
    return work


def _started(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def run(
        method: str, request: Any = None, params: Any = None, force_sync: bool = False, enqueue: bool = False
    ) -> tuple[Any, str | None]:
        if _ending.is_set():
            return None, "the server is being stopped"
        _check_length(request, params)
        with contextlib.ExitStack() as stack:
            with _starting:
                if not enqueue and is_busy(method):
                    return None, f"a job of this kind ({method}) runs or waits already"
                if force_sync:
                    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="samstudent-job-")))
                    params = {**(params or {}), ANSWER: str(folder / "answer.json")}
                task, told = original(method, request, params, False, enqueue)
                _forget_old(method)
            return (_result_of(task, method, folder / "answer.json"), None) if force_sync else (task, told)

    run._of_host = original  # type: ignore[attr-defined]
    return run


def _check_length(*parts: Any) -> None:
    """A fork (``jobs/forkserver.py``) takes a request of any length; it stands in for the host's ``subprocess``."""
    if host_jobs.subprocess is subprocess and (length := len(json.dumps(parts))) > MAX_REQUEST:
        raise TooLong(f"the request has {length} bytes; a job on this machine takes {MAX_REQUEST}: name fewer cases")


def answer(request: dict[str, Any], work: Callable[[dict[str, Any]], Any]) -> Any:
    """In a child: do the job, and leave its result for a waiting server."""
    file = request.pop(ANSWER, None)
    result = work(request)
    if file is not None:
        atomic_write(Path(file), json.dumps(result))
    return result


def _result_of(task: dict[str, Any], method: str, file: Path) -> Any:
    while task["status"] in ACTIVE:
        time.sleep(0.2)
    if task["status"] != "DONE":
        lines = list(task.get("details", ()))
        raise Conflict(f"{method} ended with {task['status']}: {lines[-1] if lines else 'the log has the details'}")
    return json.loads(file.read_bytes())


def _forget_old(method: str) -> None:
    jobs = background_tasks.get(method, [])
    ended = [job for job in jobs if job["status"] not in ACTIVE]
    for job in ended[: max(0, len(jobs) - MOST_REMEMBERED)]:
        jobs.remove(job)
