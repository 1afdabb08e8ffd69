"""Estimates of Dice on synthetic rows of a known distribution."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit

from samstudent.errors import UserError
from samstudent.pseudolabels.dice_bound import check
from samstudent.pseudolabels.quality_features import QualityFeatures, ShapeStatistics
from samstudent.pseudolabels.quality_filter import sam_quality
from samstudent.pseudolabels.quality_model import QualityModel, Row
from samstudent.pseudolabels.quality_regression import case_folds
from samstudent.pseudolabels.reliability import reliability

STATISTICS = ShapeStatistics.of([np.ones((3, 4, 4), bool), np.zeros((3, 4, 4), bool)])


def fit(rows: Sequence[Row]) -> QualityModel:
    model = QualityModel.fit(rows, STATISTICS)
    assert model is not None
    return model


def made_rows(seed: int, cases: int, structures: int = 3, first: int = 0, helpful: bool = True) -> list[Row]:
    """Each case has a difficulty; features show Dice through noise (or, not ``helpful``, only noise); one in twelve is
    a false positive, far away and of Dice 0."""
    rng = np.random.default_rng(seed)
    rows = []
    for case in range(first, first + cases):
        hard = rng.normal(0, 0.5)
        for structure in range(structures):
            false_positive = helpful and rng.random() < 1 / 12
            value = 1 + 0.7 * structure + hard + rng.normal(0, 0.8)
            shown = (value if helpful else 1.0) - 2 * false_positive

            def noisy(slope: float, noise: float, shown: float = shown) -> float:
                return float(expit(slope * shown + rng.normal(0, noise)))

            features = QualityFeatures(
                predicted_iou=noisy(0.4, 0.6),
                agreement=noisy(0.6, 0.6),
                expected_dice=noisy(0.5, 0.5),
                member_agreement=noisy(0.4, 0.8),
                position=float(abs(rng.normal(0, 1)) + 3 * false_positive),
                size=float(abs(rng.normal(0, 1 + 2 * false_positive))),
            )
            dice = 0.0 if false_positive else float(0.97 * expit(value))
            rows.append(Row(f"s{structure}", f"c{case}", features, dice))
    return rows


def measured(model: QualityModel, rows: Sequence[Row]) -> dict[str, Any]:
    return reliability([model.predict(r.structure, r.features) for r in rows], [r.dice for r in rows])


@pytest.mark.parametrize(("cases", "correlation", "error"), [(5, 0.7, 0.1), (10, 0.75, 0.07), (30, 0.8, 0.04)])
def test_estimates_on_new_rows_are_better_than_the_formula(cases: int, correlation: float, error: float) -> None:
    found, plain = [], []
    for seed in range(3):
        fresh = made_rows(100 + seed, 100, first=1000)
        found.append(measured(fit(made_rows(seed, cases)), fresh))
        formula = [sam_quality(r.features.predicted_iou, r.features.agreement) for r in fresh]
        plain.append(reliability(formula, [r.dice for r in fresh]))
    assert np.mean([r["correlation"] for r in found]) > max(correlation, np.mean([r["correlation"] for r in plain]))
    assert np.mean([r["calibration_error"] for r in found]) < min(
        error, np.mean([r["calibration_error"] for r in plain])
    )


def test_cross_validated_error_is_that_on_new_rows() -> None:
    model, fresh = fit(made_rows(0, 40)), made_rows(1, 150, first=1000)
    assert model.report["correlation"] == pytest.approx(measured(model, fresh)["correlation"], abs=0.08)
    assert model.report["calibration_error"] == pytest.approx(measured(model, fresh)["calibration_error"], abs=0.03)
    error = np.mean([abs(model.predict(r.structure, r.features) - r.dice) for r in fresh])
    assert model.report["error"] == pytest.approx(error, abs=0.03)
    assert (model.report["rows"], model.report["cases"]) == (120, 40)


def test_uninformative_features_have_small_weights() -> None:
    rows = made_rows(3, 25, helpful=False)
    model, fresh = fit(rows), made_rows(4, 100, first=1000, helpful=False)
    for structure in ("s0", "s2"):
        values = [model.predict(r.structure, r.features) for r in fresh if r.structure == structure]
        assert np.mean(values) == pytest.approx(np.mean([r.dice for r in rows if r.structure == structure]), abs=0.07)
        assert np.std(values) < 0.08


def test_structure_with_few_rows_is_shrunk_to_the_mean() -> None:
    rows = made_rows(0, 20, structures=2, helpful=False)
    mean = np.mean([row.dice for row in rows])
    once = Row("rare", "c3", rows[0].features, 0.0)
    often = [Row("rare", f"c{i}", rows[0].features, 0.0) for i in range(20)]
    few = fit([*rows, once]).predict("rare", rows[0].features)
    many = fit([*rows, *often]).predict("rare", rows[0].features)
    assert many < 0.25 < few < mean


@pytest.mark.parametrize("dice", [0.0, 0.5, 1.0])
def test_constant_dice_is_predicted(dice: float) -> None:
    model = fit([dataclasses.replace(row, dice=dice) for row in made_rows(0, 8)])
    for row in made_rows(1, 10):
        assert model.predict(row.structure, row.features) == pytest.approx(dice, abs=0.12)
    json.dumps(model.as_json(), allow_nan=False)


def test_unknown_features_are_replaced_by_the_mean() -> None:
    rows = made_rows(0, 20)
    halved = [dataclasses.replace(r, features=QualityFeatures(agreement=r.features.agreement)) for r in rows[::2]]
    model, fresh = fit([*rows[1::2], *halved]), made_rows(1, 60, first=1000)
    blind = [model.predict(r.structure, QualityFeatures()) for r in fresh]
    assert np.mean(blind) == pytest.approx(np.mean([r.dice for r in rows]), abs=0.1)
    # Features that no labelled case had change nothing.
    without = [dataclasses.replace(r, features=dataclasses.replace(r.features, predicted_iou=math.nan)) for r in rows]
    model = fit(without)
    for row in without[:5]:
        known = model.predict(row.structure, row.features)
        more = dataclasses.replace(row.features, predicted_iou=0.01)
        assert model.predict(row.structure, more) == known


def test_rows_without_features_give_the_mean_dice() -> None:
    model = fit([dataclasses.replace(row, features=QualityFeatures()) for row in made_rows(0, 10)])
    assert model.predict("s0", QualityFeatures()) < model.predict("s2", QualityFeatures())


def test_estimates_from_few_cases_are_bounded() -> None:
    rows = made_rows(5, 5, structures=1)
    model = fit(rows)
    low, high = min(r.dice for r in rows), max(r.dice for r in rows)
    strange = QualityFeatures(predicted_iou=-3, agreement=0, expected_dice=1, position=6, size=6)
    for features in (strange, QualityFeatures(), rows[0].features):
        assert 0 <= model.predict("s0", features) <= 1
    assert model.predict("s0", strange) < high
    assert low <= np.mean([model.predict(r.structure, r.features) for r in rows]) <= high


FITTED = fit(made_rows(7, 6))


@settings(max_examples=30)
@given(st.floats(0, 1), st.floats(0, 1), st.floats(0, 6), st.floats(0, 6))
def test_estimate_is_monotonic_in_the_features(low: float, high: float, near: float, far: float) -> None:
    low, high = sorted((low, high))
    near, far = sorted((near, far))
    worse = QualityFeatures(agreement=low, expected_dice=0.5, position=far)
    better = QualityFeatures(agreement=high, expected_dice=0.5, position=near)
    assert FITTED.predict("s0", worse) <= FITTED.predict("s0", better) + 1e-12


def test_below_three_cases_nothing_is_fitted() -> None:
    assert QualityModel.fit([], STATISTICS) is None and QualityModel.fit(made_rows(0, 2), STATISTICS) is None
    assert QualityModel.fit(made_rows(0, 3), STATISTICS) is not None


def test_json_round_trip_keeps_estimates() -> None:
    model = fit(made_rows(2, 12))
    again = QualityModel.from_json(json.loads(json.dumps(model.as_json(), allow_nan=False)))
    for row in made_rows(3, 10):
        assert again.predict(row.structure, row.features) == model.predict(row.structure, row.features)
        assert again.lower_bound(row.structure, row.features) == model.lower_bound(row.structure, row.features)
    assert again.report == model.report and again.as_json() == model.as_json()


def test_other_features_are_refused() -> None:
    with pytest.raises(UserError, match="features"):
        QualityModel.from_json(FITTED.as_json() | {"features": ["agreement"]})


def test_the_order_of_the_rows_does_not_matter() -> None:
    rows = made_rows(2, 8)
    assert fit(rows).as_json() == fit(rows[::-1]).as_json()


def test_folds_keep_the_rows_of_a_case_together() -> None:
    cases = [f"c{i}" for i in range(23) for _ in range(1 + i % 4)]
    folds = case_folds(cases, seed=0)
    assert all(len({fold for fold, c in zip(folds, cases, strict=True) if c == case}) == 1 for case in set(cases))
    assert len(set(folds)) == 10
    assert len(set(case_folds(cases[:6], 0))) == 3  # fewer cases than folds: each alone
    assert list(folds) == list(case_folds(cases, 0)) != list(case_folds(cases, 1))


def test_features_specific_to_a_case_get_no_weight() -> None:
    """Rows of one case are copies. If they were divided among folds, their features would seem informative."""
    rng = np.random.default_rng(0)
    names = [field.name for field in dataclasses.fields(QualityFeatures)]
    rows = []
    for case in range(10):
        features = QualityFeatures(**{name: float(rng.uniform(0, 1)) for name in names})
        dice = float(rng.uniform(0.3, 1))
        rows += [Row("s", f"c{case}", features, dice) for _ in range(20)]
    correlation = fit(rows).report["correlation"]
    assert correlation is None or correlation < 0.5


def test_estimates_omit_absent_structures() -> None:
    features = made_rows(1, 1)[0].features
    assert FITTED.estimates(["s0", "s1"], [features, None]) == {"s0": (FITTED.predict("s0", features), None)}


def test_an_offset_shifts_the_logit() -> None:
    model = fit(made_rows(2, 12))
    features = made_rows(1, 1)[0].features
    assert FITTED.shifted(0.5).predict("s0", features) > FITTED.predict("s0", features)
    assert FITTED.shifted(0.0).as_json() == FITTED.as_json()
    assert model.shifted(0.5).lower_bound("s0", features) > model.lower_bound("s0", features)


def test_dice_outside_0_to_1_is_refused_and_nan_ignored() -> None:
    rows = made_rows(0, 5)
    with pytest.raises(UserError, match=r"'s0' in 'c0' is 1\.5"):
        fit([Row("s0", "c0", QualityFeatures(), 1.5), *rows])
    assert fit([Row("s0", "c0", QualityFeatures(), math.nan), *rows]).as_json() == fit(rows).as_json()


@pytest.mark.parametrize("cases", [9, 20])
def test_bound_of_new_rows_is_true_as_often_as_certain(cases: int) -> None:
    """Coverage varies with the labelled cases: mean of six draws, with three standard errors of as many cases."""
    shares, validated = [], []
    for seed in range(6):
        model, fresh = fit(made_rows(seed, cases)), made_rows(100 + seed, 60, first=1000)
        bounds = np.array([model.lower_bound(row.structure, row.features) for row in fresh], dtype=float)
        found = check(bounds, np.array([row.dice for row in fresh]), [row.case for row in fresh])
        shares.append(found["coverage"])
        validated.append(model.report["bound"]["cross_validated"])
        assert all(0 <= bound <= 1 for bound in bounds)
        assert np.all(bounds <= [model.predict(row.structure, row.features) for row in fresh])
    assert 0.9 - 3 * math.sqrt(0.09 / (6 * cases)) < np.mean(shares) < 0.99
    if cases == 9:  # eight are too few for the cross-validation
        assert validated == [None] * 6
    else:
        assert np.mean([found["coverage"] for found in validated]) == pytest.approx(np.mean(shares), abs=0.06)


def test_without_enough_cases_there_is_no_bound() -> None:
    model = fit(made_rows(0, 8))
    assert model.lower_bound("s0", QualityFeatures()) is None
    assert model.report["bound"] == {"certainty": 0.9, "cases": 8, "needed": 9, "cross_validated": None}


def test_own_dice_takes_no_part_in_the_score_of_a_case() -> None:
    rows = made_rows(3, 12)
    changed = [dataclasses.replace(row, dice=0.0) if row.case == "c4" else row for row in rows]
    numbers = [number for number, row in enumerate(sorted(rows, key=lambda row: (row.case, row.structure)))
               if row.case == "c4"]  # fmt: skip
    distances = []
    for some in (rows, changed):
        bound = fit(some).bound
        assert bound is not None
        dice = np.array([row.dice for row in sorted(some, key=lambda row: (row.case, row.structure))])[numbers]
        distances.append((1.1 - dice) / bound.scores[numbers])
    assert distances[0] == pytest.approx(distances[1], rel=1e-12)
