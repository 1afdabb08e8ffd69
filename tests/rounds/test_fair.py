"""Comparison of two students, on scores with known results."""

from __future__ import annotations

import json

import numpy as np
import pytest

from samstudent.rounds.fair import TOLERANCE, FoldScores, compare_fairly, decide, table_of

NAMES = ["radius", "ulna"]


def scores(rows: np.ndarray) -> dict[str, list[float | None]]:
    return {f"c{number:03d}": [None if np.isnan(v) else float(v) for v in row] for number, row in enumerate(rows)}


def drawn(cases: int, gain: tuple[float, float], noise: float, seed: int = 0) -> tuple[dict, dict]:
    """Scores of challenger and champion: cases differ much, students by ``gain`` and ``noise``."""
    rng = np.random.default_rng(seed)
    champion = rng.uniform(0.4, 0.9, (cases, 2))
    return scores(champion + gain + rng.normal(0, noise, (cases, 2))), scores(champion)


def test_difference_is_the_mean_over_pairs():
    comparison = compare_fairly({"a": [0.8, 0.6], "b": [0.6, None]}, {"a": [0.7, 0.5], "b": [0.4, None]}, NAMES)
    assert comparison.structures["radius"].difference == pytest.approx(0.15)
    assert comparison.structures["ulna"].difference == pytest.approx(0.1) and comparison.structures["ulna"].cases == 1
    assert (comparison.mean.challenger, comparison.mean.champion) == pytest.approx((0.65, 0.525))
    assert comparison.mean.difference == pytest.approx(0.125) and comparison.held_out == 2
    json.dumps(comparison.as_json(), allow_nan=False)


def test_correct_absence_counts_1_against_a_false_positive():
    comparison = compare_fairly({"a": [0.9, None]}, {"a": [0.9, 0.0]}, NAMES)
    assert comparison.structures["ulna"].difference == 1
    assert compare_fairly({"a": [0.9, 0.0]}, {"a": [0.9, None]}, NAMES).structures["ulna"].difference == -1
    assert list(compare_fairly({"a": [0.9, None]}, {"a": [0.9, None]}, NAMES).structures) == ["radius"]


def test_only_common_cases_are_compared():
    assert compare_fairly({"a": [1.0, 1.0]}, {"b": [0.0, 0.0]}, NAMES) is None
    assert compare_fairly({"a": [None, None]}, {"a": [None, None]}, NAMES) is None
    assert compare_fairly({"a": [1.0, 1.0], "b": [0, 0]}, {"a": [0.5, 0.5]}, NAMES).mean.cases == 1


def test_small_gain_is_significant_despite_variable_cases():
    """The spread over cases is 0.14, the gain 0.02: significant in pairs only."""
    comparison = compare_fairly(*drawn(40, (0.02, 0.02), 0.02), NAMES)
    low, high = comparison.mean.interval
    assert 0 < low < 0.02 < high < 0.04


@pytest.mark.parametrize(("cases", "least"), [(5, 0.875), (30, 0.91)])
def test_intervals_have_nearly_their_nominal_coverage(cases: int, least: float):
    """95 % of them should; 200 drawn hold-outs, whose share is within 0.03 or so. Without widening: 0.85 of 5 cases."""
    held = 0
    for seed in range(200):
        low, high = compare_fairly(*drawn(cases, (0.01, 0.03), 0.05, seed), NAMES).mean.interval
        held += low <= 0.02 <= high
    assert least <= held / 200 <= 0.995


def test_the_same_seed_gives_the_same_interval():
    pair = drawn(10, (0, 0), 0.05)
    first = compare_fairly(*pair, NAMES, seed=1)
    assert first == compare_fairly(*pair, NAMES, seed=1) != compare_fairly(*pair, NAMES, seed=2)


def test_interval_of_one_case_is_unbounded():
    comparison = compare_fairly({"a": [0.9, 0.9]}, {"a": [0.8, 0.8]}, NAMES)
    assert comparison.mean.interval == (-1, 1) == comparison.structures["ulna"].interval


def test_out_of_fold_scores_are_used_only_with_a_small_hold_out():
    folds = FoldScores({"t1": [0.9, 0.9], "t2": [0.9, 0.9]}, {"t1": [0.5, 0.5]})
    challenger, champion = drawn(4, (0, 0), 0)
    comparison = compare_fairly(challenger, champion, NAMES, folds=folds)
    assert (comparison.held_out, comparison.mean.cases) == (4, 5)
    assert comparison.mean.difference == pytest.approx(0.08)
    assert "4 hold-out cases and 1 by cross-validation" in decide(comparison, champion=True).why
    assert compare_fairly({}, {}, NAMES, folds=folds).mean.cases == 1
    challenger, champion = drawn(5, (0, 0), 0)
    assert compare_fairly(challenger, champion, NAMES, folds=folds).mean.cases == 5


