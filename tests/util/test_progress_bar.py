"""Bars of a command, as a terminal shows them."""

from __future__ import annotations

import io

from rich.console import Console

from samstudent.util.progress import Progress
from samstudent.util.progress_bar import ProgressBars


def test_each_step_has_a_bar_of_its_own() -> None:
    text = io.StringIO()
    with ProgressBars(Console(file=text, width=100)) as report:
        for done in (1, 3):
            report(Progress("reading cases", done, 3, message=f"case{done}"))
        report(Progress("comparing"))
        report(Progress("training", 30, 60, 0.5, 9.2))
    shown = text.getvalue().splitlines()
    assert len(shown) == 3
    assert "reading cases" in shown[0] and "3/3" in shown[0]
    assert "comparing" in shown[1]
    assert "30/60" in shown[2] and "9 s left" in shown[2]
