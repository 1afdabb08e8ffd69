"""Identity of tasks, and summary of value names."""

from __future__ import annotations

from samstudent.imaging.value_names import TaskIdentity, ValueNames, summary
from samstudent.task import Task

NERVES = Task.model_validate({"name": "nerves", "dimension": 2, "structures": ["nerve", "vessel"]})
SWAPPED = Task.model_validate({"name": "nerves", "dimension": 2, "structures": ["vessel", "nerve"]})
RENAMED = Task.model_validate({"name": "arm", "dimension": 2, "structures": ["vessel", "Nerve"]})
BONES = Task.model_validate({"name": "bones", "dimension": 2, "structures": ["bone"]})


def test_tasks_are_identified_by_name_and_structures() -> None:
    of = TaskIdentity.of
    assert of(NERVES).is_same_as(of(SWAPPED)) and of(NERVES).is_same_as(of(RENAMED))
    assert not of(NERVES).is_same_as(of(BONES))
    assert ValueNames(("bone",), "client", of(BONES)).is_of_another_task(NERVES)
    assert not ValueNames(("bone",), "client").is_of_another_task(NERVES)


def test_summary_reports_assumed_named_and_foreign_labels() -> None:
    assumed = ValueNames(("nerve", "vessel"), "assumed", TaskIdentity.of(NERVES))
    named = ValueNames(("vessel", "cyst", "ignore:nerve", "background"), "client", TaskIdentity.of(NERVES))
    other = ValueNames(("bone",), "client", TaskIdentity.of(BONES))
    text = "\n".join(summary([assumed] * 14 + [named, other, ValueNames.unknown("x.png: unclear", NERVES)], NERVES))
    assert "14 label maps have no names for their values; assumed from task nerves: 1 = nerve, 2 = vessel." in text
    assert "left out: cyst (1)" in text and "1 label maps are left out: they belong to task bones (bone)" in text
    assert "x.png: unclear" in text
    assert not summary([ValueNames((), "file"), ValueNames(("nerve",), "user")], NERVES)
