"""Dice, surface distance and their table, on squares with known overlap."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.metrics.surface_distance import compute_average_surface_distance
from scipy.ndimage import gaussian_filter

from samstudent import metrics
from samstudent.errors import UserError


def square(y: int, x: int, side: int, shape: tuple[int, int] = (32, 32)) -> np.ndarray:
    mask = np.zeros(shape, bool)
    mask[y : y + side, x : x + side] = True
    return mask


EMPTY = np.zeros((32, 32), bool)


@pytest.mark.parametrize(
    ("truth", "prediction", "expected"),
    [
        (square(4, 4, 10), square(4, 4, 10), 1.0),
        (square(4, 4, 10), square(4, 9, 10), 0.5),
        (square(0, 0, 4), square(20, 20, 4), 0.0),
        (square(0, 0, 4), EMPTY, 0.0),
        (EMPTY, square(0, 0, 4), 0.0),
        (EMPTY, EMPTY, math.nan),
    ],
)
def test_dice_of_squares(truth: np.ndarray, prediction: np.ndarray, expected: float) -> None:
    assert metrics.dice(truth, prediction) == pytest.approx(expected, nan_ok=True)
    # Views that run backwards, as of a volume whose axes are turned.
    turned = metrics.dice_per_structure(truth[None, ::-1, ::-1], prediction[None, ::-1, ::-1])
    assert turned == pytest.approx([expected], nan_ok=True)


@settings(max_examples=30)
@given(st.integers(0, 2**32 - 1))
def test_dice_in_3d_matches_the_formula_and_is_symmetric(seed: int) -> None:
    first, second = np.random.default_rng(seed).random((2, 5, 6, 7)) > 0.6
    expected = 2 * (first & second).sum() / (first.sum() + second.sum())
    assert metrics.dice(first, second) == pytest.approx(expected, abs=1e-6)
    assert metrics.dice(second, first) == pytest.approx(expected, abs=1e-6)


def test_surface_distance_is_in_mm_of_each_axis() -> None:
    truth = np.stack([square(10, 5, 1), square(10, 5, 8), EMPTY])
    prediction = np.stack([square(13, 9, 1), square(10, 5, 8), square(0, 0, 3)])
    found = metrics.surface_distances(truth, prediction, (2.0, 0.5))
    # 3 pixels of 2 mm along y and 4 of 0.5 mm along x.
    assert found[0] == pytest.approx(math.hypot(6, 2))
    assert found[1] == 0 and np.isnan(found[2])
    line, parallel = np.zeros((2, 1, 6, 5, 7), bool)
    line[0, 1, :, 2] = parallel[0, 3, :, 2] = True
    assert metrics.surface_distances(line, parallel, (1.5, 1.0, 1.0)) == pytest.approx([3.0])


def test_95th_percentile_of_the_distances_leaves_out_the_farthest_points() -> None:
    truth = np.zeros((2, 12, 60), bool)
    truth[:, 2, :50] = True  # a line
    prediction = truth.copy()
    prediction[0, 10, 0] = True  # one point of 51, 8 pixels away
    prediction[1] = np.roll(truth[1], 3, axis=0)
    assert metrics.surface_distances_95(truth, prediction, (0.5, 1.0)) == pytest.approx([0.0, 1.5])
    assert np.isnan(metrics.surface_distances_95(truth, np.zeros_like(truth), (1.0, 1.0))).all()


@pytest.mark.parametrize("shape", [(40, 30), (6, 20, 30)])
def test_surface_distance_is_that_of_the_whole_image(shape: tuple[int, ...]) -> None:
    """Also if masks reach the edge of the image."""
    truth, masks = (gaussian_filter(noise, 2) > 0 for noise in np.random.default_rng(1).normal(size=(2, *shape)))
    spacing = (1.5, 0.5, 2.0)[: len(shape)]
    whole = [torch.from_numpy(mask[None, None]).float() for mask in (masks, truth)]
    expected = compute_average_surface_distance(*whole, include_background=True, symmetric=True, spacing=list(spacing))
    assert metrics.surface_distances(truth[None], masks[None], spacing) == pytest.approx([expected.item()], abs=1e-5)


def test_table_distinguishes_missed_structures_and_false_positives() -> None:
    truths = [np.stack([square(4, 4, 10), EMPTY]), np.stack([square(4, 4, 10), square(0, 0, 4)])]
    predictions = [np.stack([square(4, 9, 10), square(0, 0, 2)]), np.stack([EMPTY, square(0, 0, 4)])]
    bone, other, mean = metrics.dice_table(truths, predictions, ["bone", "other"])
    assert bone == metrics.StructureScore("bone", 0.25, 0.25, cases=2, missed=1, false_alarms=0)
    assert other == metrics.StructureScore("other", 1.0, 0.5, cases=1, missed=0, false_alarms=1)
    assert mean == metrics.StructureScore("mean", 0.625, 0.375, cases=2, missed=1, false_alarms=1)


def test_structure_absent_in_all_cases_is_excluded_from_the_mean() -> None:
    masks = [np.stack([square(4, 4, 10), EMPTY])]
    _, absent, mean = metrics.dice_table(masks, masks, ["bone", "absent"])
    assert math.isnan(absent.mean)
    assert absent.cases == 0
    assert mean.mean == 1.0


def test_cases_of_different_sizes_are_measured() -> None:
    masks = [square(2, 2, 5)[None], square(2, 2, 5, (48, 20))[None]]
    assert metrics.dice_table(masks, masks, ["bone"])[0].mean == 1.0


@pytest.mark.parametrize(
    ("call", "wrong"),
    [
        (lambda: metrics.dice(EMPTY, EMPTY[:4]), r"\(1, 4, 32\)"),
        (lambda: metrics.surface_distances(EMPTY[None], EMPTY[None], (1.0,)), "spacing needs 2"),
        (lambda: metrics.dice_table([EMPTY[None]], [EMPTY[None]], ["a", "b"]), "2 names"),
        (lambda: metrics.dice_table([], [], ["a"]), "no cases"),
    ],
)
def test_invalid_arguments_are_named(call: Callable[[], object], wrong: str) -> None:
    with pytest.raises(UserError, match=wrong):
        call()
