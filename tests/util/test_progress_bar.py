"""Progress of a command: bars on a terminal, lines elsewhere."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from samstudent.util import progress_bar
from samstudent.util.progress import Progress
from samstudent.util.progress_bar import ProgressBars


def lines_of(text: io.StringIO) -> list[str]:
    """Final content of the terminal."""
    return text.getvalue().rpartition("\x1b[2K")[2].replace("\x1b[?25h", "").splitlines()


def test_each_step_has_a_bar_of_its_own() -> None:
    text = io.StringIO()
    with ProgressBars(Console(file=text, width=100, force_terminal=True, color_system=None)) as report:
        for done in (1, 3):
            report(Progress("reading cases", done, 3, message=f"case{done}"))
        report(Progress("comparing"))
        report(Progress("training", 30, 60, 0.5, 9.2))
    shown = lines_of(text)
    assert len(shown) == 3
    assert "reading cases" in shown[0] and "3/3" in shown[0] and "case3" in shown[0]
    assert "comparing" in shown[1]
    assert "30/60" in shown[2] and "9 s left" in shown[2]


def test_a_step_without_a_total_has_ended_when_the_next_one_begins() -> None:
    with ProgressBars(Console(file=io.StringIO(), force_terminal=True)) as report:
        # A client that polls a server reports the last event of each step again and again.
        for done in (0, 1):
            report(Progress("comparing"))
            report(Progress("training", done, 2))
        assert [task.finished for task in report._bars.tasks] == [True, False]
        report(Progress("writing"))
    assert [task.finished for task in report._bars.tasks] == [True, False, True]


def test_without_a_terminal_lines_are_printed_at_intervals(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([100.0, 101.0, 111.0, 112.0, 113.0])
    monkeypatch.setattr(progress_bar.time, "monotonic", lambda: next(clock))
    text = io.StringIO()
    with ProgressBars(Console(file=text, width=20)) as report:
        for done in (1, 2, 3, 4):
            report(Progress("training a student", done, 4))
        report(Progress("comparing"))
        report(Progress("comparing"))
    assert text.getvalue().splitlines() == [
        "training a student: 1 of 4", "training a student: 3 of 4", "training a student: 4 of 4", "comparing"
    ]  # fmt: skip
