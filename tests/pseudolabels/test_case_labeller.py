from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from samstudent.imaging.case import CaseImage, read_image
from samstudent.pseudolabels.case import pseudo_label_case, pseudo_label_of
from samstudent.pseudolabels.case_labeller import CaseLabeller
from samstudent.pseudolabels.dice_bound import DiceEstimate
from samstudent.pseudolabels.provenance import provenance_of
from samstudent.sam.cached_sam import CachedSam
from samstudent.sam.results import Refinement, StructureResult
from samstudent.student.predict import binarize
from support.drawn import FakeSam, FakeStudent, dice, shapes, small_task, write_png

TASK = small_task()
SAM: Any = CachedSam(FakeSam())  # type: ignore[arg-type]


@pytest.fixture
def image(tmp_path: Path) -> CaseImage:
    return read_image(write_png(tmp_path / "c0.png", shapes(0)[0]))


@pytest.fixture
def student() -> FakeStudent:
    return FakeStudent({"c0": shapes(0)[1]})


def test_masks_are_from_sam_and_have_provenance(image: CaseImage, student: FakeStudent) -> None:
    labeller = CaseLabeller(TASK, student, SAM)
    label = labeller.label(image, SAM)
    assert dice(label.masks, shapes(0)[1]) > 0.9
    assert label.provenance.as_json()["student"] == student.version
    assert label.provenance.as_json().keys() == labeller.made_with.as_json().keys()


def test_a_rejected_structure_is_an_ignored_region(image: CaseImage, student: FakeStudent) -> None:
    # SAM that sees the dim square as nothing: its mask is empty, so nothing agrees.
    blind: Any = CachedSam(FakeSam(level=130))  # type: ignore[arg-type]
    label = CaseLabeller(TASK, student, blind).label(image, blind)
    assert [s.status for s in label.structures] == ["accepted", "rejected"]
    assert label.masks[0].any() and not label.masks[1].any() and not label.ignore[0].any()
    assert (label.ignore[1] >= shapes(0)[1][1]).all()


def test_rejected_mask_is_stored_for_review(image: CaseImage, student: FakeStudent) -> None:
    label = CaseLabeller(small_task(pseudo_labels={"threshold": {"square": 1.0}}), student, SAM).label(image, SAM)
    assert dice(label.rejected[1], shapes(0)[1][1]) > 0.85 and not label.rejected[0].any()
    assert not label.masks[1].any()


def test_structure_that_lost_all_pixels_is_ignored_in_training() -> None:
    """For any estimate: if it were accepted, its empty mask would be a target."""
    probabilities = np.zeros((2, 8, 8), np.float32)
    probabilities[0, 2:6, 2:6], probabilities[1, 2:4, 2:4] = 0.9, 0.6
    coarse, masks = probabilities > 0.5, probabilities > 0.7
    structures = [
        StructureResult(name, True, [], 0.9, agreement) for name, agreement in (("disk", 0.9), ("square", 0.0))
    ]
    refinement = Refinement(masks, coarse, structures, masks.astype(np.float16))
    estimates = {"disk": DiceEstimate(0.8, 0.7), "square": DiceEstimate(0.8)}
    label = pseudo_label_of(refinement, probabilities, TASK, provenance_of("v", FakeSam(), TASK), estimates)
    assert [s.status for s in label.structures] == ["accepted", "rejected"]
    assert (label.ignore[1] == coarse[1]).all() and label.soft[1].max() == pytest.approx(0.6, abs=1e-3)


def test_structure_not_found_by_the_student_is_absent(image: CaseImage) -> None:
    absent = {"c0": shapes(0)[1] * np.array([True, False])[:, None, None]}
    label = pseudo_label_case(image, FakeStudent(absent), SAM, TASK)
    assert [s.status for s in label.structures] == ["accepted", "absent"]
    assert not label.masks[1].any() and not label.ignore.any()
    assert np.array_equal(label.raw, absent["c0"])


def test_binarize_uses_the_arg_max_including_background() -> None:
    probabilities = np.array([0.45, 0.2, 0.3, 0.6], np.float32).reshape(2, 1, 2)
    assert binarize(probabilities, TASK)[:, 0].tolist() == [[True, False], [False, True]]
    # Background 0.4 is likelier than either of 0.35 and 0.25.
    weak = np.array([0.35, 0.25], np.float32).reshape(2, 1, 1)
    assert not binarize(weak, TASK).any()
    assert binarize(probabilities, small_task(overlap=True))[:, 0].tolist() == [[False, False], [False, True]]
