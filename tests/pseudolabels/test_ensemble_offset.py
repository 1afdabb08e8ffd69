"""Estimates for one fold's models, carried over to all models together."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import expit, logit

from samstudent.metrics import dice_per_structure
from samstudent.pseudolabels.ensemble_offset import LARGEST, Answer, expected_dice, expected_of_all, shift_of


def square(at: int = 4) -> np.ndarray:
    mask = np.zeros((1, 16, 16), bool)
    mask[0, at : at + 8, 4:12] = True
    return mask


def test_sure_probabilities_promise_the_true_dice() -> None:
    truth, other = square(), square(6)
    assert expected_dice(other, truth.astype(np.float32)) == pytest.approx(dice_per_structure(truth, other))
    assert expected_dice(np.zeros_like(truth), np.zeros(truth.shape)) == [0]


def test_models_that_all_say_the_same_deserve_what_each_does() -> None:
    answer = Answer(square(), np.array([0.7]))
    assert expected_of_all(answer, [answer] * 3, np.where(square(), 0.8, 0.1)) == pytest.approx([0.7])


def test_a_fold_that_misses_the_structure_counts_nothing() -> None:
    found, missed = Answer(square(), np.array([0.9])), Answer(np.zeros_like(square()), np.array([np.nan]))
    p = np.where(square(), 1.0, 0.0)
    # Half of the folds find it, all together do: promised 1 for (1 + 0) / 2.
    assert expected_of_all(found, [found, missed], p) == pytest.approx([0.95])
    assert np.isnan(expected_of_all(missed, [found, missed], p)).all()


def test_what_is_expected_of_all_is_nearer_to_the_truth_than_what_each_deserves() -> None:
    """Members that err in different directions: their mean is better than each, and a part of that is seen."""
    rng = np.random.default_rng(0)
    truth = np.zeros((1, 40, 40), bool)
    truth[0, 10:30, 12:28] = True
    off_each, off_all = [], []
    for _ in range(30):
        noise = rng.normal(0, 1.6, (3, 1, 10, 10)).repeat(4, 2).repeat(4, 3)
        views = expit(np.where(truth, 1.0, -1.0) + noise)
        common = views.mean(0)
        own = [dice_per_structure(truth, v >= 0.5) for v in views]
        folds = [Answer(v >= 0.5, np.asarray(d)) for v, d in zip(views, own, strict=True)]
        deserved = dice_per_structure(truth, common >= 0.5)[0]
        expected = expected_of_all(Answer(common >= 0.5, np.array([0.5])), folds, common)[0]
        off_each.append(deserved - np.mean(own))
        off_all.append(deserved - expected)
    assert np.mean(off_each) > 0.05
    assert abs(np.mean(off_all)) < np.mean(off_each)


def test_the_shift_brings_the_mean_to_what_is_expected() -> None:
    rng = np.random.default_rng(1)
    estimates = rng.uniform(0.2, 0.8, 50)
    expected = np.clip(estimates + 0.12, 0, 1)
    shift = shift_of(estimates, expected)
    assert shift > 0 and expit(logit(estimates) + shift).mean() == pytest.approx(expected.mean(), abs=1e-3)
    assert shift_of(np.append(estimates, np.nan), np.append(expected, 0.1)) == shift
    assert shift_of(estimates, estimates) == pytest.approx(0, abs=1e-3)


def test_no_pairs_shift_nothing_and_nothing_shifts_without_bound() -> None:
    assert shift_of(np.array([]), np.array([])) == 0 == shift_of(np.array([np.nan]), np.array([0.4]))
    assert shift_of(np.array([0.5, 0.4]), np.array([1.0, 1.0])) == LARGEST
    assert shift_of(np.array([0.5, 0.4]), np.array([0.0, 0.0])) == -LARGEST
