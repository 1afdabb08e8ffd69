from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from samstudent.metrics import dice_table
from samstudent.pseudolabels.choice import Evidence, decide, honest_gain


def evidence(gains: Any, cases: int = 30, spread: float = 0.02, seed: int = 0, shown: Any = None) -> Evidence:
    """Dice of recipes with true ``gains`` (S, C) over a student of about 0.8; paired differences vary by ``spread``."""
    rng = np.random.default_rng(seed)
    gains = np.asarray(gains, float)
    student = rng.normal(0.8, 0.05, (cases, len(gains), 1))
    noise = rng.normal(0, spread, (cases, *gains.shape)) * (np.arange(gains.shape[1]) > 0)
    dice = np.clip(student + gains + noise, 0, 1)
    shown = np.ones(dice.shape[:2], bool) if shown is None else shown
    return Evidence.of(np.where(shown[..., None], dice, np.nan), shown)


def test_means_are_those_of_the_metrics() -> None:
    # Four cases of 4 pixels: hit, missed, false alarm, rightly silent.
    truth = np.array([[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]], bool)[:, None, None]
    drawn = np.array([[1, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 1], [0, 0, 0, 0]], bool)[:, None, None]
    everywhere = np.ones_like(truth)
    dice = np.full((4, 1, 2), np.nan)
    for k, masks in enumerate((drawn, everywhere)):
        for i in range(4):
            size = masks[i].sum() + truth[i].sum()
            dice[i, 0, k] = 2 * (masks[i] & truth[i]).sum() / size if size else np.nan
    means = Evidence.of(dice, truth.any(axis=(2, 3))).means()[0]
    expected = [dice_table(list(truth), list(masks), ["a"])[0].honest for masks in (drawn, everywhere)]
    np.testing.assert_allclose(means, expected)


def test_a_right_silence_weighs_as_much_as_in_the_mean() -> None:
    """Of two recipes alike but for one false alarm, the silent one is ahead by what the means differ."""
    dice = np.full((5, 1, 2), 0.8)
    dice[4, 0] = 0.0, np.nan
    found = Evidence.of(dice, np.array([[1], [1], [1], [1], [0]], bool))
    difference = (found.dice[..., 1] - found.dice[..., 0]).mean()
    assert difference == pytest.approx(0.8 - 0.64) and found.valid.all()


def test_what_nobody_draws_is_no_case() -> None:
    found = Evidence.of(np.full((2, 1, 3), np.nan), np.zeros((2, 1), bool))
    assert not found.valid.any() and np.isnan(found.means()).all()
    assert decide(found, 0)[0].recipe == 0


def test_a_clear_winner_is_taken_and_of_equal_winners_the_simplest() -> None:
    verdict = decide(evidence([[0, 0, 0.06, 0.06, 0.06, -0.05]]), 0)[0]
    assert verdict.recipe == 2
    assert verdict.gain == pytest.approx(0.06, abs=0.015)
    assert verdict.standard_error == pytest.approx(0.02 / 30**0.5, rel=0.4)


def test_a_margin_within_the_noise_keeps_the_simplest() -> None:
    """0.004 of mean difference, standard error 0.04 / sqrt(16) = 0.01; then a twentieth of that."""
    student = np.linspace(0.7, 0.9, 16)[:, None]
    differences = 0.004 + 0.04 * np.resize([1.0, -1.0], 16)[:, None]
    for scale, recipe in ((1.0, 0), (0.05, 1)):
        dice = np.stack([student, student + 0.004 + scale * (differences - 0.004)], axis=-1)
        verdict = decide(Evidence.of(dice, np.ones((16, 1), bool)), 0)[0]
        assert (verdict.recipe, verdict.best) == (recipe, 1)
        assert verdict.margin == pytest.approx(0.004)
        assert verdict.gain == pytest.approx(0.004 * recipe)


