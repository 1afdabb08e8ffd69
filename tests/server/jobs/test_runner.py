"""Jobs in processes of their own, with the fork server of the real server."""

from __future__ import annotations

import builtins
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from samstudent.errors import Conflict, NotFound, UserError
from samstudent.server.jobs import fork_server
from samstudent.server.jobs.job import JobRunning
from samstudent.server.jobs.job_process import is_job_process
from samstudent.server.jobs.runner import MOST_REMEMBERED, JobRunner, StartProcess
from samstudent.util.progress import Progress, Report

pytestmark = pytest.mark.skipif(not fork_server.is_possible(), reason="here jobs are no forks")

#: Seconds that anything here may take.
LONGEST = 30


def work(kind: str, request: dict[str, Any], report: Report) -> Any:
    """Work of the jobs in these tests, selected by the request."""
    how = request.get("how", "echo")
    if how == "echo":
        print("größer", len(str(request)), flush=True)
        os.system("echo of another program >&2")
        return {"kind": kind, "nice": os.nice(0), "is_job": is_job_process(), "random": float(np.random.random())}
    if how == "steps":
        report(Progress("reading", 2, 2))
        report(Progress("training", 1, 4, loss=0.5))
    elif how == "mistake":
        raise UserError("task.yaml: no such key")
    elif how == "fault":
        raise ZeroDivisionError("no good")
    elif how == "group":
        raise builtins.ExceptionGroup("two shards failed", [ZeroDivisionError("first"), OSError("second")])
    elif how == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    elif how == "sleep":
        Path(request["file"]).touch()
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        print("sleeping beside", child.pid, flush=True)
        try:
            time.sleep(600)
        finally:
            Path(request["file"]).write_text("put in order")
    return None


@pytest.fixture(scope="module")
def start_process(request: pytest.FixtureRequest) -> Iterator[StartProcess]:
    # A fork has the standard output of its parent; pytest's is an object of its own.
    with request.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
        forks = fork_server.ForkServer()
    yield forks
    forks.close()


@pytest.fixture
def jobs(start_process: StartProcess) -> Iterator[JobRunner]:
    runner = JobRunner(work, start_process)
    yield runner
    runner.end_all(time.monotonic())


