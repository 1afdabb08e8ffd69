"""Examples of docs/examples run as documented."""

from __future__ import annotations

import json
import runpy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from samstudent.imaging.case import read_image
from samstudent.imaging.labels import read_masks
from samstudent.pseudolabels.ablations import Ablations
from samstudent.rounds.round_options import RoundOptions
from samstudent.rounds.study import Study
from support.drawn import dice, shapes, write_png
from support.infer_requests import serve
from support.student_study import TASK, trained

__all__ = ["trained"]

EXAMPLES = Path(__file__).resolve().parents[1] / "docs" / "examples"


def test_refine_masks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    y, x = np.mgrid[:120, :160]
    truth = (y - 60) ** 2 + (x - 80) ** 2 < 30**2
    Image.fromarray((60 + 120 * truth).astype(np.uint8)).save(tmp_path / "image.png")
    Image.fromarray(((abs(y - 60) < 29) & (abs(x - 80) < 31)).astype(np.uint8)).save(tmp_path / "mask.png")
    (tmp_path / "task.yaml").write_text("{name: disk, dimension: 2, structures: [disk], student: {size: [64, 64]}}")
    files = [str(tmp_path / name) for name in ("image.png", "mask.png", "task.yaml", "out.png")]
    monkeypatch.setattr("sys.argv", ["refine_masks.py", *files])
    runpy.run_path(str(EXAMPLES / "refine_masks.py"), run_name="__main__")
    refined = np.asarray(Image.open(tmp_path / "out.png")) > 0
    assert 2 * (refined & truth).sum() / (refined.sum() + truth.sum()) > 0.95
    assert capsys.readouterr().out.startswith("disk True 0.")


def test_run_round(tmp_path: Path) -> None:
    """Without the two parts of a round that take minutes."""
    y, x = np.mgrid[:64, :64]
    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
    for case, (row, column) in enumerate([(24, 24), (24, 40), (40, 24), (40, 40), (32, 32)]):
        truth = (y - row) ** 2 + (x - column) ** 2 < 12**2
        Image.fromarray((60 + 120 * truth).astype(np.uint8)).save(tmp_path / "images" / f"{case}.png")
        if case < 3:
            Image.fromarray(truth.astype(np.uint8)).save(tmp_path / "labels" / f"{case}.png")
    (tmp_path / "task.yaml").write_text(
        "{name: disk, dimension: 2, structures: [disk], student: {size: [64, 64], channels: [8, 16, 32]},"
        " training: {batch_size: 4, learning_rate: 0.01}}"
    )
    example = runpy.run_path(str(EXAMPLES / "run_round.py"))
    options = RoundOptions(steps=20, ablations=Ablations(adapt_sam=False, embedding_head=False))
    folders = tmp_path / "images", tmp_path / "labels"
    result = example["round_of_folders"](*folders, str(tmp_path / "task.yaml"), tmp_path / "round", options)
    assert result.model == tmp_path / "round" / "model.pt" and result.model.is_file()
    assert (result.labels, result.pseudo_labels) == (("0", "1", "2"), ("3", "4"))


def test_notebook_of_predictions(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The cells run one after the other in this process: a kernel would be 30 more packages, and start for seconds."""
    (tmp_path / "study").mkdir()
    (tmp_path / "task.yaml").write_text(TASK.model_dump_json())
    serve(SimpleNamespace(study=Study(str(tmp_path / "study"), str(tmp_path), TASK)), trained)
    pixels, truth = shapes(200, (100, 110))
    write_png(tmp_path / "film.png", pixels)
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    for cell in json.loads((EXAMPLES / "predict.ipynb").read_text(encoding="utf-8"))["cells"]:
        if cell["cell_type"] == "code":
            exec("".join(cell["source"]), names)
    assert names["study"].served_round == "r0001"
    assert dice(names["found"]["disk"], truth[0]) > 0.85
    # The real SAM redraws the disk.
    assert all(dice(names[result]["disk"], truth[0]) > 0.9 for result in ("refined", "redrawn"))
    saved = read_masks(tmp_path / "film.seg.nrrd", TASK, read_image(tmp_path / "film.png").grid)
    np.testing.assert_array_equal(saved, names["refined"].masks)
