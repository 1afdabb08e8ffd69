"""Choice among candidates on synthetic Dice with known gains."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from samstudent.pseudolabels.recipe_choice import (
    RecipeChoice,
    StructureChoice,
    candidates_of,
    choose,
    cross_validated_gain,
    paired_difference,
)
from samstudent.task import Recipe


def drawn(gains: Any, cases: int = 30, spread: float = 0.02, seed: int = 0, shown: Any = None) -> Any:
    """Dice (cases, S, C) of candidates with true ``gains`` (S, C) over a student of about 0.8."""
    rng = np.random.default_rng(seed)
    gains = np.asarray(gains, float)
    student = rng.normal(0.8, 0.05, (cases, len(gains), 1))
    noise = rng.normal(0, spread, (cases, *gains.shape)) * (np.arange(gains.shape[1]) > 0)
    dice = np.clip(student + gains + noise, 0, 1)
    return dice if shown is None else np.where(np.asarray(shown)[..., None], dice, np.nan)


def chosen(dice: Any) -> list[int]:
    return choose(dice)[0].tolist()


def test_best_candidate_is_chosen_or_the_simplest_of_equal_ones() -> None:
    index, gain, error = choose(drawn([[0, -0.05, 0.06, 0.06]]))
    assert index.tolist() == [2]
    assert gain == pytest.approx([0.06], abs=0.015)
    assert error == pytest.approx([0.02 / 30**0.5], rel=0.4)


def test_a_gain_within_one_standard_error_keeps_the_student() -> None:
    """0.004 of mean difference, standard error 0.04 / sqrt(16) = 0.01; then a twentieth of that."""
    student = np.linspace(0.7, 0.9, 16)[:, None]
    around = 0.04 * np.resize([1.0, -1.0], 16)[:, None]
    for scale, index in ((1.0, 0), (0.05, 1)):
        dice = np.stack([student, student + 0.004 + scale * around], axis=-1)
        assert chosen(dice) == [index]


def test_candidate_near_the_best_must_exceed_the_student() -> None:
    """The second is near the third, which exceeds the student; its own gain may be noise."""
    rng = np.random.default_rng(0)
    student = rng.normal(0.7, 0.05, (12, 1))
    common = rng.normal(0, 0.08, (12, 1))
    common -= common.mean()
    dice = np.stack([student, student + 0.01 + common, student + 0.03 + 0.05 * common], axis=-1)
    assert paired_difference(dice[..., 2] - dice[..., 1])[0] < paired_difference(dice[..., 2] - dice[..., 1])[1]
    assert chosen(dice) == [2]


def test_each_structure_has_its_own_choice() -> None:
    """SAM improves the lungs and worsens the heart."""
    dice = drawn([[0, 0.03], [0, 0.03], [0, 0.03], [0, -0.13]])
    assert chosen(dice) == [1, 1, 1, 0]


def test_structure_with_few_cases_follows_the_others() -> None:
    shown = np.ones((20, 8), bool)
    shown[2:, 0] = False
    shown[:, 7] = False
    index, gain, _ = choose(drawn([[0, 0.03]] * 8, cases=20, spread=0.04, shown=shown))
    assert index.tolist() == [1] * 8
    assert gain[[0, 7]] == pytest.approx([0.03, 0.03], abs=0.01)


def test_with_one_case_or_none_the_student_is_chosen() -> None:
    assert chosen(drawn([[0, 0.3], [0, 0.3]], cases=1)) == [0, 0]
    assert chosen(np.full((4, 2, 3), np.nan)) == [0, 0]


@pytest.mark.parametrize(("cases", "structures"), [(5, 2), (10, 32), (30, 5)])
def test_noise_mostly_selects_the_student_and_has_no_gain(cases: int, structures: int) -> None:
    kept, gains = [], []
    for seed in range(20):
        dice = drawn(np.zeros((structures, 4)), cases, spread=0.04, seed=seed)
        kept += [index == 0 for index in chosen(dice)]
        gains.append(cross_validated_gain(dice, [case % 3 for case in range(cases)]))
    assert np.mean(kept) > 0.5
    assert abs(np.mean(gains)) < 0.008


def test_cross_validated_gain_of_a_better_candidate() -> None:
    dice = drawn([[0, 0.05, 0.05], [0, 0.05, 0.02]])
    assert cross_validated_gain(dice, [case % 3 for case in range(30)]) == pytest.approx(0.05, abs=0.01)
    # Without folds each case is left out.
    few = drawn([[0, 0.05]], cases=6)
    assert cross_validated_gain(few, [0] * 6) == pytest.approx(cross_validated_gain(few, list(range(6))))
    assert np.isnan(cross_validated_gain(np.full((3, 1, 2), np.nan), [0, 1, 2]))


def test_four_candidates_are_ordered_by_complexity() -> None:
    recipe = Recipe(box_margin=0.1, component="largest")
    assert [c.source for c in candidates_of(recipe, adapted=True)] == ["student", "plain_sam", "sam", "fused"]
    assert [c.source for c in candidates_of(recipe, adapted=False)] == ["student", "sam", "fused"]
    assert [c.source for c in candidates_of(recipe, adapted=True, fusion=False)] == ["student", "plain_sam", "sam"]
    student, *others = candidates_of(recipe, adapted=True)
    assert student.component == "all" and all(c.component == "largest" and c.box_margin == 0.1 for c in others)


def test_json_round_trip_keeps_the_choice() -> None:
    structures = {"a": StructureChoice(Recipe(source="fused"), {"student": 0.5, "sam": None}, 0.1, 0.01, 4)}
    choice = RecipeChoice(structures, 0.02, "because")
    assert RecipeChoice.from_json(choice.as_json()) == choice
    assert choice.recipes["a"].source == "fused"
