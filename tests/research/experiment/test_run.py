from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
import yaml
from filelock import FileLock

from samstudent.errors import Conflict, UserError
from samstudent.research.experiment import work
from samstudent.research.experiment.command import default_labels
from samstudent.research.experiment.plan import ExperimentOptions
from samstudent.research.experiment.run import run_experiment
from samstudent.research.setting import FolderOptions, make_setting
from support.drawn import FakeSam
from support.drawn_folder import labelled_folder, task_file

pytestmark = pytest.mark.training


def options_of(tmp_path: Path, **changes: Any) -> ExperimentOptions:
    """Options for synthetic cases in this process (``jobs=0``)."""
    folder = tmp_path / "data"
    if not folder.exists():
        labelled_folder(folder, train=7, test=3)
        task_file(folder)
    content: dict[str, Any] = {"output": tmp_path / "out", "task": str(folder / "task.yaml"), "steps": 40}
    names = {field.name for field in fields(FolderOptions)}
    content |= {name: changes.pop(name) for name in names & set(changes)}
    given = ExperimentOptions(FolderOptions(folder, **content), (3,), ("labels", "raw", "all"), (0,), jobs=0)
    return replace(given, **changes)


def test_an_experiment_from_folder_to_report(tmp_path: Path, sam: FakeSam) -> None:
    methods = ("labels", "raw", "largest", "walker", "meanteacher", "paper", "ours", "ours-twice", "all")
    results = run_experiment(options_of(tmp_path, methods=methods, steps=6))
    assert not results["failed"]
    table = {line["method"]: line for line in results["table"]}
    assert list(table) == list(methods)
    assert all(0 < line["dice"][0] <= 1 for line in table.values())
    assert table["all"]["labels"] is None
    assert {pair["other"] for pair in results["pairs"]} == set(methods) - {"ours"}
    qualities = {quality["method"]: quality for quality in results["quality"]}
    assert set(qualities) == {"raw", "largest", "walker", "paper", "ours", "ours-twice"}
    assert qualities["ours"]["reliability"] is not None
    assert qualities["raw"]["raw"] == qualities["raw"]["refined"]
    assert {(r["training"]["steps"], r["training"]["ending"]) for r in results["results"]} == {
        (6, "fixed"),
        (12, "fixed"),
    }
    assert any("paper: lite_medsam was trained with boxes only" in warning for warning in results["warnings"])
    written = json.loads((tmp_path / "out" / "results.json").read_text())
    assert len(written["results"]) == len(methods)
    assert {"command", "versions", "options", "steps"} <= set(written) and written["options"]["seeds"] == [0]
    html = (tmp_path / "out" / "report.html").read_text()
    assert "Worst test case of ours" in html
    assert "http" not in html.replace("http://www.w3.org", "")


def test_students_train_until_they_have_converged_or_for_their_budget(tmp_path: Path, sam: FakeSam) -> None:
    options = options_of(tmp_path, methods=("labels",), steps=None)
    task = Path(str(options.folder.task))
    content = yaml.safe_load(task.read_text())
    content["training"] |= {"steps": "auto", "budget": 0.02}
    task.write_text(yaml.safe_dump(content))
    results = run_experiment(options)
    assert results["steps"] == "auto"
    (training,) = (r["training"] for r in results["results"])
    assert training["ending"] == "budget" and training["steps"] > 1
    assert any("raise training.budget" in warning for warning in results["warnings"])
    assert "until they had converged" in (tmp_path / "out" / "report.html").read_text()


@pytest.mark.parametrize(("hidden", "numbers"), [((), (2,)), (("case0", "case1"), (5,))])
def test_numbers_of_labels_follow_from_the_folder(
    tmp_path: Path, hidden: tuple[str, ...], numbers: tuple[int, ...]
) -> None:
    labelled_folder(tmp_path, train=7, test=3)
    for case in hidden:
        (tmp_path / "labels" / f"{case}.png").unlink()
    assert default_labels(tmp_path) == numbers


def test_completed_jobs_are_not_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = options_of(tmp_path, steps=5)
    first = run_experiment(options)
    done: list[str] = []
    real = dict(work.KINDS)
    for kind, function in real.items():
        monkeypatch.setitem(work.KINDS, kind, lambda run, k=kind, f=function: (done.append(k), f(run))[1])
    assert run_experiment(options)["table"] == first["table"]
    assert done == []
    # Another seed needs students of its own.
    run_experiment(replace(options, seeds=(0, 1)))
    assert set(done) == {"student", "pseudo", "evaluate"}
    assert done.count("student") == 4
    done.clear()
    # A measurement that is lost is made again, with the student that is there.
    measured = next((tmp_path / "out" / "work").glob("evaluate-*"))
    (measured / "done.json").unlink()
    run_experiment(options_of(tmp_path, steps=5, seeds=(0, 1)))
    assert done == ["evaluate"]


def test_another_number_of_steps_is_another_student(tmp_path: Path) -> None:
    short = run_experiment(options_of(tmp_path, methods=("labels",), steps=1))
    assert "has not converged" in (tmp_path / "out" / "report.html").read_text()
    long = run_experiment(options_of(tmp_path, methods=("labels",), steps=40))
    assert long["table"][0]["dice"][0] > short["table"][0]["dice"][0]
    assert "labels, 3 labels, seed 0" in short["warnings"][0] and long["warnings"] == []


