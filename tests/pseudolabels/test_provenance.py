from __future__ import annotations

from typing import Any

import pytest

from samstudent.pseudolabels.provenance import is_current, provenance_of
from support.drawn import FakeSam, small_task


def test_label_with_equal_provenance_is_current() -> None:
    info = {"provenance": provenance_of("v1", FakeSam(), small_task()).as_json(), "name": "x"}
    assert is_current(info, provenance_of("v1", FakeSam(), small_task()))
    assert not is_current({}, provenance_of("v1", FakeSam(), small_task()))


@pytest.mark.parametrize(
    "change",
    [
        {"recipe": {"box_margin": 0.1}},
        {"structures": ["disk", "ring"]},
        {"overlap": True},
        {"image": {"intensity": "percentile", "low": 1, "high": 99}},
        {"pseudo_labels": {"threshold": 0.7}},
    ],
)
def test_relevant_changes_make_a_label_outdated(change: dict[str, Any]) -> None:
    info = {"provenance": provenance_of("v1", FakeSam(), small_task()).as_json()}
    assert not is_current(info, provenance_of("v1", FakeSam(), small_task(**change)))


@pytest.mark.parametrize(
    "change", [{"description": "x"}, {"training": {"steps": 9}}, {"schedule": {"every_labels": 3}}]
)
def test_irrelevant_changes_leave_a_label_current(change: dict[str, Any]) -> None:
    info = {"provenance": provenance_of("v1", FakeSam(), small_task()).as_json()}
    assert is_current(info, provenance_of("v1", FakeSam(), small_task(**change)))


def test_other_student_or_sam_makes_a_label_outdated() -> None:
    info = {"provenance": provenance_of("v1", FakeSam(), small_task()).as_json()}
    other = FakeSam()
    other.digest = "0" * 64
    assert not is_current(info, provenance_of("v2", FakeSam(), small_task()))
    assert not is_current(info, provenance_of("v1", other, small_task()))
    # The student's own masks depend on neither SAM nor recipe.
    raw = {"provenance": provenance_of("v1", None, small_task()).as_json()}
    assert is_current(raw, provenance_of("v1", None, small_task(recipe={"box_margin": 0.1})))