def test_few_compete_and_others_must_lead_them_by_more_than_luck() -> None:
    """Recipes 1 and 20 are equally good, of which now one, now the other seems better; then 20 is by far."""

    def chosen(gain: float) -> list[int]:
        gains = np.zeros((2, 42))
        gains[:, 1], gains[:, 20] = 0.03, gain
        drawn = [evidence(gains, cases=16, spread=0.02, seed=seed) for seed in range(5)]
        return [verdict.recipe for found in drawn for verdict in decide(found, 0, few=3)]

    assert chosen(0.03).count(1) >= 9
    assert chosen(0.09) == [20] * 10


def test_each_structure_takes_its_own() -> None:
    """SAM lifts the lungs and ruins the heart."""
    verdicts = decide(evidence([[0, 0.03], [0, 0.03], [0, 0.03], [0, -0.13]]), 0)
    assert [verdict.recipe for verdict in verdicts] == [1, 1, 1, 0]
    assert verdicts[0].gain == pytest.approx(0.03, abs=0.01)


def test_where_structures_agree_few_cases_of_one_are_judged_by_all() -> None:
    shown = np.ones((20, 8), bool)
    shown[2:, 0] = False
    verdicts = decide(evidence([[0, 0.03]] * 8, cases=20, spread=0.04, shown=shown), 0)
    assert [verdict.recipe for verdict in verdicts] == [1] * 8
    assert verdicts[0].gain == pytest.approx(0.03, abs=0.01)


def test_a_structure_never_shown_follows_the_others() -> None:
    shown = np.ones((20, 3), bool)
    shown[:, 2] = False
    assert decide(evidence([[0, 0.05]] * 3, cases=20, shown=shown), 0)[2].recipe == 1


def test_what_is_far_below_the_student_alone_has_no_vote_in_fusion() -> None:
    """Recipe 1 is SAM's own mask, 2 its fusion with the student's; in the second structure SAM knows nothing."""
    found = evidence([[0, -0.05, 0.04], [0, -0.6, 0.04]])
    assert [verdict.recipe for verdict in decide(found, 0, [None, 1, 1])] == [2, 0]


def test_one_case_decides_nothing() -> None:
    assert decide(evidence([[0, 0.3], [0, 0.3]], cases=1), 0)[0].recipe == 0


@pytest.mark.parametrize(("cases", "structures", "share"), [(10, 32, 0.7), (30, 5, 0.6), (30, 2, 0.6)])
def test_hundred_recipes_of_pure_noise_gain_nothing_and_mostly_leave_the_student(
    cases: int, structures: int, share: float
) -> None:
    kept, honest, naive = [], [], []
    for seed in range(6):
        found = evidence(np.zeros((structures, 100)), cases, spread=0.04, seed=seed)
        verdicts = decide(found, seed, few=12)
        kept += [verdict.recipe == 0 for verdict in verdicts]
        honest.append(honest_gain(found, np.arange(cases) % 3, seed, few=12).gain)
        naive.append((found.means().max(axis=1) - found.means()[:, 0]).mean())
    assert np.mean(kept) > share
    # What looks won by picking the best is not there in cases that did not pick.
    assert np.mean(naive) > 0.012 and abs(np.mean(honest)) < 0.006


def test_the_honest_gain_of_a_real_one_and_its_error() -> None:
    gain = honest_gain(evidence([[0, 0.05, 0.05], [0, 0.05, 0.02]]), np.arange(30) % 3, 0)
    assert gain.gain == pytest.approx(0.05, abs=0.01)
    assert gain.standard_error == pytest.approx(0.02 / 60**0.5, rel=0.5)
    assert len(gain.structures) == 2


def test_without_folds_each_case_is_left_out() -> None:
    found = evidence([[0, 0.05]], cases=6)
    assert honest_gain(found, [0] * 6, 0).gain == pytest.approx(honest_gain(found, range(6), 0).gain)


def test_decisions_repeat() -> None:
    found = evidence(np.zeros((4, 20)), 8)
    assert decide(found, 3) == decide(found, 3)