@pytest.mark.parametrize("kind", ["labels_overlap", "volumes"])
def test_without_a_task_file_a_task_is_derived(tmp_path: Path, kind: str) -> None:
    depth = 20 if kind == "volumes" else 0
    labelled_folder(tmp_path / "data", train=4, test=1, kind="labels" if depth else kind, depth=depth)
    size = (32, 32, 32) if depth else (64, 64)
    results = run_experiment(
        options_of(tmp_path, task=None, labels=(2,), steps=2, size=size, methods=("labels", "raw", "largest"))
    )
    assert not results["failed"]
    assert results["task"]["overlap"] == (kind == "labels_overlap")
    assert results["task"]["dimension"] == (3 if depth else 2)
    assert list(results["task"]["structures"]) == ["structure_1", "structure_2"]
    assert results["task"]["student"]["size"] == list(size)
    again = make_setting(options_of(tmp_path, task=None, steps=2, size=size).folder, (2,))
    assert again.task.model_dump(mode="json") == results["task"]


def test_number_of_unlabelled_cases_is_limited(tmp_path: Path) -> None:
    setting = make_setting(options_of(tmp_path, unlabelled=2, test_cases=1).folder, (1, 3))
    assert setting.labelled(1) == ["case6"]
    assert setting.labelled(3) == ["case6", "case5", "case4"]
    assert setting.rest(3) == ["case3", "case2"]
    assert setting.rest(1) == ["case5", "case4"]
    assert len(setting.labelled(None)) == 5
    assert setting.test == ("case7",)


def test_every_label_can_be_used_if_other_cases_have_none(tmp_path: Path) -> None:
    options = options_of(tmp_path)
    (tmp_path / "data" / "labels" / "case2.png").unlink()
    setting = make_setting(options.folder, (6,))
    assert setting.rest(6) == ["case2"] and len(setting.labelled(None)) == 6
    with pytest.raises(UserError, match=r"--labels: numbers from 1 to 6; .* 6 labelled train cases and 1 without"):
        make_setting(options.folder, (7,))


def test_invalid_options_are_reported(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--labels"):
        run_experiment(options_of(tmp_path, labels=(7,)))
    with pytest.raises(UserError, match="no val case"):
        run_experiment(options_of(tmp_path, split="val"))
    with pytest.raises(UserError, match="--size"):
        run_experiment(options_of(tmp_path, size=(60, 64)))


def test_weights_of_another_model_are_refused_before_the_first_training(tmp_path: Path) -> None:
    torch.save({"weight": torch.zeros(1)}, tmp_path / "sam.pth")
    options = options_of(tmp_path, methods=("labels", "paper"))
    task_file(tmp_path / "data", sam={"backend": "vit_b", "checkpoint": str(tmp_path / "sam.pth")})
    with pytest.raises(UserError, match=r"sam\.pth: not the weights of vit_b"):
        run_experiment(options)
    assert not list((tmp_path / "out" / "work").iterdir())


def test_folder_in_use_by_another_run_is_refused(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with FileLock(tmp_path / "out" / "experiment.lock"), pytest.raises(Conflict, match="another experiment"):
        run_experiment(options_of(tmp_path))


def test_failed_job_stops_only_its_dependents(tmp_path: Path) -> None:
    """In processes: a failure there must not affect the others."""
    options = options_of(tmp_path, methods=("labels", "raw", "all"), steps=2, jobs=1)
    # The label of a case that is neither labelled nor measured cannot be read.
    (tmp_path / "data" / "labels" / "case1.png").write_bytes(b"no image")
    results = run_experiment(options)
    assert [line["method"] for line in results["table"]] == ["labels"]
    assert len(results["failed"]) >= 2 and all(
        "case1" in f["reason"] or "needs" in f["reason"] for f in results["failed"]
    )
    assert (tmp_path / "out" / "report.html").is_file()


def test_killed_experiment_can_be_continued(tmp_path: Path) -> None:
    options = options_of(tmp_path).folder
    command = [
        sys.executable, "-m", "samstudent.cli.main", "experiment", str(options.folder), "--output", str(options.output),
        "--task", str(options.task), "--labels", "3", "--methods", "labels,raw", "--seeds", "0", "--steps", "10",
        "--jobs", "1",
    ]  # fmt: skip
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, start_new_session=True)
    work_folder = options.output / "work"
    try:
        wait_until(lambda: any(work_folder.glob("student-*/done.json")), process)
        children = psutil.Process(process.pid).children(recursive=True)
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    wait_until(lambda: not any(child.is_running() and child.status() != psutil.STATUS_ZOMBIE for child in children))
    assert children
    assert not (options.output / "results.json").exists()
    models = {path: path.stat().st_mtime_ns for path in work_folder.glob("student-*/model.pt")}
    finished = [path for path in models if (path.parent / "done.json").is_file()]
    assert subprocess.run(command, env=environment, stdout=subprocess.DEVNULL, check=False).returncode == 0
    results = json.loads((options.output / "results.json").read_text())
    assert len(results["results"]) == 2
    assert finished
    assert all(path.stat().st_mtime_ns == models[path] for path in finished)


def wait_until(condition: Any, process: subprocess.Popen[bytes] | None = None, seconds: float = 240) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        assert process is None or process.poll() is None
        time.sleep(0.05)
