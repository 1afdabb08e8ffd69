"""Progress of a command's job: bars on a terminal, lines of the log elsewhere."""

from __future__ import annotations

import logging
import sys
from types import SimpleNamespace

import pytest

from samstudent.cli.training import _progress
from samstudent.util.progress import Progress, log_progress


@pytest.mark.parametrize("terminal", [True, False])
def test_progress_is_a_bar_or_log_lines(
    terminal: bool,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal)
    monkeypatch.setattr(logging.getLogger("samstudent"), "level", logging.WARNING)
    app = SimpleNamespace(report=log_progress)
    with _progress(app):
        app.report(Progress("reading cases", 2, 3))
        app.report(Progress("training", 1, 60))
    drawn = capsys.readouterr().err
    lines = [record.getMessage() for record in caplog.records]
    assert ("reading cases" in drawn and "1/60" in drawn) == terminal
    assert (lines == ["reading cases: 2 of 3", "training: 1 of 60"]) == (not terminal)
