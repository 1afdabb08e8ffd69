"""Progress of jobs for the review page."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest

from samstudent.rounds.round_record import RoundRecord
from samstudent.server.jobs.job import Job
from samstudent.server.jobs.runner import JobRunner
from samstudent.server.review_page.progress import progress_of_jobs
from samstudent.util.progress import Progress


@pytest.fixture
def runner() -> Iterator[JobRunner]:
    """Job runner whose jobs do not start until the end of the test."""
    over = threading.Event()

    def never(*connections: Any) -> Any:
        over.wait(30)
        raise OSError("the test is over")

    yield JobRunner(lambda *_: None, never)
    over.set()


def start(runner: JobRunner, kind: str) -> Job:
    runner.start(kind, {}, enqueue=True)
    job = runner.active(kind)[-1]
    while job.status.value != "RUNNING" and len(runner.active(kind)) == 1:
        pass
    return job


def test_steps_of_a_training_are_in_order(runner: JobRunner) -> None:
    job = start(runner, "train")
    for event in (Progress("reading", 2, 2), Progress("training", 30, 120, 0.25, 9.4), Progress("reading", 1, 2)):
        job.add_progress(event)
    (found,) = progress_of_jobs(runner, RoundRecord(id="r0002", reason="every 5 labels"))
    assert (found["kind"], found["round"], found["reason"]) == ("train", "r0002", "every 5 labels")
    assert found["step"] == "reading" and found["lines"][-1] == "reading: 1 of 2"
    assert [step["percent"] for step in found["steps"]] == [50.0, 25.0]
    assert found["steps"][1] == {
        "step": "training",
        "done": 30,
        "total": 120,
        "percent": 25.0,
        "seconds_left": 9.4,
        "loss": 0.25,
        "message": "",
    }


def test_waiting_and_starting_jobs_are_listed(runner: JobRunner) -> None:
    start(runner, "train")
    start(runner, "train")
    start(runner, "scoring")
    running, waiting, scoring = progress_of_jobs(runner, RoundRecord(id="r0002"))
    assert (running["step"], running["round"]) == ("starting", "r0002")
    assert (waiting["step"], waiting["round"], waiting["steps"]) == ("waiting", None, [])
    assert (scoring["kind"], scoring["step"], scoring["round"]) == ("scoring", "starting", None)


def test_round_of_the_command_line_is_listed(runner: JobRunner) -> None:
    (found,) = progress_of_jobs(runner, RoundRecord(id="r0004", step=30, steps=60))
    assert (found["kind"], found["round"], found["step"]) == ("round", "r0004", "training the student")
    assert [step["percent"] for step in found["steps"]] == [50.0]
    assert progress_of_jobs(runner, None) == []
