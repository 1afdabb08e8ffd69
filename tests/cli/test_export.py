"""``samstudent export model``: which round is exported, and errors."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import yaml

from samstudent.cli.export import export_model_command
from samstudent.errors import Conflict, NotFound, UserError
from samstudent.rounds.ledger import Ledger
from samstudent.student.network import build_network
from samstudent.student.predict import save_model
from samstudent.task import load_task

TASK = {"name": "drawn", "dimension": 2, "structures": ["disk"], "student": {"size": [32, 32], "channels": [8, 8]}}


@pytest.fixture
def task_file(tmp_path: Path) -> str:
    path = tmp_path / "task.yaml"
    path.write_text(yaml.safe_dump(TASK))
    return str(path)


def add_round(study: Path, task_file: str, seed: int) -> tuple[Ledger, str]:
    ledger, task = Ledger(study / ".samstudent" / "drawn"), load_task(task_file)
    id = ledger.new_round("manual")
    torch.manual_seed(seed)
    digest = save_model(ledger.model_path(id), build_network(task), task)
    ledger.update(id, status="done", model_digest=digest, dice={"challenger": {"disk": 0.8, "mean": 0.8}})
    return ledger, id


def test_served_or_named_round_is_exported(tmp_path: Path, task_file: str, capsys: pytest.CaptureFixture[str]) -> None:
    ledger, first = add_round(tmp_path, task_file, 0)
    _, second = add_round(tmp_path, task_file, 1)
    output = tmp_path / "out"
    with pytest.raises(Conflict, match=r"no round of task 'drawn' is served in this study: name one of r0001, r0002"):
        export_model_command(str(tmp_path), task_file, output, ["torchscript"])
    ledger.promote(first)
    for round_id, expected in ((None, first), (second, second)):
        export_model_command(str(tmp_path), task_file, output, ["torchscript", "bundle"], round_id, overwrite=True)
        description = json.loads((output / "model.json").read_text())
        assert (description["round"], description["model_sha256"]) == (expected, ledger.get(expected).model_digest)
        assert description["dice_on_hold_out"] == {"disk": 0.8, "mean": 0.8}
    printed = capsys.readouterr().out.split()
    assert printed[-3:] == [str(output / name) for name in ("model.json", "model.ts", "drawn")]
    assert all(Path(name).exists() for name in printed)
    with pytest.raises(Conflict, match="not empty; choose another folder, or replace files by --overwrite"):
        export_model_command(str(tmp_path), task_file, output, ["torchscript"], second)


def test_errors_name_what_is_wrong(tmp_path: Path, task_file: str) -> None:
    ledger, id = add_round(tmp_path, task_file, 0)
    arguments = (str(tmp_path), task_file, tmp_path / "out")
    with pytest.raises(UserError, match="--format caffe: use one of bundle, onnx, torchscript"):
        export_model_command(*arguments, ["onnx", "caffe"], id)
    with pytest.raises(NotFound, match="r0009"):
        export_model_command(*arguments, ["onnx"], "r0009")
    ledger.update(id, model_digest="0" * 64)
    with pytest.raises(UserError, match=r"model\.pt: damaged: its SHA-256 is"):
        export_model_command(*arguments, ["onnx"], id)
    running = ledger.new_round("manual")
    with pytest.raises(Conflict, match="running: its model may be incomplete"):
        export_model_command(*arguments, ["onnx"], running)
    with pytest.raises(Conflict, match=r"no round of task 'wrist' .*; there are rounds of task drawn"):
        export_model_command(str(tmp_path), "wrist", tmp_path / "out", ["onnx"])
    assert not (tmp_path / "out").exists()
    with pytest.raises(Conflict, match=r"task\.yaml: is a file; expected a folder"):
        export_model_command(str(tmp_path), task_file, Path(task_file), ["onnx"], id)
