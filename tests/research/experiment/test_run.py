from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import torch
from filelock import FileLock

from samstudent.errors import Conflict, UserError
from samstudent.research.experiment import methods as registry
from samstudent.research.experiment import work
from samstudent.research.experiment.plan import Options
from samstudent.research.experiment.run import default_processes, make_setting, run_experiment, worker_environment
from samstudent.sam.embedding import DecodedMask, Embedding
from samstudent.sam.prompts import Prompt
from support.drawn import FakeSam
from support.drawn_folder import labelled_folder, task_file


class PointSam(FakeSam):
    """Answers points with the logits that come along: the paper's second stage."""

    def decode_many(self, embedding: Embedding, prompts: Sequence[Prompt]) -> list[DecodedMask]:
        return [
            super(PointSam, self).decode_many(embedding, [prompt])[0]
            if prompt.mask_input is None
            else DecodedMask(prompt.mask_input, self.iou, embedding.frame)
            for prompt in prompts
        ]


@pytest.fixture
def sam(monkeypatch: pytest.MonkeyPatch) -> FakeSam:
    """In place of the real one, for everything that runs in this process."""
    fake = PointSam()
    monkeypatch.setattr(work, "backend_of", lambda params: fake)
    monkeypatch.setattr("samstudent.pseudolabels.policy_fit.adapt", lambda *given: None)  # it has nothing to train
    return fake


def options_of(tmp_path: Path, **changes: Any) -> Options:
    """Everything in this process (``jobs=0``), on drawn cases."""
    folder = tmp_path / "data"
    if not folder.exists():
        labelled_folder(folder, train=7, test=3)
        task_file(folder, training={"steps": 3})
    given = Options(
        folder, tmp_path / "out", task=str(folder / "task.yaml"), labels=(3,), methods=("labels", "raw", "all"),
        seeds=(0,), steps=40, jobs=0,
    )  # fmt: skip
    return replace(given, **changes)


def test_an_experiment_from_folder_to_report(tmp_path: Path, sam: FakeSam) -> None:
    methods = ("labels", "raw", "largest", "walker", "meanteacher", "paper", "ours", "ours-soft", "all")
    results = run_experiment(options_of(tmp_path, methods=methods, steps=25))
    assert not results["failed"]
    table = {line["method"]: line for line in results["table"]}
    assert list(table) == list(methods)
    assert all(0.2 < line["honest"][0] <= 1 for line in table.values())
    assert table["all"]["labels"] is None
    assert {pair["other"] for pair in results["pairs"]} == set(methods) - {"ours"}
    told = {(q["method"], q["cases"]): q for q in results["quality"]}
    assert told["ours", "unlabelled"]["reliability"] is not None
    assert ("ours", "test") in told
    assert told["raw", "unlabelled"]["raw"] == told["raw", "unlabelled"]["refined"]
    written = json.loads((tmp_path / "out" / "results.json").read_text())
    assert len(written["results"]) == len(methods)
    html = (tmp_path / "out" / "report.html").read_text()
    assert "Worst test case of ours" in html
    assert "http" not in html.replace("http://www.w3.org", "")


def test_what_is_done_is_not_done_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = options_of(tmp_path, steps=5)
    first = run_experiment(options)
    done: list[str] = []
    real = dict(work.KINDS)
    for kind, function in real.items():
        monkeypatch.setitem(work.KINDS, kind, lambda *a, k=kind, f=function: (done.append(k), f(*a))[1])
    assert run_experiment(options)["table"] == first["table"]
    assert done == []
    # Another seed needs students of its own, but no case is read again.
    run_experiment(replace(options, seeds=(0, 1)))
    assert set(done) == {"student", "pseudo", "evaluate"}
    assert done.count("student") == 3
    done.clear()
    # A result that is lost is measured again, with the student that is there.
    (tmp_path / "out" / "results" / "raw-n3-s0.json").unlink()
    run_experiment(options)
    assert done == ["evaluate"]


