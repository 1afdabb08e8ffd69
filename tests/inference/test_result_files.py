"""Formats of predicted masks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from samstudent.errors import UserError
from samstudent.imaging.dicom_seg_write import SegDescription
from samstudent.inference.result_files import ending_of, is_dicom, seg_description
from support.dicom_files import save
from support.drawn import small_task, write_png


def test_ending_of_each_format() -> None:
    volumes = small_task(dimension=3, student={"size": [16, 64, 64], "channels": [8, 16, 32]})
    assert [ending_of(name, small_task()) for name in ("seg.nrrd", "png", "dicom")] == [".seg.nrrd", ".png", ".dcm"]
    assert ending_of("nii.gz", volumes) == ".nii.gz"
    with pytest.raises(UserError, match=r"format 'png' cannot hold the volumes of task 'drawn': use one of seg\.nrrd"):
        ending_of("png", volumes)
    with pytest.raises(UserError, match=r"format 'dcm': use one of seg\.nrrd"):
        ending_of("dcm", volumes)


def test_description_names_the_structures_that_are_there_and_the_models() -> None:
    masks = np.zeros((2, 4, 4), bool)
    masks[1, 0] = True
    found = seg_description(masks, small_task(), {"model": "student+sam", "student": "a" * 64})
    assert found == SegDescription(
        "student+sam, task drawn", "AUTOMATIC", "student+sam", {"student": "a" * 64}, structures=["square"]
    )
    by_hand = seg_description(masks, small_task(), {"model": "sam"})
    assert by_hand.algorithm == "SEMIAUTOMATIC"
    assert seg_description(np.zeros((2, 4, 4), bool), small_task(), {"model": "sam"}).structures is None


def test_dicom_is_recognised_by_content(tmp_path: Path) -> None:
    png = write_png(tmp_path / "a.png", np.zeros((4, 4), np.uint8)).rename(tmp_path / "a.dcm")
    dicom = save(tmp_path / "b")
    (tmp_path / "c").write_text("no image")
    assert [is_dicom(path) for path in (png, dicom, tmp_path, tmp_path / "c")] == [False, True, True, False]
