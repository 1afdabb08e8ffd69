"""Figures of models on one labelled case."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nibabel
import numpy as np
import pytest

from samstudent.imaging.case import read_image
from samstudent.imaging.image_paths import channels_path
from samstudent.imaging.label_writing import write_masks
from samstudent.research.evaluation.measure import EvaluatedModel, measure_case, unit_of
from samstudent.rounds.cases import FileCase
from samstudent.rounds.trained import Trained, content_of
from support.dicom_files import save, save_series
from support.drawn import case_image, small_task, write_png
from support.drawn_folder import write_volume

TASK = small_task()


def model(name: str, masks: Any, trained: Trained = Trained()) -> EvaluatedModel:  # noqa: B008 (frozen)
    """Model that always predicts these masks."""
    found: Any = SimpleNamespace(predict=lambda image, refine: SimpleNamespace(masks=masks))
    return EvaluatedModel(name, found, False, trained)


def square(left: int, size: int = 10) -> Any:
    mask = np.zeros((32, 32), bool)
    mask[10 : 10 + size, left : left + size] = True
    return mask


EMPTY = np.zeros((32, 32), bool)


def png_case(folder: Path, masks: Any) -> FileCase:
    write_png(folder / "a.png", np.zeros((32, 32), np.uint8))
    write_masks(folder / "a.label.png", masks, TASK, case_image(np.zeros((32, 32))).grid)
    return FileCase("a", folder / "a.png", folder / "a.label.png")


def test_dice_and_distances_of_shifted_squares(tmp_path: Path) -> None:
    case = png_case(tmp_path, np.stack([square(10), EMPTY]))
    shifted, missed = model("r0001", np.stack([square(14), EMPTY])), model("r0002", np.stack([EMPTY, square(3)]))
    found = measure_case(case, [shifted, missed], TASK, of_study=False)
    assert (found.id, found.unit, found.trained) == ("a", "pixels", {})
    first, second = found.scores["r0001"], found.scores["r0002"]
    assert first.dice == [0.6, None], "6 of 10 columns in common; no square in label and mask"
    assert first.distance[0] == pytest.approx(2.0, abs=0.5) and first.distance_95[0] == pytest.approx(4.0)
    assert second.dice == [0.0, 0.0] and second.distance == [None, None]


def test_distances_are_in_mm_where_the_file_has_a_spacing(tmp_path: Path) -> None:
    task = small_task(dimension=3, student={"size": [16, 64, 64], "channels": [8, 16, 32]})
    truth = np.zeros((2, 5, 16, 16), bool)
    truth[0, 1:3, 4:10, 4:10] = True
    predicted = np.roll(truth, 1, axis=1)
    write_volume(tmp_path / "a.nii.gz", np.zeros((5, 16, 16), np.uint8))  # 2 mm from slice to slice
    write_volume(tmp_path / "label.nii.gz", truth[0].astype(np.uint8))
    case = FileCase("a", tmp_path / "a.nii.gz", tmp_path / "label.nii.gz")
    found = measure_case(case, [model("r0001", predicted)], task, of_study=False)
    assert found.unit == "mm" and found.scores["r0001"].distance_95[0] == pytest.approx(2.0)


def test_unit_of_each_format(tmp_path: Path) -> None:
    write_png(tmp_path / "a.png", np.zeros((4, 4), np.uint8))
    with_spacing, without = save(tmp_path / "a.dcm"), save(tmp_path / "b.dcm", PixelSpacing=None)
    units = [unit_of(read_image(path)) for path in (tmp_path / "a.png", with_spacing, without)]
    assert units == ["pixels", "mm", "pixels"]
    assert unit_of(read_image(save_series(tmp_path / "ct", [0.0, 1.0]))) == "mm"
    # A case of registered channels is several files.
    names = [tmp_path / f"p_{name}.nii.gz" for name in ("T1", "T2")]
    for path in names:
        nibabel.save(nibabel.Nifti1Image(np.zeros((4, 5, 6), np.float32), np.eye(4)), path)
    assert unit_of(read_image(channels_path(names, tmp_path))) == "mm"
    assert unit_of(case_image(np.zeros((4, 4)))) == "pixels"


def test_training_cases_are_found_by_content_and_in_the_study_by_id(tmp_path: Path) -> None:
    case = png_case(tmp_path, np.stack([square(10), EMPTY]))
    masks = np.stack([square(10), EMPTY])
    by_content = model("r0001", masks, Trained(images={content_of(case.image): "old name"}))
    by_id = model("r0002", masks, Trained(frozenset({"a"})))
    assert measure_case(case, [by_content, by_id], TASK, of_study=False).trained == {"r0001": "old name"}
    assert measure_case(case, [by_content, by_id], TASK, of_study=True).trained == {"r0001": "old name", "r0002": "a"}


def test_structures_that_the_label_leaves_open_are_not_measured(tmp_path: Path) -> None:
    task = small_task(unmentioned="unknown")
    case = png_case(tmp_path, np.stack([square(10), EMPTY]))
    found = measure_case(case, [model("r0001", np.stack([square(10), square(3)]))], task, of_study=False)
    assert found.scores["r0001"].dice == [1.0, None]
