"""Offset from estimates for the models of one fold to those for the ensemble."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import expit, logit

from samstudent.metrics import dice_per_structure
from samstudent.pseudolabels.ensemble_offset import LARGEST, EstimatedMasks, ensemble_offset, expected_ensemble_dice


def square(at: int = 4) -> np.ndarray:
    mask = np.zeros((1, 16, 16), bool)
    mask[0, at : at + 8, 4:12] = True
    return mask


def test_expected_dice_of_identical_models_is_that_of_each() -> None:
    masks = EstimatedMasks(square(), np.array([0.7]))
    assert expected_ensemble_dice(masks, [masks] * 3, np.where(square(), 0.8, 0.1)) == pytest.approx([0.7])


def test_fold_that_misses_the_structure_counts_as_0() -> None:
    found = EstimatedMasks(square(), np.array([0.9]))
    missed = EstimatedMasks(np.zeros_like(square()), np.array([np.nan]))
    p = np.where(square(), 1.0, 0.0)
    # Half of the folds find it, all together do: promised 1 for (1 + 0) / 2.
    assert expected_ensemble_dice(found, [found, missed], p) == pytest.approx([0.95])
    assert np.isnan(expected_ensemble_dice(missed, [found, missed], p)).all()


def test_expected_ensemble_dice_is_closer_to_the_truth_than_member_dice() -> None:
    """Members with different errors: their mean is better than each, and a part of the gain is predicted."""
    rng = np.random.default_rng(0)
    truth = np.zeros((1, 40, 40), bool)
    truth[0, 10:30, 12:28] = True
    off_each, off_all = [], []
    for _ in range(30):
        noise = rng.normal(0, 1.6, (3, 1, 10, 10)).repeat(4, 2).repeat(4, 3)
        probabilities = expit(np.where(truth, 1.0, -1.0) + noise)
        common = probabilities.mean(0)
        own = [dice_per_structure(truth, v >= 0.5) for v in probabilities]
        folds = [EstimatedMasks(v >= 0.5, np.asarray(d)) for v, d in zip(probabilities, own, strict=True)]
        true_dice = dice_per_structure(truth, common >= 0.5)[0]
        expected = expected_ensemble_dice(EstimatedMasks(common >= 0.5, np.array([0.5])), folds, common)[0]
        off_each.append(true_dice - np.mean(own))
        off_all.append(true_dice - expected)
    assert np.mean(off_each) > 0.05
    assert abs(np.mean(off_all)) < np.mean(off_each)


def test_offset_shifts_the_mean_to_the_expected_dice() -> None:
    rng = np.random.default_rng(1)
    estimates = rng.uniform(0.2, 0.8, 50)
    expected = np.clip(estimates + 0.12, 0, 1)
    offset = ensemble_offset(estimates, expected)
    assert offset > 0 and expit(logit(estimates) + offset).mean() == pytest.approx(expected.mean(), abs=1e-3)
    assert ensemble_offset(np.append(estimates, np.nan), np.append(expected, 0.1)) == offset
    assert ensemble_offset(estimates, estimates) == pytest.approx(0, abs=1e-3)


def test_offset_is_0_without_pairs_and_limited() -> None:
    assert ensemble_offset(np.array([]), np.array([])) == 0 == ensemble_offset(np.array([np.nan]), np.array([0.4]))
    assert ensemble_offset(np.array([0.5, 0.4]), np.array([1.0, 1.0])) == LARGEST
    assert ensemble_offset(np.array([0.5, 0.4]), np.array([0.0, 0.0])) == -LARGEST
