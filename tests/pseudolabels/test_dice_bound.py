"""Lower bounds of Dice on synthetic scores with known coverage."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from numpy.typing import NDArray

from samstudent.errors import UserError
from samstudent.pseudolabels.dice_bound import DiceBound, case_weights, check, least_cases, scores_of

Float = NDArray[np.float64]


def bound_of(scores: Float, cases: list[str] | None = None, certainty: float = 0.9) -> DiceBound:
    """Bound with one regression for all rows; by default each row is a case."""
    cases = [f"c{i}" for i in range(len(scores))] if cases is None else cases
    return DiceBound.of(scores, cases, np.zeros(len(scores), dtype=np.intp), certainty)


def lower(bound: DiceBound, estimate: float) -> float:
    return float(bound.lower(np.full((1, 1), estimate))[0])


@pytest.mark.parametrize(("certainty", "cases"), [(0.9, 9), (0.95, 19), (0.8, 4), (0.5, 1)])
def test_smallest_number_of_cases(certainty: float, cases: int) -> None:
    assert least_cases(certainty) == cases
    bound_of(np.ones(cases), certainty=certainty)
    with pytest.raises(UserError, match=f"{cases - 1} labelled cases; .* needs {cases}"):
        bound_of(np.ones(cases - 1), certainty=certainty)
    with pytest.raises(UserError, match="certainty"):
        least_cases(1.0)


@pytest.mark.parametrize(("cases", "rank"), [(9, 1), (18, 1), (19, 2), (39, 4), (99, 10)])
def test_bound_of_single_structures_is_an_order_statistic(cases: int, rank: int) -> None:
    """The floor(0.1 (n + 1))-th smallest value, as in split conformal prediction."""
    scores = np.random.default_rng(cases).uniform(0.5, 2, size=cases)
    wanted = 1.1 - np.sort(scores)[::-1][rank - 1] * (1.1 - 0.8)
    assert lower(bound_of(scores), 0.8) == pytest.approx(wanted, abs=1e-4)


@pytest.mark.parametrize(
    ("cases", "structures", "dependence"), [(9, 1, 0.0), (20, 4, 0.0), (20, 4, 0.95), (40, 8, 0.5)]
)
def test_coverage_on_new_cases_is_at_least_the_certainty(cases: int, structures: int, dependence: float) -> None:
    """Structures of one case are correlated; 600 draws of the labelled cases and a new one."""
    rng, held = np.random.default_rng(cases + structures), []
    names = [f"c{i}" for i in range(cases) for _ in range(structures)]
    for _ in range(600):
        common = rng.normal(size=(cases + 1, 1))
        each = rng.normal(size=(cases + 1, structures))
        dice = 1 / (1 + np.exp(-1 - np.sqrt(dependence) * common - np.sqrt(1 - dependence) * each))
        estimates = np.full(dice.shape, 0.8)
        bound = bound_of(scores_of(estimates[:-1].ravel(), dice[:-1].ravel()), names)
        held.append(np.mean(dice[-1] >= lower(bound, 0.8)))
    # Draws are independent; the share of a draw varies no more than that of a single structure.
    tolerance = 3 * math.sqrt(0.09 / 600)
    assert 0.9 - tolerance < np.mean(held) < 0.9 + 1.5 / (cases + 1) + tolerance


def test_structures_of_one_case_share_its_weight() -> None:
    weights = case_weights(["a", "a", "b", "c", "c", "c"])
    assert weights == pytest.approx([1 / 8, 1 / 8, 1 / 4, 1 / 12, 1 / 12, 1 / 12])
    # A case with many bad structures counts as much as one with a single one.
    good = [f"c{i}" for i in range(40)]
    scores = np.concatenate([np.ones(40), np.full(30, 5.0)])
    assert lower(bound_of(scores, [*good, *["bad"] * 30]), 0.75) == 0.75


def test_bound_is_monotonic_and_true_for_ties() -> None:
    bound = bound_of(np.round(np.random.default_rng(0).uniform(0.5, 2, size=50), 1))
    estimates = np.linspace(0, 1, 200)[None]
    assert np.all(np.diff(bound.lower(estimates)) >= 0)
    tied = bound_of(np.ones(20)).lower(estimates)
    assert tied == pytest.approx(estimates[0], abs=1e-4)
    assert np.all(tied <= estimates[0] + 1e-9)  # rounded down
    strict = [bound_of(bound.scores, certainty=certainty).lower(estimates) for certainty in (0.8, 0.9, 0.95)]
    assert np.all(strict[0] >= strict[1])
    assert np.all(strict[1] >= strict[2])


def test_scores_and_bounds_of_perfect_and_lost_masks() -> None:
    scores = scores_of(np.array([1.0, 0.5, 0.0]), np.array([0.0, 0.5, 1.0]))
    assert scores == pytest.approx([11, 1, 1 / 11])
    assert bound_of(np.repeat(scores[:1], 9)).lower(np.array([[0.0, 0.5, 1.0]])) == pytest.approx([0, 0, 0])
    assert lower(bound_of(np.repeat(scores[2:], 9)), 0.5) == 1


def test_each_score_is_used_with_the_regression_that_did_not_know_its_case() -> None:
    scores, fold = 1 + np.arange(20) / 10, np.arange(20) % 2
    bound = DiceBound.of(scores, [f"c{i}" for i in range(20)], fold)
    estimates = np.array([[0.9], [1.0]])
    # The two lowest values are those of the two highest scores of the first regression, 2.8 and 2.6.
    assert bound.lower(estimates)[0] == pytest.approx(1.1 - 2.6 * 0.2, abs=1e-4)
    again = DiceBound.from_json(json.loads(json.dumps(bound.as_json(), allow_nan=False)))
    assert again.as_json() == bound.as_json()
    assert again.lower(estimates) == bound.lower(estimates)


def test_check_counts_structures_by_case() -> None:
    bounds, dice = np.array([0.5, 0.9, 0.92, 0.8]), np.array([0.6, 0.8, 0.95, 0.7])
    found = check(bounds, dice, ["a", "a", "b", "c"])
    assert found["coverage"] == pytest.approx((0.5 + 1 + 0) / 3)
    assert (found["cases"], found["structures"], found["mean"]) == (3, 4, pytest.approx(0.78))
    levels = {level["dice"]: (level["structures"], level["true"]) for level in found["levels"]}
    assert levels[0.9] == (2, 0.5)
    assert levels[0.95] == (0, None)
    assert levels[0.8] == (3, pytest.approx(2 / 3))
    with pytest.raises(UserError, match="do not fit"):
        check(bounds, dice, ["a"])
