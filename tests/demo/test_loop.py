"""Display of a job's progress in the demo."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from samstudent.demo import loop
from samstudent.demo.server import DemoError
from samstudent.util.progress import Progress


class Answers:
    """Server whose endpoint of trainings returns a sequence of responses; the last one repeatedly."""

    def __init__(self, *answers: dict[str, Any]) -> None:
        self.answers = list(answers)

    def find(self, path: str) -> dict[str, Any]:
        assert path == "train"
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


def job(id: str, status: str, *steps: Progress) -> dict[str, Any]:
    return {"id": id, "status": status, "steps": [step.as_json() for step in steps], "details": ["reading", "no disk"]}


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "_POLL_SECONDS", 0)


def follow(server: Answers, before: str | None) -> list[str]:
    text = io.StringIO()
    loop._follow(server, "train", before, Console(file=text, width=80))  # type: ignore[arg-type]
    return text.getvalue().splitlines()


def test_the_steps_of_the_next_job_are_shown_until_it_has_ended() -> None:
    server = Answers(
        job("a", "DONE", Progress("of the job before", 1, 1)),
        job("b", "RUNNING", Progress("training", 1, 9)),
        job("b", "RUNNING", Progress("training", 9, 9), Progress("comparing")),
        job("b", "DONE", Progress("training", 9, 9), Progress("comparing")),
    )
    assert follow(server, "a") == ["starting", "training: 1 of 9", "training: 9 of 9", "comparing"]


def test_first_job_is_followed() -> None:
    assert follow(Answers({}, job("a", "DONE", Progress("training", 9, 9))), None) == ["starting", "training: 9 of 9"]


@pytest.mark.parametrize("status", ["ERROR", "STOPPED"])
def test_failed_job_is_an_error_with_its_last_lines(status: str) -> None:
    with pytest.raises(DemoError, match="train failed: reading\nno disk"):
        follow(Answers(job("a", status)), None)


def test_job_that_does_not_start_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "_START_SECONDS", 0)
    with pytest.raises(DemoError, match="no job started"):
        follow(Answers(job("a", "DONE")), "a")
