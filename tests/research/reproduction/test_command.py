"""``samstudent reproduce wrist`` on drawn films: from CVAT's files to the paper's figures beside the measured ones."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from samstudent.errors import NotFound, UserError
from samstudent.research.reproduction import command
from samstudent.research.reproduction.command import TrainingOptions, run, wrist_task
from samstudent.task import PAPER_STAGES, load_task
from support.drawn import FakeSam
from support.wrist_films import TEST, TRAIN, wrist_files

QUICK = TrainingOptions(steps=2, batch_size=2, size="64,48")


@pytest.mark.training
def test_from_films_to_the_papers_figures(tmp_path: Path, sam: FakeSam, capsys: pytest.CaptureFixture[str]) -> None:
    methods = ("labels", "walker", "meanteacher", "paper", "ours")
    ok = run(
        wrist_files(tmp_path), tmp_path / "out", QUICK, labels=None, methods=",".join(methods), seeds="0", jobs=0
    )  # fmt: skip
    assert ok
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert [line["method"] for line in results["table"]] == list(methods)
    assert results["cases"]["labelled"] == {"4": list(TRAIN)} and results["cases"]["unlabelled"] == {"4": 2}
    assert results["cases"]["test"] == list(TEST)
    assert results["task"]["sam"]["backend"] == "lite_medsam"
    assert results["published"]["dice"] == {"labels": 0.7429, "paper": 0.8417}
    assert results["warnings"][0].startswith("SAM: the embedded LiteMedSAM in place of the paper's ViT-H")
    assert results["warnings"][1] == "films: 4 train, 1 val, 2 test; the paper has 43 train, 12 val, 11 test"
    printed = capsys.readouterr().out
    assert "films: 4 train, 1 val, 2 test, 2 without a label; 5 right hands mirrored" in printed
    for method, figure in (("labels", "74.29"), ("paper", "84.17")):
        measured = next(line for line in results["table"] if line["method"] == method)["paper_dice"][0]
        row = next(line for line in printed.splitlines() if line.startswith(f"│ {method} "))
        assert figure in row and f" {100 * measured:.1f} " in row
    page = (tmp_path / "out" / "report.html").read_text()
    assert "74.29" in page and "arXiv 2411.12602, abstract" in page and "embedded LiteMedSAM in place" in page


def test_task_has_the_papers_settings(tmp_path: Path) -> None:
    weights = tmp_path / "sam_vit_h.pth"
    weights.write_bytes(b"")
    task = wrist_task(TrainingOptions(sam_checkpoint=weights))
    assert (task.sam.backend, task.sam.checkpoint) == ("vit_h", weights)
    assert task.recipe.stages_for(task.sam.backend) == PAPER_STAGES
    assert task.student.size == (384, 224) and task.student.network == "unet"
    training = task.training
    assert (training.steps, training.batch_size, training.learning_rate, training.mirror) == (1050, 16, 1e-3, ())
    assert task.names == load_task("wrist").names


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (TrainingOptions(sam_checkpoint=Path("no.pth")), r"--sam-checkpoint no\.pth: no such file"),
        (TrainingOptions(network="resnet"), r"student\.network: .*'resnet'"),
        (TrainingOptions(sam_model="vit_x", sam_checkpoint=Path(command.__file__)), r"sam\.backend: .*'vit_x'"),
    ],
)
def test_options_that_a_task_does_not_allow(options: TrainingOptions, message: str) -> None:
    with pytest.raises((UserError, NotFound), match=message):
        wrist_task(options)
