"""The host's child processes (training, batch inference, scoring): polite to the server, gone when it is gone."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys

from monailabel.utils.async_tasks.utils import background_tasks, processes, stop_background_task

#: What the host runs in child processes.
METHODS = ("train", "batch_infer", "scoring")
#: In the environment of a server's children: the server's process id.
SERVER = "SAMSTUDENT_SERVER_PID"
PR_SET_PDEATHSIG = 1


def share_cores() -> None:
    """Let threads that wait for others sleep instead of spin; to be called before torch is imported, or for children.

    Several processes with as many threads as cores otherwise burn the time slices that the others need: with three of
    them on two cores a training step took ten seconds instead of a half.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def is_child() -> bool:
    """Whether this process was started by the host's server to do one job."""
    spec = getattr(sys.modules.get("__main__"), "__spec__", None)
    return spec is not None and spec.name == "monailabel.interfaces.utils.app"


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
    server = os.environ.get(SERVER)
    if sys.platform == "linux" and server is not None:
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        # The kernel tells of deaths from now on. Importing torch took seconds, in which the server may have ended: then
        # the parent is another already, so who is there now cannot be the measure.
        if os.getppid() != int(server):
            print("samstudent: the server that started this job has ended", file=sys.stderr, flush=True)
            os.kill(os.getpid(), signal.SIGKILL)


def is_busy(*methods: str) -> bool:
    """Whether a job of these kinds runs or waits in this server."""
    tasks = [task for method in methods for task in background_tasks.get(method, [])]
    return any(task["status"] in ("SUBMITTED", "RUNNING") for task in tasks)


def stop_all() -> None:
    """Kill all children and their children; for the server's end."""
    for method in METHODS:
        while processes(method):
            stop_background_task(method)
