from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any

import numpy as np
import pytest

from samstudent.research.experiment import summary
from samstudent.research.result_tables import quality_texts


def result(method: str, labels: int | None, seed: int, dice: list[list[float | None]]) -> dict[str, Any]:
    cases = {
        f"c{i}": {
            "dice": row,
            "distance": [None if not d else 1.0 for d in row],
            "truth": [d is not None for d in row],
            "found": [bool(d) for d in row],
        }
        for i, row in enumerate(dice)
    }
    return {
        "method": method, "labels": labels, "seed": seed, "structures": ["a", "b"], "training_seconds": 10.0,
        "cases": cases,
    }  # fmt: skip


def test_share_of_the_gap_and_spread() -> None:
    lines = summary.table(
        [
            result("labels", 5, 0, [[0.5, 0.7], [0.5, 0.7]]),
            result("labels", 5, 1, [[0.6, 0.8], [0.6, 0.8]]),
            result("ours", 5, 0, [[0.7, 0.8], [0.7, 0.8]]),
            result("all", None, 0, [[0.85, 0.85], [0.85, 0.85]]),
        ]
    )
    by = {line.method: line for line in lines}
    assert by["labels"].dice == pytest.approx((0.65, math.sqrt(0.005)))
    assert by["ours"].dice[0] == pytest.approx(0.75)
    assert math.isnan(by["ours"].dice[1])
    assert by["ours"].gap_closed == pytest.approx(0.5)
    assert by["ours"].structures == pytest.approx({"a": 0.7, "b": 0.8})


def test_dice_counts_false_positives_but_paper_dice_does_not() -> None:
    cases = [[1.0, 0.9], [0.0, 0.9]]
    given = result("labels", 5, 0, cases)
    given["cases"]["c1"]["truth"][0] = False
    given["cases"]["c1"]["found"][0] = True
    line = summary.table([given])[0]
    assert line.paper_dice[0] == pytest.approx((1.0 + 0.9) / 2)
    assert line.dice[0] == pytest.approx((0.5 + 0.9) / 2)
    assert (line.missed, line.false_positives) == (0, 1)


@pytest.mark.filterwarnings("error")
def test_structure_that_is_in_no_case_has_no_dice() -> None:
    line = summary.table([result("labels", 5, 0, [[None, 0.9], [None, 0.7]])])[0]
    assert math.isnan(line.structures["a"]) and line.structures["b"] == pytest.approx(0.8)
    assert line.dice[0] == pytest.approx(0.8)


def test_small_gap_has_no_closed_share() -> None:
    lines = summary.table([result("labels", 5, 0, [[0.8, 0.8]]), result("raw", 5, 0, [[0.9, 0.9]]),
                           result("all", None, 0, [[0.801, 0.801]])])  # fmt: skip
    assert math.isnan(lines[1].gap_closed)


def test_pairs_are_of_the_same_cases_and_seeds() -> None:
    rng = np.random.default_rng(0)
    hard = rng.uniform(0.2, 0.9, 30)
    results = []
    for seed in range(3):
        low = [[float(h), float(h)] for h in hard]
        results.append(result("labels", 5, seed, low))  # type: ignore[arg-type]
        better = [[float(h + 0.03 + rng.normal(0, 0.005))] * 2 for h in hard]
        results.append(result("ours", 5, seed, better))  # type: ignore[arg-type]
    results.append(result("all", None, 0, [[float(h + 0.1)] * 2 for h in hard]))
    found = {pair.other: pair for pair in summary.pairs(results, "ours")}
    low, high = found["labels"].interval
    assert found["labels"].difference == pytest.approx(0.03, abs=0.003)
    assert 0.02 < low < found["labels"].difference < high < 0.04
    assert found["all"].difference == pytest.approx(-0.07, abs=0.005)
    assert found["all"].interval[1] < 0


def test_difference_of_pairs_matches_the_table() -> None:
    """Also if one of them has false positives."""
    silent = [result("ours", 5, seed, [[0.9, None], [0.9, 0.8 + seed / 10]]) for seed in range(2)]
    alarms = [result("labels", 5, seed, [[0.9, 0.0], [0.7, 0.8]]) for seed in range(2)]
    for alarm in alarms:
        alarm["cases"]["c0"]["truth"][1] = False
    ours, labels = (line.dice[0] for line in summary.table([*silent, *alarms]))
    pair = summary.pairs([*silent, *alarms], "ours")[0]
    assert pair.difference == pytest.approx(ours - labels) == pytest.approx(0.275)
    assert pair.interval[0] <= pair.difference <= pair.interval[1]


def test_only_common_cases_are_compared() -> None:
    ours, labels = result("ours", 5, 0, [[0.9, 0.9], [0.1, 0.1]]), result("labels", 5, 0, [[0.8, 0.8]])
    assert summary.pairs([ours, labels], "ours")[0].difference == pytest.approx(0.1)


def test_a_wider_spread_of_cases_widens_the_interval() -> None:
    rng = np.random.default_rng(1)
    narrow, wide = (
        summary.bootstrap(0.5 + rng.normal(0, s, (3, 20, 2)), np.full((3, 20, 2), 0.5))[1] for s in (0.01, 0.1)
    )
    assert wide[1] - wide[0] > 3 * (narrow[1] - narrow[0])


def test_quality_of_pseudo_labels() -> None:
    rows = []
    for i in range(40):
        true = i / 40
        status = "accepted" if true > 0.5 else "rejected"
        rows.append({"structure": "a", "status": status, "quality": true, "raw": 0.5, "refined": true, "truth": True})
    rows.append({"structure": "a", "status": "absent", "quality": None, "raw": 0.0, "refined": 0.0, "truth": True})
    found = summary.quality("ours", 5, rows, "masks")
    assert found is not None
    assert found.accepted > found.refined
    assert found.acceptance == pytest.approx(19 / 40)
    assert found.reliability is not None
    assert found.reliability["correlation"] == pytest.approx(1)
    assert found.reliability["calibration_error"] == pytest.approx(0, abs=1e-9)
    assert found.bound is None
    assert summary.quality("ours", 5, []) is None


def test_coverage_of_the_bound_of_pseudo_labels() -> None:
    keys = ("case", "structure", "status", "quality", "lower_bound", "raw", "refined")
    values = [
        ("x", "a", "accepted", 0.95, 0.9, 0.5, 0.96),
        ("x", "b", "accepted", 0.95, 0.91, 0.5, 0.85),
        ("y", "a", "rejected", 0.5, 0.3, 0.5, 0.4),
        ("y", "b", "absent", None, None, 0.0, 0.0),
        ("y", "c", "accepted", 0.9, None, 0.5, 0.2),
    ]
    found = summary.quality("ours", 5, [dict(zip(keys, row, strict=True)) for row in values])
    assert found is not None and found.bound is not None
    assert (found.bound["certainty"], found.bound["coverage"], found.bound["structures"]) == (0.9, 0.75, 3)
    texts = quality_texts(asdict(found))
    assert texts[-3:] == ["75.0 %", "66.7 %", "50.0 %"]
