"""Start methods of jobs: they end with the server, and jobs start after the end of the fork server."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from samstudent.server.jobs import fork_server
from support.live_server import wait_until

pytestmark = [
    pytest.mark.server,
    pytest.mark.skipif(sys.platform != "linux", reason="process names are read from /proc"),
]

#: A server in small: runs the jobs named on its standard input.
SERVER = """
import os, sys, time
from samstudent.server.jobs import fork_server, start_methods
from samstudent.server.jobs.runner import JobRunner

def work(kind, request, report):
    if request["how"] == "sleep":
        print("asleep", flush=True)
        time.sleep(600)
    return int("colorsys" in sys.modules) if request["how"] == "imported" else os.getppid()

if __name__ == "__main__":
    start_methods.PRELOAD_FOR_TRAINING = ("colorsys", "no_such_module")
    by_context = start_methods.by_context
    start_methods.by_context = lambda: by_context(["samstudent.server.jobs.job_process"])
    starts = {"best": start_methods.best_start_method, "context": start_methods.by_context}
    jobs = JobRunner(work, starts[sys.argv[1]]())
    for line in sys.stdin:
        how = line.strip()
        if how == "sleep":
            jobs.start("train", {"how": how})
            while "asleep" not in jobs.running("train")["details"]:
                time.sleep(0.02)
            print(jobs.active("train")[0].pid, flush=True)
        else:
            print(jobs.run("scoring", {"how": how}), flush=True)
"""


class Server:
    """A small server as a process."""

    def __init__(self, how: str, folder: Path) -> None:
        (folder / "server.py").write_text(SERVER)
        self.process = subprocess.Popen(
            [sys.executable, str(folder / "server.py"), how],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def ask(self, what: str) -> int:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(f"{what}\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline())

    def end(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.communicate()


@pytest.mark.parametrize("how", ["best", "context"])
def test_a_job_ends_when_its_server_is_killed(how: str, tmp_path: Path) -> None:
    server = Server(how, tmp_path)
    try:
        job = psutil.Process(server.ask("sleep"))
        assert job.name() == "sam-train"
        server.process.kill()
        server.process.wait()
        wait_until(lambda: not job.is_running() or job.status() == psutil.STATUS_ZOMBIE, 10)
    finally:
        server.end()


@pytest.mark.skipif(not fork_server.is_possible(), reason="here jobs are no forks")
def test_jobs_share_the_imports_of_a_training_and_continue_without_the_fork_server(tmp_path: Path) -> None:
    server = Server("best", tmp_path)
    try:
        assert server.ask("imported") == 0
        server.ask("sleep")
        assert server.ask("imported") == 1
        parent = psutil.Process(server.ask("pid of the parent"))
        assert parent.name() == fork_server.FORK_SERVER_NAME and parent.ppid() == server.process.pid
        parent.kill()
        assert server.ask("pid of the parent") != parent.pid
    finally:
        server.end()
