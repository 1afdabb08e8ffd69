"""nnU-Net's raw folder and its predictions; nnU-Net itself is not run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from PIL import Image

from samstudent.errors import UserError
from samstudent.research.experiment import nnunet
from support.drawn import shapes
from support.drawn_folder import labelled_folder
from support.experiment_setting import setting_of


@pytest.mark.parametrize("kind", ["labels", "labels_overlap"])
def test_raw_folder_for_nnunet_is_complete(tmp_path: Path, kind: str) -> None:
    setting = setting_of(labelled_folder(tmp_path / "data", train=2, test=1, kind=kind), tmp_path / "out")
    folder = nnunet.export(setting.cases, ["case0", "case1"], ["case2"], tmp_path / "raw")
    content = (folder / "dataset.json").read_text()
    assert sorted(p.name for p in (folder / "imagesTr").iterdir()) == ["case0_0000.png", "case1_0000.png"]
    assert [p.name for p in (folder / "imagesTs").iterdir()] == ["case2_0000.png"]
    values = np.asarray(Image.open(folder / "labelsTr" / "case1.png"))
    truth = setting.cases.truth("case1")
    assert truth is not None
    labels = json.loads(content)["labels"]
    for i, name in enumerate(setting.task.names):
        expected = labels[name] if isinstance(labels[name], list) else [labels[name]]
        assert (np.isin(values, expected) == truth.masks[i]).all()
    assert ("regions_class_order" in content) == (kind == "labels_overlap")


def test_volumes_for_nnunet_have_their_spacing(tmp_path: Path) -> None:
    data = labelled_folder(tmp_path / "data", train=2, test=1, depth=4)
    setting = setting_of(data, tmp_path / "out", dimension=3, student={"size": [32, 32, 32], "channels": [8, 16]})
    folder = nnunet.export(setting.cases, ["case0"], [], tmp_path / "raw")
    file: Any = nibabel.load(folder / "imagesTr" / "case0_0000.nii.gz")
    assert file.header.get_zooms() == (1.0, 1.0, 2.0)
    label: Any = nibabel.load(folder / "labelsTr" / "case0.nii.gz")
    truth = setting.cases.truth("case0")
    assert truth is not None
    assert (np.asarray(label.dataobj).transpose(2, 1, 0) == truth.masks[0] + 2 * truth.masks[1]).all()


@pytest.mark.parametrize("regions", [True, False])
def test_predictions_of_nnunet_become_masks(tmp_path: Path, regions: bool) -> None:
    _, masks = shapes(0)
    given = masks[:, None].astype(np.float32)
    if not regions:
        given = np.concatenate([1 - given.sum(0, keepdims=True), given])
    np.savez(tmp_path / "a.npz", probabilities=given)
    nnunet.keep_prediction(tmp_path / "a.npz", tmp_path / "kept" / "a.npz", 2)
    assert (nnunet.prediction(tmp_path / "kept", "a", masks.shape) == masks).all()


def test_missing_nnunet_is_reported_before_the_first_job(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(UserError, match="nnunetv2"):
        nnunet.require()