def test_teachers_that_know_nothing_leave_the_student_as_it_is(
    tmp_path: Path, sam: FakeSam, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("samstudent.pseudolabels.policy.MIN_OOF_DICE", 1.1)
    results = run_experiment(options_of(tmp_path, methods=("labels", "ours-again"), steps=5))
    assert any("trained on labels alone" in told for told in results["warnings"])
    table = {line["method"]: line["structures"] for line in results["table"]}
    assert table["labels"] == table["ours-again"]


def test_another_number_of_steps_is_another_student(tmp_path: Path) -> None:
    short = run_experiment(options_of(tmp_path, methods=("labels",), steps=1))
    assert "has not converged" in (tmp_path / "out" / "report.html").read_text()
    long = run_experiment(options_of(tmp_path, methods=("labels",), steps=40))
    assert long["table"][0]["honest"][0] > short["table"][0]["honest"][0]
    assert "labels, 3 labels, seed 0" in short["warnings"][0] and long["warnings"] == []


@pytest.mark.parametrize("kind", ["labels_overlap", "volumes"])
def test_without_a_task_one_is_made(tmp_path: Path, kind: str) -> None:
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
    again = make_setting(options_of(tmp_path, task=None, labels=(2,), steps=2, size=size))
    assert again.task.model_dump(mode="json") == results["task"]


def test_quality_is_told_though_not_all_volumes_are_measured(
    tmp_path: Path, sam: FakeSam, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "_MEASURED_VOLUMES", 1)
    folder = labelled_folder(tmp_path / "data", train=4, test=2, depth=6)
    student = {"size": [16, 64, 64], "channels": [4, 8]}
    task_file(folder, dimension=3, student=student, training={"steps": 1}, pseudo_labels={"folds": 2})
    results = run_experiment(options_of(tmp_path, methods=("labels", "ours"), steps=4))
    assert not results["failed"]
    assert {(q["method"], q["cases"]) for q in results["quality"]} == {("ours", "unlabelled"), ("ours", "test")}
    assert len(results["results"][0]["cases"]) == 2


def test_only_so_many_unlabelled_cases_are_used(tmp_path: Path) -> None:
    setting = make_setting(options_of(tmp_path, unlabelled=2, labels=(1, 3), test_cases=1))
    assert setting.labelled(1) == ["case6"]
    assert setting.labelled(3) == ["case6", "case5", "case4"]
    assert setting.rest(3) == ["case3", "case2"]
    assert setting.rest(1) == ["case5", "case4"]
    assert len(setting.labelled(None)) == 5
    assert setting.test == ("case7",)


def test_options_that_do_not_fit_are_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--labels"):
        run_experiment(options_of(tmp_path, labels=(7,)))
    with pytest.raises(UserError, match="no val case"):
        run_experiment(options_of(tmp_path, split="val"))
    with pytest.raises(UserError, match="--size"):
        run_experiment(options_of(tmp_path, size=(60, 64)))


def test_two_runs_do_not_share_a_folder(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with FileLock(tmp_path / "out" / "experiment.lock"), pytest.raises(Conflict, match="another experiment"):
        run_experiment(options_of(tmp_path))


def test_a_failure_stops_only_what_needs_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In processes: what fails there must not take the others along."""
    options = options_of(tmp_path, methods=("labels", "raw", "all"), steps=2, jobs=1)
    run_experiment(replace(options, jobs=0, methods=("labels",)))
    # A case that cannot be read: the label of a case that is neither labelled nor measured.
    (tmp_path / "data" / "labels" / "case1.png").write_bytes(b"no image")
    results = run_experiment(replace(options, output=tmp_path / "other"))
    assert [line["method"] for line in results["table"]] == []
    assert any("case1" in failure["why"] for failure in results["failed"])
    assert (tmp_path / "other" / "report.html").is_file()


def test_a_killed_experiment_goes_on(tmp_path: Path) -> None:
    options = options_of(tmp_path)
    command = [
        sys.executable, "-m", "samstudent.cli.main", "experiment", str(options.folder), "--output", str(options.output),
        "--task", str(options.task), "--labels", "3", "--methods", "labels,raw", "--seeds", "0,1", "--steps", "15",
        "--jobs", "1",
    ]  # fmt: skip
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, start_new_session=True)
    work_folder = options.output / "work"
    try:
        wait_until(lambda: any(work_folder.glob("student-*/done.json")), process)
        worker = int(subprocess.check_output(["pgrep", "-P", str(process.pid)]).split()[0])
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    wait_until(lambda: not Path(f"/proc/{worker}").exists() or is_zombie(worker))
    assert not (options.output / "results.json").exists()
    models = {path: path.stat().st_mtime_ns for path in work_folder.glob("student-*/model.pt")}
    finished = [path for path in models if (path.parent / "done.json").is_file()]
    assert subprocess.run(command, env=environment, stdout=subprocess.DEVNULL, check=False).returncode == 0
    results = json.loads((options.output / "results.json").read_text())
    assert len(results["results"]) == 4
    assert finished
    assert all(path.stat().st_mtime_ns == models[path] for path in finished)


def wait_until(condition: Any, process: subprocess.Popen[bytes] | None = None, seconds: float = 240) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        assert process is None or process.poll() is None
        time.sleep(0.05)


def is_zombie(pid: int) -> bool:
    return "(zombie)" in Path(f"/proc/{pid}/status").read_text()


@pytest.mark.parametrize(
    ("gpus", "cores", "gigabytes", "expected"), [(0, 2, 24, 2), (0, 16, 24, 6), (0, 4, 1, 1), (3, 16, 24, 3)]
)
def test_as_many_processes_as_there_are_gpus_or_cores_and_memory(
    monkeypatch: pytest.MonkeyPatch, gpus: int, cores: int, gigabytes: int, expected: int
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(os, "cpu_count", lambda: cores)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=gigabytes << 30))
    assert default_processes() == expected
    if not gpus:
        assert int(worker_environment(0, expected)["OMP_NUM_THREADS"]) <= cores // expected
