from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image
from typer.testing import CliRunner

from samstudent.cli.main import app
from samstudent.errors import UserError
from samstudent.metrics import dice_per_structure
from samstudent.research.experiment import work
from samstudent.research.setting import FolderOptions
from samstudent.research.simulation import run as module
from samstudent.research.simulation.options import Simulation
from samstudent.research.simulation.run import simulate
from support.drawn import FakeSam, shapes, small_task

pytestmark = pytest.mark.training


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """14 synthetic cases: 10 train, 4 test; and task.yaml."""
    path = tmp_path / "data"
    rows = []
    for kind in ("images", "labels"):
        (path / kind).mkdir(parents=True)
    for i in range(14):
        pixels, masks = shapes(i)
        Image.fromarray(pixels).save(path / "images" / f"case{i}.png")
        Image.fromarray((masks * np.array([1, 2])[:, None, None]).sum(0).astype(np.uint8)).save(
            path / "labels" / f"case{i}.png"
        )
        rows.append([f"case{i}", "train" if i < 10 else "test", i if i < 10 else ""])
    with (path / "split.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["id", "split", "train_order"], *rows])
    task = small_task(training={"steps": 8, "batch_size": 2, "learning_rate": 0.01})
    (path / "task.yaml").write_text(yaml.safe_dump(task.model_dump(mode="json")))
    return path


def options(
    folder: Path, output: str = "out", steps: int | None = None, pool: int | None = None, **more: Any
) -> Simulation:
    unlabelled = None if pool is None else pool - 2
    given = FolderOptions(
        folder, folder.parent / output, task=str(folder / "task.yaml"), steps=steps, unlabelled=unlabelled
    )
    return Simulation(given, **({"seeds": (0,), "start": 2, "batch": 2, "rounds": 2, "pool": pool} | more))


def test_simulation_writes_a_report_and_continues_after_a_stop(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sam = FakeSam()
    monkeypatch.setattr(module, "sam_of", lambda section: sam)
    trained = []
    train = work.KINDS["student"]
    monkeypatch.setitem(work.KINDS, "student", lambda run: (trained.append(run.params["labelled"]), train(run)))
    given = options(folder, strategies=("random", "foreground", "mixed"), rounds=1)
    content = simulate(given)
    rounds = {(r["strategy"], r["round"]): r for r in content["rounds"]}
    assert len(rounds) == 6 and len({tuple(r["labelled"]) for k, r in rounds.items() if k[1] == 0}) == 1
    for (_, number), entry in rounds.items():
        assert len(entry["labelled"]) == len(set(entry["labelled"])) == 2 + 2 * number
        assert 0 <= entry["dice"] <= 1 and not set(entry["next"]) & set(entry["labelled"])
        assert not [case for case in entry["labelled"] if int(case[4:]) >= 10]  # never a test case
    assert len(trained) == 4  # the first student serves all three
    assert sam.embedded == 10
    html = (given.folder.output / "report.html").read_text()
    assert "foreground" in html and "data:image/png;base64" in html and "http" not in html
    assert {row["strategy"] for row in content["table"]} == {"random", "foreground", "mixed"}

    # Killed before the last round of one strategy was written.
    (given.folder.output / "results" / "mixed-s0-r1.json").unlink()
    before = len(trained)
    again = simulate(given)
    assert len(trained) == before and again["rounds"] == content["rounds"]
    # Other labels or steps: nothing old is taken for new.
    other = simulate(options(folder, strategies=("random",), rounds=1, steps=4))
    assert len(trained) == before + 2 and other["rounds"][0]["key"] != content["rounds"][0]["key"]


def test_runs_locked_by_another_process_are_skipped(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = options(folder, strategies=("random", "uniform"), rounds=1)
    (given.folder.output / "work").mkdir(parents=True)
    with module.FileLock(given.folder.output / "work" / "random-s0.lock"):
        content = simulate(given)
    assert {entry["strategy"] for entry in content["rounds"]} == {"uniform"}
    assert "another process" in capsys.readouterr().out
    assert "1 runs are not finished" in (given.folder.output / "report.html").read_text()


def test_invalid_options_are_named(folder: Path) -> None:
    with pytest.raises(UserError, match="--strategies: luck unknown"):
        simulate(options(folder, strategies=("luck",)))
    with pytest.raises(UserError, match="label 12 cases, but there are 10"):
        simulate(options(folder, rounds=5))
    with pytest.raises(UserError, match="there are 5 labelled train cases in --pool 5"):
        simulate(options(folder, pool=5))


def test_simulate_command_writes_results(folder: Path) -> None:
    words = ["simulate", str(folder), "--task", str(folder / "task.yaml"), "--output", str(folder.parent / "cli")]
    words += ["--strategies", "random,entropy", "--seeds", "3", "--start", "2", "--batch", "1", "--rounds", "1"]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    content = json.loads((folder.parent / "cli" / "results.json").read_text())
    assert {entry["strategy"] for entry in content["rounds"]} == {"random", "entropy"}


def test_annotators_errors_change_training_cases_only(folder: Path) -> None:
    plain, noisy = options(folder).setting(), options(folder, noise=0.1).setting()
    assert noisy.cases.prepared("case12").key == plain.cases.prepared("case12").key  # measured
    assert noisy.cases.prepared("case3").key != plain.cases.prepared("case3").key
    for setting in (plain, noisy):
        setting.cases.store.add(setting.cases.source("case3"))
    truth, drawn = (setting.cases.truth("case3") for setting in (plain, noisy))
    assert truth is not None and drawn is not None
    assert 0.5 < np.nanmean(dice_per_structure(truth.masks, drawn.masks)) < 1
