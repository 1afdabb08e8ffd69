from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from samstudent.pseudolabels.dice_bound import DiceEstimate
from samstudent.pseudolabels.quality_filter import (
    filter_structures,
    structure_quality,
    training_weights,
    uses_probabilities,
)
from samstudent.sam.results import StructureResult
from support.drawn import small_task


def result(name: str = "disk", present: bool = True, iou: float | None = 0.9, agreement: float | None = 0.4):
    return StructureResult(name, present, [], iou, agreement, present)


def test_quality_is_the_geometric_mean() -> None:
    assert structure_quality(result(iou=0.9, agreement=0.4)) == pytest.approx(0.6)
    assert structure_quality(result(iou=None, agreement=0.4)) == 0.4
    assert structure_quality(result(iou=0.9, agreement=None)) == 0
    assert structure_quality(result(present=False)) == 0


@given(st.floats(), st.floats())
def test_quality_is_between_0_and_1(iou: float, agreement: float) -> None:
    assert 0 <= structure_quality(result(iou=iou, agreement=agreement)) <= 1


@given(st.floats(0, 1), st.floats(0, 1), st.floats(0, 1))
def test_quality_is_monotonic_in_agreement(iou: float, low: float, high: float) -> None:
    low, high = sorted((low, high))
    assert structure_quality(result(iou=iou, agreement=low)) <= structure_quality(result(iou=iou, agreement=high))


def test_filter_uses_the_threshold_of_each_structure() -> None:
    task = small_task(pseudo_labels={"threshold": {"disk": 0.7, "square": 0.5}})
    probabilities = np.zeros((2, 4, 4), np.float32)
    first, second = filter_structures([result("disk"), result("square")], probabilities, task)
    assert (first.status, second.status) == ("rejected", "accepted")
    assert first.quality == second.quality == pytest.approx(0.6)


def test_absent_structure_has_a_certainty_of_absence_only() -> None:
    probabilities = np.zeros((2, 4, 4), np.float32)
    probabilities[0, 1, 1] = 0.3
    first, _ = filter_structures([result("disk", False, None, None), result("square")], probabilities, small_task())
    assert (first.status, first.quality) == ("absent", None)
    assert first.as_json() == {"status": "absent", "absence": pytest.approx(0.7)}


def test_training_weights_follow_from_label_metadata() -> None:
    task = small_task(structures=["a", "b", "c", "d"])
    info = {"a": {"status": "accepted", "quality": 0.8}, "b": {"status": "rejected", "quality": 0.1}}
    info["c"] = {"status": "absent", "absence": 0.9}
    assert training_weights(info, task) == pytest.approx([0.8, 0, 0.9, 0])
    assert training_weights(info, task, by_quality=False) == pytest.approx([1, 0, 1, 0])
    assert math.isclose(training_weights({"a": {"status": "accepted"}}, task)[0], 1)


def test_estimate_replaces_the_formula() -> None:
    probabilities = np.zeros((2, 4, 4), np.float32)
    results = [result("disk"), result("square")]
    first, second = filter_structures(results, probabilities, small_task(), {"disk": DiceEstimate(0.3, 0.2)})
    assert (first.status, first.quality, first.lower_bound) == ("rejected", 0.3, 0.2)
    assert first.as_json() | {"lower_bound": 0.2, "certainty": 0.9} == first.as_json()
    assert (second.status, second.quality) == ("accepted", pytest.approx(0.6))
    assert not {"lower_bound", "certainty"} & second.as_json().keys()
    # An estimate for a structure that is not there does not bring it back.
    gone = filter_structures(
        [result("disk", False, None, None), results[1]], probabilities, small_task(), {"disk": DiceEstimate(0.9, 0.8)}
    )
    assert (gone[0].status, gone[0].quality) == ("absent", None)


@pytest.mark.parametrize(
    ("statuses", "probabilities"),
    [
        (["accepted", "accepted", "rejected", "absent"], False),
        (["accepted", "rejected", "absent", "absent"], True),
        (["rejected", "rejected", "accepted", "rejected"], True),
        (["absent"], True),
        ([], True),
    ],
)
def test_targets_are_masks_if_most_are_accepted(statuses: list[str], probabilities: bool) -> None:
    labels = [{"disk": {"status": status}} for status in statuses]
    assert uses_probabilities(labels) is probabilities
    assert uses_probabilities(labels, "probabilities") and not uses_probabilities(labels, "masks")
