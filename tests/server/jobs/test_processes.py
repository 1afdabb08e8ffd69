"""Children of the server end with it, whenever that is."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
from monailabel.utils.async_tasks import utils as host_jobs
from monailabel.utils.async_tasks.task import AsyncTask

from samstudent.server.jobs import processes
from samstudent.server.jobs.processes import SERVER

#: A server that starts a child, tells of it, and waits to be killed. The child waits for a line before it settles, as
#: it would for its imports, and then for the end of its input.
PARENT = """
import subprocess, sys, time
from samstudent.server.jobs import processes
if sys.argv[1] == "announced":
    processes.announce_server()
process = subprocess.Popen([sys.executable, "-c", sys.argv[2]])
time.sleep(600)
"""
CHILD = """
import os, sys
print(os.getpid(), flush=True)
sys.stdin.readline()
from samstudent.server.jobs import processes
processes.settle()
print("settled", flush=True)
sys.stdin.read()
print("came to its own end", flush=True)
"""

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="other systems let the orphan run to its end")


class Family:
    """Parent and child with one standard input and output: the output ends when both have ended."""

    def __init__(self, announced: bool = True) -> None:
        command = [sys.executable, "-c", PARENT, "announced" if announced else "", CHILD]
        environment = {key: value for key, value in os.environ.items() if key != SERVER}
        self.parent = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment, start_new_session=True
        )
        assert self.parent.stdin is not None and self.parent.stdout is not None
        self.stdin, self.stdout = self.parent.stdin, self.parent.stdout
        self.child = int(self.stdout.readline())

    def kill_parent(self) -> None:
        """Returns when it is dead, and its child another's."""
        self.parent.kill()
        self.parent.wait()

    def let_child_settle(self) -> None:
        self.stdin.write("\n")
        self.stdin.flush()

    def end(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.parent.pid, signal.SIGKILL)
        self.parent.wait()
        self.stdout.close()


@pytest.fixture(params=[True])
def family(request: pytest.FixtureRequest) -> Iterator[Family]:
    made = Family(request.param)
    yield made
    made.end()


def test_a_child_whose_server_died_before_it_settled_ends(family: Family) -> None:
    family.kill_parent()
    family.let_child_settle()
    family.stdin.close()
    assert family.stdout.read() == ""


def test_a_child_that_settled_ends_when_the_server_dies(family: Family) -> None:
    family.let_child_settle()
    assert family.stdout.readline() == "settled\n"
    family.kill_parent()
    family.stdin.close()
    assert family.stdout.read() == ""


def test_a_child_whose_server_lives_works_to_its_end(family: Family) -> None:
    family.let_child_settle()
    assert family.stdout.readline() == "settled\n"
    family.stdin.close()
    assert family.stdout.readline() == "came to its own end\n"


@pytest.mark.parametrize("family", [False], indirect=True)
def test_a_job_that_no_server_started_belongs_to_nobody(family: Family) -> None:
    family.kill_parent()
    family.let_child_settle()
    family.stdin.close()
    assert family.stdout.read() == "settled\ncame to its own end\n"


def test_a_job_that_cannot_be_started_has_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The host's would wait for ever, and every later one of its kind with it."""

    def too_long(*command: object, **options: object) -> None:
        raise OSError(7, "Argument list too long")

    processes.one_job_at_a_time()
    monkeypatch.setattr(host_jobs.subprocess, "Popen", too_long)
    monkeypatch.setenv("PYTHONPATH", "")
    task = host_jobs.run_background_task({}, "scoring")
    host_jobs.background_executors["scoring"].submit(lambda: None).result(30)
    assert task["status"] == "ERROR" and "Argument list too long" in task["details"][-1] and task["end_ts"]
    assert not processes.is_busy("scoring")


def test_what_no_command_line_takes_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[str] = []
    monkeypatch.setattr(AsyncTask, "run", staticmethod(lambda method, *_: (begun.append(method) or {"id": "1"}, None)))
    processes.one_job_at_a_time()
    images = [f"case{number:05}" for number in range(20_000)]
    monkeypatch.setattr(host_jobs, "subprocess", subprocess)
    with pytest.raises(processes.TooLong, match="name fewer cases") as refused:
        AsyncTask.run("batch_infer", {"images": images})
    assert refused.value.status == 413 and not begun
    AsyncTask.run("batch_infer", {"images": images[:5]})
    # Forks read their request from a pipe.
    monkeypatch.setattr(host_jobs, "subprocess", SimpleNamespace())
    AsyncTask.run("batch_infer", {"images": images})
    assert begun == ["batch_infer", "batch_infer"]
