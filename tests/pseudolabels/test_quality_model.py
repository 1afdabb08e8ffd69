"""Estimates of Dice on made rows whose law is known."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit

from samstudent.errors import UserError
from samstudent.pseudolabels.quality_features import QualityFeatures, ShapeStatistics
from samstudent.pseudolabels.quality_filter import sam_quality
from samstudent.pseudolabels.quality_model import DISCOUNT, QualityModel, Row, case_folds, reliability


def made_rows(seed: int, cases: int, structures: int = 3, first: int = 0, helpful: bool = True) -> list[Row]:
    """Each case has a difficulty; signals see Dice through noise (or, not ``helpful``, only noise); one in twelve is a
    false alarm, far away and of Dice 0."""
    rng = np.random.default_rng(seed)
    rows = []
    for case in range(first, first + cases):
        hard = rng.normal(0, 0.5)
        for structure in range(structures):
            false_alarm = helpful and rng.random() < 1 / 12
            value = 1 + 0.7 * structure + hard + rng.normal(0, 0.8)
            seen = (value if helpful else 1.0) - 2 * false_alarm

            def noisy(slope: float, noise: float, seen: float = seen) -> float:
                return float(expit(slope * seen + rng.normal(0, noise)))

            signals = QualityFeatures(
                predicted_iou=noisy(0.4, 0.6),
                agreement=noisy(0.6, 0.6),
                stability=noisy(0.4, 0.8),
                entropy=float(np.clip(0.4 - 0.08 * seen + rng.normal(0, 0.05), 0, 1)),
                certainty=noisy(0.5, 0.5),
                offset=float(abs(rng.normal(0, 1)) + 3 * false_alarm),
                log_area=float(rng.normal(0, 1 + 2 * false_alarm)),
                components=1.0,
                prevalence=0.9,
            )
            dice = 0.0 if false_alarm else float(0.97 * expit(value))
            rows.append(Row(f"s{structure}", f"c{case}", case % 3, signals, dice))
    return rows


def judged(calibrator: QualityModel, rows: Sequence[Row]) -> dict:
    return reliability([calibrator.predict(r.structure, r.signals) for r in rows], [r.dice for r in rows])


@pytest.mark.parametrize(("cases", "correlation", "error"), [(5, 0.7, 0.1), (10, 0.75, 0.07), (30, 0.8, 0.04)])
def test_fresh_rows_are_judged_better_than_by_the_formula(cases: int, correlation: float, error: float) -> None:
    found, plain = [], []
    for seed in range(3):
        calibrator = QualityModel.fit(made_rows(seed, cases))
        fresh = made_rows(100 + seed, 100, first=1000)
        found.append(judged(calibrator, fresh))
        plain.append(
            reliability(
                [sam_quality(r.signals.predicted_iou, r.signals.agreement) for r in fresh], [r.dice for r in fresh]
            )
        )
        assert calibrator.kind == "signals"
    assert np.mean([r["correlation"] for r in found]) > max(correlation, np.mean([r["correlation"] for r in plain]))
    assert np.mean([r["calibration_error"] for r in found]) < min(
        error, np.mean([r["calibration_error"] for r in plain])
    )


def test_what_cross_validation_reports_holds_on_fresh_rows() -> None:
    calibrator = QualityModel.fit(made_rows(0, 40))
    fresh = judged(calibrator, made_rows(1, 150, first=1000))
    assert calibrator.report["correlation"] == pytest.approx(fresh["correlation"], abs=0.08)
    assert calibrator.report["calibration_error"] == pytest.approx(fresh["calibration_error"], abs=0.03)
    assert calibrator.report["error"] < calibrator.report["constant_error"]
    assert 0 < calibrator.report["uncertainty"] < 0.05
    assert set(calibrator.report["folds"]) == {"0", "1", "2"}
    assert (calibrator.report["rows"], calibrator.report["cases"]) == (120, 40)


def test_signals_that_say_nothing_are_not_used() -> None:
    rows = made_rows(3, 25, helpful=False)
    calibrator = QualityModel.fit(rows)
    fresh = made_rows(4, 100, first=1000, helpful=False)
    estimates = {
        s: [calibrator.predict(r.structure, r.signals) for r in fresh if r.structure == s] for s in ("s0", "s2")
    }
    true = {s: np.mean([r.dice for r in rows if r.structure == s]) for s in estimates}
    for structure, values in estimates.items():
        # Each structure's mean, hardly moved by its signals.
        assert np.mean(values) == pytest.approx(true[structure], abs=0.05)
        assert np.std(values) < 0.04


def test_a_structure_of_few_rows_is_drawn_to_the_others() -> None:
    rows = made_rows(0, 20, structures=2, helpful=False)
    mean = np.mean([row.dice for row in rows])
    once = Row("rare", "c3", 0, rows[0].signals, 0.0)
    often = [Row("rare", f"c{i}", 0, rows[0].signals, 0.0) for i in range(20)]
    few = QualityModel.fit([*rows, once]).predict("rare", rows[0].signals)
    many = QualityModel.fit([*rows, *often]).predict("rare", rows[0].signals)
    assert many < 0.15 < few < mean


@pytest.mark.parametrize("dice", [0.0, 0.5, 1.0])
def test_equal_dice_is_learnt_as_it_is(dice: float) -> None:
    rows = [Row(r.structure, r.case, r.fold, r.signals, dice) for r in made_rows(0, 8)]
    calibrator = QualityModel.fit(rows)
    for row in made_rows(1, 10):
        assert calibrator.predict(row.structure, row.signals) == pytest.approx(dice, abs=0.05)
    assert calibrator.report["correlation"] is None or abs(calibrator.report["correlation"]) <= 1
    json.dumps(calibrator.as_json(), allow_nan=False)


def test_unknown_signals_count_as_average_ones() -> None:
    rows = made_rows(0, 20)
    halved = [
        Row(r.structure, r.case, r.fold, QualityFeatures(agreement=r.signals.agreement), r.dice) for r in rows[::2]
    ]
    calibrator = QualityModel.fit([*rows[1::2], *halved])
    fresh = made_rows(1, 60, first=1000)
    blind = [calibrator.predict(r.structure, QualityFeatures()) for r in fresh]
    assert np.mean(blind) == pytest.approx(np.mean([r.dice for r in rows]), abs=0.1)
    # QualityFeatures that no labelled case had change nothing.
    for row in fresh[:5]:
        known = calibrator.predict(row.structure, row.signals)
        more = QualityFeatures(**{**vars(row.signals), "ensemble": 0.01, "jitter": 0.01})
        assert calibrator.predict(row.structure, more) == known


def test_rows_without_any_signal_give_the_means() -> None:
    rows = [Row(r.structure, r.case, r.fold, QualityFeatures(), r.dice) for r in made_rows(0, 10)]
    calibrator = QualityModel.fit(rows)
    assert calibrator.predict("s0", QualityFeatures()) < calibrator.predict("s2", QualityFeatures())


def test_few_cases_do_not_blow_up() -> None:
    rows = made_rows(5, 5, structures=1)
    calibrator = QualityModel.fit(rows)
    low, high = min(r.dice for r in rows), max(r.dice for r in rows)
    strange = QualityFeatures(
        predicted_iou=-3, agreement=0, stability=1, entropy=1, offset=6, log_area=-6, components=40
    )
    for signals in (strange, QualityFeatures(), rows[0].signals):
        assert 0 <= calibrator.predict("s0", signals) <= 1
    assert calibrator.predict("s0", strange) < high
    mean = np.mean([calibrator.predict(r.structure, r.signals) for r in rows])
    assert low <= mean <= high


@settings(max_examples=30)
@given(st.floats(0, 1), st.floats(0, 1), st.floats(0, 6), st.floats(0, 6))
def test_better_signals_never_mean_less(low: float, high: float, near: float, far: float) -> None:
    low, high = sorted((low, high))
    near, far = sorted((near, far))
    worse = QualityFeatures(agreement=low, stability=0.5, offset=far)
    better = QualityFeatures(agreement=high, stability=0.5, offset=near)
    assert FITTED.predict("s0", worse) <= FITTED.predict("s0", better) + 1e-12


FITTED = QualityModel.fit(made_rows(7, 6))


def test_below_three_cases_the_discounted_formula() -> None:
    signals = QualityFeatures(predicted_iou=0.9, agreement=0.4)
    for calibrator in (QualityModel.default(), QualityModel.fit([]), QualityModel.fit(made_rows(0, 2))):
        assert calibrator.kind == "default" and calibrator.report == {}
        assert calibrator.predict("any", signals) == pytest.approx(DISCOUNT * 0.6)
    assert QualityModel.default().predict("any", QualityFeatures()) == 0
    assert QualityModel.default().predict("any", QualityFeatures(expected=0.8)) == pytest.approx(DISCOUNT * 0.8)
    assert QualityModel.fit(made_rows(0, 3)).kind != "default"


def test_json_keeps_every_estimate() -> None:
    atlas = ShapeStatistics.of([np.ones((3, 4, 4), bool), np.zeros((3, 4, 4), bool)])
    for calibrator in (QualityModel.fit(made_rows(2, 12), atlas), QualityModel.default()):
        again = QualityModel.from_json(json.loads(json.dumps(calibrator.as_json(), allow_nan=False)))
        for row in made_rows(3, 10):
            assert again.predict(row.structure, row.signals) == calibrator.predict(row.structure, row.signals)
        assert again.report == calibrator.report
        assert (again.atlas is None) == (calibrator.atlas is None)


def test_another_versions_signals_are_refused() -> None:
    content = QualityModel.default().as_json() | {"signals": ["agreement"]}
    with pytest.raises(UserError, match="signals"):
        QualityModel.from_json(content)


def test_the_order_of_the_rows_does_not_matter() -> None:
    rows = made_rows(2, 8)
    one, other = QualityModel.fit(rows), QualityModel.fit(rows[::-1])
    assert one.predict("s1", rows[0].signals) == other.predict("s1", rows[0].signals)


def test_a_case_is_never_split() -> None:
    cases = [f"c{i}" for i in range(23) for _ in range(1 + i % 4)]
    parts = case_folds(cases, seed=0)
    assert all(len({part for part, c in zip(parts, cases, strict=True) if c == case}) == 1 for case in set(cases))
    assert len(set(parts)) == 10
    assert len(set(case_folds(cases[:6], 0))) == 3  # fewer cases than folds: each alone
    assert list(parts) == list(case_folds(cases, 0)) != list(case_folds(cases, 1))


def test_what_only_a_case_tells_is_not_taken_for_knowledge() -> None:
    """Rows of one case are copies, and its signals say nothing of a new one. Were it split, they would seem to."""
    rng = np.random.default_rng(0)
    shares = [
        field.name for field in dataclasses.fields(QualityFeatures) if field.name not in ("components", "log_area")
    ]
    rows = []
    for case in range(10):
        signals = QualityFeatures(**{name: float(rng.uniform(0, 1)) for name in shares})
        dice = float(rng.uniform(0.3, 1))
        rows += [Row("s", f"c{case}", 0, signals, dice) for _ in range(20)]
    correlation = QualityModel.fit(rows).report["correlation"]
    assert correlation is None or correlation < 0.5


def test_estimates_of_a_case_leave_out_absent_structures() -> None:
    signals = made_rows(1, 1)[0].signals
    assert FITTED.estimates(["s0", "s1"], [signals, None]) == {"s0": FITTED.predict("s0", signals)}


def test_a_dice_outside_0_to_1_is_named_and_nan_is_left_out() -> None:
    rows = made_rows(0, 5)
    with pytest.raises(UserError, match=r"'s0' in 'c0' is 1\.5"):
        QualityModel.fit([Row("s0", "c0", 0, QualityFeatures(), 1.5), *rows])
    unknown = Row("s0", "c0", 0, QualityFeatures(), math.nan)
    assert QualityModel.fit([unknown, *rows]).predict("s0", QualityFeatures()) == QualityModel.fit(rows).predict(
        "s0", QualityFeatures()
    )


def test_reliability_of_perfect_constant_and_biased_estimates() -> None:
    true = np.linspace(0, 1, 200)
    perfect = reliability(true, true)
    assert (perfect["correlation"], perfect["calibration_error"]) == pytest.approx((1, 0))
    assert [point["dice"] for point in perfect["coverage"]] == pytest.approx([0.875, 0.75, 0.625, 0.5], abs=0.01)
    assert len(perfect["curve"]) == 10 and all(b["rows"] == 20 for b in perfect["curve"])
    biased = reliability(true * 0.5, true)
    assert biased["calibration_error"] == pytest.approx(0.25, abs=0.01)
    assert biased["coverage"][-1]["error"] == pytest.approx(0.25, abs=0.01)
    constant = reliability(np.full(200, 0.5), true)
    assert constant["correlation"] is None
    few = reliability([0.2, 0.8], [0.8, 0.2])
    assert len(few["curve"]) == 1 and few["calibration_error"] == pytest.approx(0)
    assert perfect["noise"] == 0
    with pytest.raises(UserError, match="do not fit"):
        reliability([0.5], [])


def test_noise_is_the_calibration_error_of_perfect_estimates() -> None:
    rng = np.random.default_rng(0)
    drawn = []
    for _ in range(60):
        estimated = rng.uniform(0.3, 0.7, 120)
        drawn.append(reliability(estimated, estimated + rng.normal(0, 0.1, 120)))
    error, noise = (np.mean([result[key] for result in drawn]) for key in ("calibration_error", "noise"))
    assert noise == pytest.approx(error, rel=0.1)
