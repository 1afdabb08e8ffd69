"""Events of long work, and their text."""

from __future__ import annotations

import logging

import pytest

from samstudent.util import progress as module
from samstudent.util.progress import Progress, StepReport, log_progress


@pytest.mark.parametrize(
    ("event", "text", "percent"),
    [
        (Progress("comparing on the hold-out"), "comparing on the hold-out", None),
        (Progress("training", 30, 60, 0.12345, 9.4), "training: 30 of 60, loss 0.1235, 9 s left", 50.0),
        (Progress("pseudo labels", 1, 3, message="case07"), "pseudo labels: 1 of 3, case07", 33.3),
        (Progress("pseudo labels", 5, 3), "pseudo labels: 5 of 3", 100.0),
        (Progress("pseudo labels", 0, 0), "pseudo labels: 0 of 0", None),
    ],
)
def test_progress_has_text_and_percentage(event: Progress, text: str, percent: float | None) -> None:
    assert (str(event), event.percent) == (text, percent)


def test_a_step_reports_its_first_and_last_unit_and_the_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([100.0, 100.1, 102.0, 102.1, 104.0])
    monkeypatch.setattr(module.time, "monotonic", lambda: next(clock))
    events: list[Progress] = []
    report = StepReport(events.append, "training")
    for done in (1, 2, 21, 22, 41):
        report(done, 41, loss=1 / done, message=f"unit {done}")
    assert [(event.done, event.seconds_left) for event in events] == [(1, None), (21, pytest.approx(2.0)), (41, 0.0)]
    assert events[1] == Progress("training", 21, 41, 1 / 21, events[1].seconds_left, "unit 21")


def test_the_log_has_a_line_for_each_event(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        log_progress(Progress("training", 1, 2))
    assert [record.getMessage() for record in caplog.records] == ["training: 1 of 2"]


def test_json_round_trip_is_lossless() -> None:
    event = Progress("training", 30, 60, 0.5, 9.4, "case07")
    assert event.as_json()["percent"] == 50.0
    assert Progress.from_json(event.as_json()) == event