def wait_until(condition: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + LONGEST
    while time.monotonic() < deadline:
        if found := condition():
            return found
        time.sleep(0.02)
    pytest.fail("it did not happen in time")


def ended(jobs: JobRunner, kind: str) -> dict[str, Any]:
    wait_until(lambda: not jobs.is_busy(kind))
    return jobs.jobs(kind)[-1]


def sleeping(jobs: JobRunner, file: Path) -> list[psutil.Process]:
    """Start a job that sleeps, and return its processes."""
    jobs.start("train", {"how": "sleep", "file": str(file)})
    lines = wait_until(lambda: [line for line in jobs.running("train")["details"] if "sleeping" in line])
    (job,) = jobs.active("train")
    assert job.pid is not None
    return [psutil.Process(job.pid), psutil.Process(int(lines[0].split()[-1]))]


def has_ended(process: psutil.Process) -> bool:
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


def test_job_runs_in_a_process_of_low_priority_and_returns_its_result(jobs: JobRunner) -> None:
    result = jobs.run("train", {"model": "student"})
    assert (result["kind"], result["is_job"], result["nice"]) == ("train", True, min(19, os.nice(0) + 10))
    assert not is_job_process()
    (job,) = jobs.jobs("train")
    assert job["status"] == "DONE" and job["result"] == result and job["request"] == {"model": "student"}
    assert job["details"] == ["submitted", "größer 20", "of another program"]


def test_jobs_have_different_random_states(jobs: JobRunner) -> None:
    assert jobs.run("train", {})["random"] != jobs.run("train", {})["random"]


def test_large_request_arrives_complete(jobs: JobRunner) -> None:
    jobs.run("batch_infer", {"images": "x" * 500_000})
    assert jobs.jobs("batch_infer")[-1]["details"][1] == "größer 500014"


def test_progress_is_stored_by_step_and_as_lines(jobs: JobRunner) -> None:
    jobs.start("train", {"how": "steps"})
    (job,) = jobs.active("train")
    assert job.ended.wait(LONGEST)
    assert job.steps == [Progress("reading", 2, 2), Progress("training", 1, 4, loss=0.5)]
    assert job.details[-2:] == ["reading: 2 of 2", "training: 1 of 4, loss 0.5000"]


@pytest.mark.parametrize(
    ("how", "line"),
    [
        ("mistake", "samstudent: task.yaml: no such key"),
        ("fault", "ZeroDivisionError: no good"),
        ("killed", "the job's process was ended by signal 9 (SIGKILL); a likely reason is a lack of memory"),
    ],
)
def test_last_line_of_a_failed_job_is_the_reason_once(jobs: JobRunner, how: str, line: str) -> None:
    with pytest.raises(Conflict, match=r"^train ended with ERROR: ") as error:
        jobs.run("train", {"how": how})
    assert str(error.value).endswith(line)
    details = jobs.jobs("train")[-1]["details"]
    assert details[-1] == line and details.count(line) == 1


def test_unexpected_error_has_a_traceback_in_the_details(jobs: JobRunner) -> None:
    with pytest.raises(Conflict):
        jobs.run("train", {"how": "fault"})
    details = jobs.jobs("train")[-1]["details"]
    assert "Traceback (most recent call last):" in details and any("in work" in line for line in details)


@pytest.mark.skipif(sys.version_info < (3, 11), reason="exception groups are of Python 3.11")
def test_traceback_of_an_exception_group_is_complete(jobs: JobRunner) -> None:
    with pytest.raises(Conflict):
        jobs.run("train", {"how": "group"})
    *tree, reason = jobs.jobs("train")[-1]["details"]
    assert reason == "ExceptionGroup: two shards failed (2 sub-exceptions)"
    assert "ZeroDivisionError: first" in tree[-4] and "OSError: second" in tree[-2]
    assert set(tree[-1]) <= set(" +-")


def test_one_job_of_a_kind_at_a_time(jobs: JobRunner, tmp_path: Path) -> None:
    sleeping(jobs, tmp_path / "first")
    assert jobs.is_busy("train") and jobs.is_busy() and not jobs.is_busy("scoring", "batch_infer")
    with pytest.raises(JobRunning, match="train") as refused:
        jobs.start("train", {})
    assert refused.value.status == 429
    waiting = jobs.start("train", {"how": "echo"}, enqueue=True)
    assert waiting["status"] == "SUBMITTED"
    assert jobs.run("scoring", {})["kind"] == "scoring"  # other kinds do not wait
    with pytest.raises(JobRunning):
        jobs.start("train", {})
    assert [job["status"] for job in jobs.jobs("train")] == ["RUNNING", "SUBMITTED"]
    stopped = jobs.stop("train")
    assert stopped is not None and (stopped["status"], stopped["details"][-1]) == ("STOPPED", "stopped on request")
    assert ended(jobs, "train")["status"] == "DONE"


def test_stop_kills_the_job_and_its_child_processes(jobs: JobRunner, tmp_path: Path) -> None:
    family = sleeping(jobs, tmp_path / "started")
    jobs.stop("train")
    wait_until(lambda: all(map(has_ended, family)))
    assert jobs.stop("train") is None
    assert ended(jobs, "train")["status"] == "STOPPED"


def test_waiting_job_can_be_cancelled(jobs: JobRunner, tmp_path: Path) -> None:
    sleeping(jobs, tmp_path / "first")
    jobs.start("train", {"how": "sleep", "file": str(tmp_path / "second")}, enqueue=True)
    jobs.stop("train")
    jobs.stop("train")
    assert [job["status"] for job in jobs.jobs("train")] == ["STOPPED", "STOPPED"]
    assert jobs.run("train", {})["kind"] == "train"
    assert not (tmp_path / "second").exists() or (tmp_path / "second").read_text() == ""


def test_requests_for_missing_jobs_are_not_found(jobs: JobRunner) -> None:
    with pytest.raises(NotFound, match="scoring"):
        jobs.jobs("scoring")
    jobs.run("scoring", {})
    with pytest.raises(NotFound, match="scoring"):
        jobs.running("scoring")


def test_end_lets_jobs_clean_up(jobs: JobRunner, tmp_path: Path) -> None:
    family = sleeping(jobs, tmp_path / "first")
    jobs.start("train", {"how": "sleep", "file": str(tmp_path / "second")}, enqueue=True)
    answers: list[str] = []

    def wait_for_it() -> None:
        try:
            jobs.run("train", {}, enqueue=True)
        except Conflict as error:
            answers.append(str(error))

    waiter = threading.Thread(target=wait_for_it)
    waiter.start()
    wait_until(lambda: len(jobs.active("train")) == 3)
    began = time.monotonic()
    jobs.end_all(began + LONGEST)
    assert time.monotonic() - began < LONGEST
    assert (tmp_path / "first").read_text() == "put in order"
    waiter.join(LONGEST)
    assert answers == ["train ended with STOPPED: the server was stopped"]
    assert all(map(has_ended, family)) and not (tmp_path / "second").exists()
    with pytest.raises(JobRunning, match="being stopped"):
        jobs.start("scoring", {})


def test_old_jobs_are_forgotten() -> None:
    def refuse(*connections: Any) -> Any:
        raise OSError(7, "Argument list too long")

    jobs = JobRunner(work, refuse)
    for number in range(MOST_REMEMBERED + 3):
        jobs.start("scoring", {"number": number}, enqueue=True)
        wait_until(lambda: not jobs.is_busy())
    known = jobs.jobs("scoring")
    assert len(known) == MOST_REMEMBERED and known[-1]["request"] == {"number": MOST_REMEMBERED + 2}
    assert known[-1]["status"] == "ERROR" and "Argument list too long" in known[-1]["details"][-1]
