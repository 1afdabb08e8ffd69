"""Labelled volumes for the adaptation of SAM: few slices, from the whole volume."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from samstudent.imaging.annotations import LabelledMasks
from samstudent.pseudolabels import out_of_fold
from samstudent.pseudolabels.out_of_fold import OutOfFoldCase, examples_of
from samstudent.sam.cached_sam import CachedSam
from samstudent.task import Task
from support.drawn import FakeSam, case_image

TASK = Task.model_validate(
    {
        "name": "v",
        "dimension": 3,
        "structures": ["vessel"],
        "student": {"size": [16, 16, 16]},
        "recipe": {"axis": "z", "component": "largest", "source": "student"},
    }
)


def oblique(slices: int = 24, drift: int = 2) -> Any:
    """A thin oblique cylinder: its masks do not overlap over a few slices."""
    masks = np.zeros((1, slices, 24, 64), bool)
    for z in range(slices):
        masks[0, z, 10:15, 2 + drift * z : 7 + drift * z] = True
    return masks


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_sam_is_adapted_on_slices_from_the_whole_volume(axis: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(out_of_fold, "_SLICES", 6)
    truth = np.moveaxis(oblique(), 1, 1 + axis)
    task = TASK.model_copy(update={"recipe": TASK.recipe.model_copy(update={"axis": "zyx"[axis]})})
    members = np.where(truth, 0.9, 0.05).astype(np.float16)[None]
    case = OutOfFoldCase("a", 0, case_image(np.where(truth[0], 90, 10)), members, LabelledMasks(truth))
    sam: Any = FakeSam()
    examples = examples_of(case, 0.0, task, CachedSam(sam), cases=1)
    assert len(examples) == 6 == sam.embedded
    for example, z in zip(examples, [0, 5, 9, 14, 18, 23], strict=True):
        np.testing.assert_array_equal(example.truth, np.moveaxis(truth, 1 + axis, 1)[:, z])
        np.testing.assert_array_equal(example.coarse, example.truth)
