"""Simulated annotator with errors."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from samstudent.metrics import dice_per_structure
from samstudent.research.simulation.annotator import noisy_masks


def squares() -> NDArray[np.bool_]:
    """Two squares that touch, and an absent structure."""
    masks = np.zeros((3, 96, 96), dtype=bool)
    masks[0, 20:60, 20:48] = True
    masks[1, 20:60, 48:76] = True
    return masks


def test_annotator_without_errors_draws_the_label():
    assert np.array_equal(noisy_masks(squares(), 0.0, False, "a"), squares())


def test_larger_errors_lower_the_dice():
    dice = [
        np.nanmean(dice_per_structure(squares()[:2], noisy_masks(squares()[:2], n, True, "b"))) for n in (0.02, 0.1)
    ]
    assert 0.7 < dice[1] < dice[0] < 1


def test_structures_that_may_not_overlap_share_no_pixel():
    assert noisy_masks(squares(), 0.1, False, "b").sum(axis=0).max() == 1


def test_errors_of_a_case_are_always_the_same():
    one = noisy_masks(squares(), 0.05, True, "a")
    assert np.array_equal(one, noisy_masks(squares(), 0.05, True, "a"))
    assert not np.array_equal(one, noisy_masks(squares(), 0.05, True, "b"))


@pytest.mark.parametrize("noise", [0.1, 0.4])
def test_some_structures_are_missed(noise: float):
    found = [noisy_masks(squares(), noise, True, f"case{i}")[0].any() for i in range(300)]
    assert abs(1 - np.mean(found) - noise / 2) < 0.06


def test_absent_structures_stay_absent():
    assert not noisy_masks(squares(), 0.1, False, "a")[2].any()


def test_volumes_have_errors_too():
    ball = np.linalg.norm(np.mgrid[-10:11, -10:11, -10:11], axis=0) < 7
    noisy = noisy_masks(ball[None], 0.1, True, "a")
    assert 0.5 < dice_per_structure(ball[None], noisy)[0] < 1
