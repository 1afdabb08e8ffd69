"""Progress of a command's job: bars on a terminal, lines of the log elsewhere."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from samstudent.cli import training
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


@pytest.mark.parametrize("start", ["r0003", "of_study.pt", "weights.pt", "gone.pt"])
def test_start_is_a_round_or_the_path_of_a_file(start: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A missing file is one of this folder, where the user expects it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "weights.pt").write_bytes(b"weights")
    (tmp_path / ".samstudent" / "weights").mkdir(parents=True)
    (tmp_path / ".samstudent" / "weights" / "of_study.pt").write_bytes(b"weights")
    (tmp_path / "task.yaml").write_text("name: drawn\ndimension: 2\nstructures: [disk]\n")
    requests = []
    app = SimpleNamespace(train=requests.append, datastore=lambda: None, report=None)
    monkeypatch.setattr(training, "_app", lambda studies, task: app)
    training.train(".", "task.yaml", start=start)
    (request,) = requests
    assert request["start"] == (start if start in ("r0003", "of_study.pt") else str(tmp_path / start))