def test_equal_out_of_fold_scores_are_ignored():
    same = {f"t{i}": [0.5, None] for i in range(20)}
    challenger, champion = drawn(2, (-0.04, -0.04), 0)
    comparison = compare_fairly(challenger, champion, NAMES, folds=FoldScores(same, same))
    assert comparison.mean.cases == 2 and comparison.mean.difference == pytest.approx(-0.04)
    assert compare_fairly({}, {}, NAMES, folds=FoldScores(same, same)) is None


# ---- the decision ----


def test_without_champion_or_cases_the_challenger_is_served():
    assert decide(None, champion=False).promote
    decision = decide(None, champion=True)
    assert decision.promote and "without a comparison" in decision.why


@pytest.mark.parametrize(
    ("gain", "noise", "promote", "why"),
    [
        (0.03, 0.02, True, "promoted: mean Dice"),
        (-0.003, 0.03, True, "equal within noise"),
        (-0.003, 0.0, False, "not promoted, worse:"),
        (-0.02, 0.1, False, "worse or within noise"),
        (-0.2, 0.02, False, "not promoted"),
    ],
)
def test_better_or_equal_is_served(gain: float, noise: float, promote: bool, why: str):
    challenger, champion = drawn(30, (0, 0), noise)
    # Exactly this mean difference, whatever the noise drew.
    offset = gain - np.mean(np.array(list(challenger.values())) - np.array(list(champion.values())))
    challenger = {case: [v + offset for v in row] for case, row in challenger.items()}
    decision = decide(compare_fairly(challenger, champion, NAMES), champion=True)
    assert decision.promote is promote and why in decision.why, decision.why


def test_small_losses_are_accumulated():
    challenger, champion = drawn(30, (0, 0), 0.03)
    offset = -0.003 - np.mean(np.array(list(challenger.values())) - np.array(list(champion.values())))
    comparison = compare_fairly({c: [v + offset for v in row] for c, row in challenger.items()}, champion, NAMES)
    first = decide(comparison, champion=True)
    assert first.promote and first.accumulated_loss == pytest.approx(0.003)
    assert not decide(comparison, champion=True, accumulated_loss=first.accumulated_loss).promote
    # A gain pays it back.
    gained = decide(compare_fairly(*drawn(30, (0.02, 0.02), 0), NAMES), champion=True, accumulated_loss=TOLERANCE)
    assert gained.promote and gained.accumulated_loss == 0


def test_collapse_of_a_structure_prevents_a_promotion():
    decision = decide(compare_fairly(*drawn(20, (0.3, -0.15), 0.02), NAMES), champion=True)
    assert not decision.promote and "ulna collapsed (-0.1" in decision.why and "radius" not in decision.why


def test_insignificant_loss_is_not_a_collapse():
    rng = np.random.default_rng(0)
    champion = np.full((8, 2), 0.7)
    wild = np.stack([np.full(8, 0.8), 0.64 + rng.permutation([0.3, -0.3] * 4)], axis=1)
    comparison = compare_fairly(scores(wild), scores(champion), NAMES)
    assert comparison.structures["ulna"].difference < -0.05 and decide(comparison, champion=True).promote


def test_lost_structure_prevents_a_promotion_without_an_interval():
    challenger, champion = {"a": [0.9, 0.0], "b": [0.9, None]}, {"a": [0.5, 0.4], "b": [0.5, None]}
    comparison = compare_fairly(challenger, champion, NAMES)
    assert comparison.structures["ulna"].verdict == "lost" and not decide(comparison, champion=True).promote


def test_table_omits_structures_without_cases():
    assert table_of({"a": [0.5, None], "b": [0.7, None]}, NAMES) == {"radius": 0.6, "ulna": None, "mean": 0.6}
    assert table_of({}, NAMES) == {"radius": None, "ulna": None, "mean": None}


def test_a_challenger_that_cannot_be_compared_is_not_served():
    assert decide(None, champion=True).promote, "a small study without a labelled hold-out case"
    decision = decide(None, champion=True, accumulated_loss=0.002, trained_on=3)
    assert not decision.promote and decision.accumulated_loss == 0.002
    assert "cannot be compared" in decision.why and "promote it manually" in decision.why
    assert decide(None, champion=False, trained_on=3).promote, "the first student is served in any case"
