"""How far jobs are, by what they really print."""

from __future__ import annotations

import logging

import pytest

from samstudent.rounds.learning import Report
from samstudent.rounds.ledger import RoundRecord
from samstudent.server.review_page.progress import Phase, jobs, phase_of

HOST = "[2026-11-25 22:49:47,120] [11940] [MainThread] [INFO] (samstudent.rounds.learning:%d) - %s"


@pytest.mark.parametrize(
    ("text", "phase"),
    [
        ("pseudo labels: 3 of 12 (case 7 of 9)", Phase("pseudo labels", 3, 12)),
        ("4 of 5: case07", Phase("default", 4, 5)),
        ("read 20 of 40 cases", Phase("reading cases", 20, 40)),
        ("round r0003: comparing on 4 hold-out cases", Phase("comparing on the hold-out")),
        ("training 3 students on parts of 12 labels", Phase("starting")),
    ],
)
def test_lines_of_jobs(text: str, phase: Phase) -> None:
    assert phase_of([HOST % (49, text)], "default") == phase


def test_the_reports_of_a_training(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        Report()(1, 60, 0.5)
        Report("students on parts: ")(60, 60)
    training, parts = (HOST % (53, record.getMessage()) for record in caplog.records)
    first = phase_of([training], "training the student")
    assert (first.what, first.done, first.total, first.percent) == ("training the student", 1, 60, 1.7)
    assert phase_of([training, parts, "something else"], "").percent == 100.0
    assert phase_of([training, parts], "").what == "students on parts"


def test_running_and_waiting_jobs_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    running = {"status": "RUNNING", "details": [HOST % (1, "step 30 of 120, loss 0.1, 9 s left")], "start_ts": "now"}
    done = {"status": "DONE", "details": ["step 2 of 2"]}
    monkeypatch.setattr(
        "samstudent.server.review_page.progress.background_tasks",
        {"train": [done, running, {"status": "SUBMITTED"}], "scoring": [done]},
    )
    training, waiting = jobs(RoundRecord(id="r0002", reason="by hand"))
    assert (training["round"], training["percent"], training["seconds_left"]) == ("r0002", 25.0, 9)
    assert waiting["what"] == "waiting" and waiting["percent"] is None


def test_a_round_of_the_command_line_is_told_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("samstudent.server.review_page.progress.background_tasks", {})
    (job,) = jobs(RoundRecord(id="r0004", step=30, steps=60))
    assert (job["kind"], job["round"], job["percent"]) == ("round", "r0004", 50.0)
    assert jobs(None) == []
