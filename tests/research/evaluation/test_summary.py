"""Means, comparison and order of differences."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest

from samstudent.research.evaluation.measure import MeasuredCase, ModelScores, Unit, mean_dice
from samstudent.research.evaluation.pictures import chosen_cases
from samstudent.research.evaluation.report import finding, training_statement
from samstudent.research.evaluation.summary import as_json, summarize

NAMES = ["disk", "square"]


def models(*names: str) -> Any:
    return [SimpleNamespace(name=name) for name in names]


def case(id: str, *rows: tuple[float | None, float | None], unit: Unit = "mm", trained: bool = False) -> MeasuredCase:
    scores = {f"r{i}": ModelScores(row, (2.0 * i, None), (4.0 * i, None)) for i, row in enumerate(rows, 1)}
    return MeasuredCase(id, unit, {"r1": id} if trained else {}, scores)


def test_figures_are_without_training_cases() -> None:
    cases = [case("a", (0.8, 0.6)), case("b", (0.6, None)), case("c", (1.0, 1.0), trained=True)]
    found = summarize(cases, models("r1"), NAMES)
    assert (found.cases, found.trained, found.is_seen) == (2, 1, False)
    assert found.dice["r1"] == pytest.approx({"disk": 0.7, "square": 0.6, "mean": 0.65})
    assert found.cases_of == {"disk": 2, "square": 1}
    assert training_statement(found) == "1 more cases are not counted, because they were used to train r1."


def test_figures_of_training_cases_only_are_marked() -> None:
    found = summarize([case("a", (0.8, 0.6), trained=True)], models("r1"), NAMES)
    assert found.is_seen and found.dice["r1"]["disk"] == 0.8
    assert training_statement(found).startswith("All 1 cases were used to train r1: the figures do not hold")


def test_distances_are_grouped_by_unit() -> None:
    cases = [case("a", (0.8, 0.6)), case("b", (0.6, 0.6), unit="pixels"), case("c", (0.6, 0.6), unit="pixels")]
    found = summarize(cases, models("r1"), NAMES).distances
    assert [(part.model, part.unit, part.cases) for part in found] == [("r1", "mm", 1), ("r1", "pixels", 2)]
    assert found[0].mean == {"disk": 2.0, "square": None, "mean": 2.0}
    assert found[1].percentile_95 == {"disk": 4.0, "square": None, "mean": 4.0}


def test_second_model_less_the_first() -> None:
    cases = [case(f"c{i}", (0.5, 0.8), (0.7 + 0.01 * i, 0.8)) for i in range(6)]
    found = summarize(cases, models("r1", "r2"), NAMES)
    assert found.comparison is not None
    disk = found.comparison.structures["disk"]
    assert disk.difference == pytest.approx(0.225) and 0.15 < disk.interval[0] < disk.interval[1] < 0.3
    assert found.comparison.structures["square"].interval == (0, 0)
    assert finding(found.comparison, "r1", "r2").startswith("r2 is better than r1: +11.2 points")
    content = json.loads(json.dumps(as_json(found)))["comparison"]
    assert content["second_minus_first"] == ["r1", "r2"]
    assert content["structures"]["disk"]["dice"] == pytest.approx({"r1": 0.5, "r2": 0.725})


def test_differences_are_sorted_by_size() -> None:
    cases = [case("a", (0.9, 0.6), (0.8, None)), case("b", (0.2, 0.5), (0.9, 0.5))]
    found = summarize(cases, models("r1", "r2"), NAMES).differences
    assert [(one.case, one.structure) for one in found][:2] == [("b", "disk"), ("a", "square")]
    assert found[1].change == pytest.approx(0.4), "r1 predicts a square that the label lacks, and r2 does not"


def test_lowest_dice_of_one_model_comes_first() -> None:
    found = summarize([case("a", (0.9, 0.6)), case("b", (0.2, None))], models("r1"), NAMES).differences
    assert [(one.case, one.dice) for one in found] == [("b", (0.2,)), ("a", (0.6,)), ("a", (0.9,))]


def test_pictures_show_the_largest_differences_or_best_median_and_worst() -> None:
    cases = [case(name, (dice, dice), (0.5, 0.5)) for name, dice in zip("abcd", (0.5, 0.6, 0.9, 0.1), strict=True)]
    assert list(chosen_cases(cases, models("r1", "r2"))) == ["c", "d", "b"], "none of the equal case"
    assert chosen_cases(cases, models("r1")) == {
        "c": "best case of r1",
        "a": "median case of r1",
        "d": "worst case of r1",
    }
    assert mean_dice(case("a", (0.4, None)), "r1") == 0.4
