from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from samstudent.sam.prompts import box_of
from samstudent.sam.volumes import (
    coarse_volume,
    interpolated,
    neighbour_weight,
    outliers,
    parts_of,
    slice_axis,
    smoothed,
    steps_of,
)
from samstudent.task import Recipe


def block(shape: tuple[int, ...], *bounds: tuple[int, int]) -> Any:
    mask = np.zeros(shape, bool)
    mask[tuple(slice(a, b) for a, b in bounds)] = True
    return mask


LONG_IN_Z = block((40, 30, 30), (2, 38), (10, 20), (5, 13))[None]


@pytest.mark.parametrize(
    ("spacing", "axis", "expected"),
    [
        (None, "auto", 2),  # 36, 10 and 8 slices
        ((1, 1, 1), "auto", 2),
        ((1, 1, 1), "y", 1),
        ((5, 0.7, 0.7), "auto", 0),  # as acquired, though z has the most slices
        ((0.7, 3, 0.7), "auto", 1),
        ((1, 1, 1.4), "z", 0),
    ],
)
def test_slice_axis_is_that_of_the_longest_voxels_or_the_largest_slices(spacing: Any, axis: Any, expected: int) -> None:
    assert slice_axis(LONG_IN_Z, spacing, axis) == expected


def test_axis_z_is_chosen_in_a_near_tie() -> None:
    assert slice_axis(block((30, 30, 30), (5, 15), (5, 14), (5, 18))[None]) == 0
    assert slice_axis(np.zeros((1, 3, 4, 5), bool)) == 0


def test_component_is_joined_across_a_missed_slice() -> None:
    p = np.where(block((20, 20, 20), (4, 16), (5, 12), (5, 12)), 0.9, 0.1).astype(np.float32)
    whole = p >= 0.5
    p[9:11] = 0.1
    for component in ("largest", "probable", "all"):
        np.testing.assert_array_equal(coarse_volume(p, Recipe(component=component)), whole)
    p[11] = 0.1
    assert not coarse_volume(p, Recipe(component="largest"))[9:12].any()  # too far: two things


def test_gap_is_filled_by_interpolation() -> None:
    p = np.zeros((5, 40, 40), np.float32)
    p[1, 10:21, 10:21] = 0.9
    p[3, 12:25, 10:23] = 0.8
    coarse = coarse_volume(p, Recipe())
    assert box_of(coarse[2]) == pytest.approx((10, 11, 21, 22), abs=1)
    np.testing.assert_array_equal(coarse[[0, 1, 3, 4]], (p >= 0.5)[[0, 1, 3, 4]])


def test_dissimilar_components_are_not_joined() -> None:
    left, right = block((12, 20, 30), (2, 6), (5, 12), (2, 8)), block((12, 20, 30), (7, 11), (5, 12), (18, 28))
    coarse = coarse_volume((left | right).astype(np.float32), Recipe(component="largest"))
    np.testing.assert_array_equal(coarse, right)
    larger = block((12, 20, 30), (7, 11), (2, 18), (1, 25))
    coarse = coarse_volume((left | larger).astype(np.float32), Recipe(component="largest"))
    np.testing.assert_array_equal(coarse, larger)
    assert not coarse_volume(np.zeros((3, 4, 4), np.float32), Recipe()).any()


def test_parts_are_sorted_by_size_without_small_ones() -> None:
    mask = block((20, 20), (1, 4), (1, 4)) | block((20, 20), (8, 15), (8, 15))
    mask[18, 18] = True
    large, small = parts_of(mask, Recipe(min_size=4))
    assert (large.sum(), small.sum()) == (49, 9)
    assert [part.sum() for part in parts_of(block((9, 9), (1, 2), (1, 2)), Recipe(min_size=4))] == [1]


def test_outlier_slice_is_detected() -> None:
    coarse = block((9, 30, 30), (1, 8), (10, 20), (10, 20))
    drawn = {z: coarse[z].copy() for z in range(1, 8)}
    assert outliers(drawn, coarse) == set()
    drawn[4] = np.ones((30, 30), bool)
    assert outliers(drawn, coarse) == {4}
    drawn = dict.fromkeys(range(1, 8), np.ones((30, 30), bool))
    assert outliers(drawn, coarse) == set()  # all agree with each other: then the student may be wrong
    shifted = {z: np.roll(coarse[z], 1, axis=1) for z in range(1, 8)}
    assert outliers(shifted, coarse) == set()


def test_fast_change_of_shape_is_not_an_outlier() -> None:
    """A thin oblique structure: masks of neighbouring slices do not overlap, nor do the student's."""
    coarse = np.zeros((6, 30, 30), bool)
    for z in range(6):
        coarse[z, 5:10, 5 * z : 5 * z + 4] = True
    drawn = {z: np.roll(coarse[z], 2, axis=1) for z in range(6)}
    assert outliers(drawn, coarse) == set()


def test_slice_found_by_sam_only_must_resemble_its_neighbours() -> None:
    coarse = block((5, 30, 30), (0, 5), (10, 20), (10, 20))
    drawn = {z: coarse[z].copy() for z in range(5)}
    coarse[2] = False
    assert outliers(drawn, coarse) == set()
    drawn[2] = np.ones((30, 30), bool)
    assert outliers(drawn, coarse) == {2}


def test_neighbours_of_a_slice_are_the_nearest_decoded_ones() -> None:
    coarse = block((13, 30, 30), (0, 13), (10, 20), (10, 20))
    drawn = {z: coarse[z].copy() for z in (0, 4, 8, 12)}
    drawn[4] = np.ones((30, 30), bool)
    assert outliers(drawn, coarse, step=4) == {4}
    assert outliers(drawn, coarse, step=3) == set()  # too far to tell


def test_smoothing_ignores_missing_slices() -> None:
    one = np.ones((2, 2), np.float32)
    logits = {3: 4 * one, 4: 8 * one, 7: 2 * one}
    result = smoothed(logits)
    np.testing.assert_allclose(result[3], (0.5 * 4 + 0.25 * 8) / 0.75)
    np.testing.assert_allclose(result[4], (0.5 * 8 + 0.25 * 4) / 0.75)
    np.testing.assert_allclose(result[7], 2)
    np.testing.assert_allclose(smoothed({0: one, 1: 5 * one, 2: one})[1], 0.25 + 2.5 + 0.25)
    for z, values in smoothed(logits, weight=0).items():
        np.testing.assert_array_equal(values, logits[z])


def test_weight_of_neighbours_decreases_with_slice_thickness() -> None:
    assert neighbour_weight(None, 0) == neighbour_weight((1, 1, 1), 2) == neighbour_weight((0.5, 1, 1), 0) == 0.25
    assert neighbour_weight((5, 0.5, 0.5), 0) == pytest.approx(0.025)


def test_decoded_slices_are_every_nth_and_the_ends_of_each_run() -> None:
    assert steps_of([2, 3, 4, 5, 6, 7, 11, 12, 13, 14], 3) == [2, 3, 6, 7, 11, 12, 14]
    assert steps_of([5], 4) == [5]
    assert steps_of([1, 2, 3], 1) == [1, 2, 3]


def test_logits_between_slices_are_interpolated_linearly() -> None:
    logits = {2: np.full((2, 2), 4, np.float32), 6: np.full((2, 2), -4, np.float32)}
    result = interpolated(logits, [0, 3, 4, 5, 9])
    assert {z: float(v[0, 0]) for z, v in result.items()} == {2: 4, 3: 2, 4: 0, 5: -2, 6: -4}
