"""What is learnt from labels: kept, read again where it still counts, and taken again where nothing changed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from drawn import FakeSam, FakeTeacher, learn_recipes, small_task

from samstudent.errors import NotFound, UserError
from samstudent.pseudolabels.trust import Trust, inputs_of, learn_trust, take_again

TRUST = {"adapt": False, "readers": False, "trials": 2}
TASK = small_task(trust=TRUST)
LABELS = {"case0": {"tag": "final", "sha256": "0" * 64}}


def sam(digest: str = "f" * 64) -> Any:
    made = FakeSam()
    made.digest = digest
    return made


def learn(folder: Path, inputs: str | None = None) -> Trust:
    teacher: Any = FakeTeacher()
    return learn_trust(teacher, teacher.read, TASK, sam(), None, folder, inputs=inputs)


def inputs(**changes: Any) -> str:
    given = {"teacher": FakeTeacher(), "labels": LABELS, "task": TASK, "backend": sam(), "seed": 0} | changes
    return inputs_of(**given)


def test_what_was_learnt_is_read_again(tmp_path: Path) -> None:
    trust = learn(tmp_path)
    again = Trust.load(tmp_path, TASK, sam())
    assert again.digest == trust.digest and again.choice == trust.choice and again.share == trust.share
    assert set(again.choice.recipes) == {"disk", "square"}


def test_nothing_learnt_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="nothing was learnt"):
        Trust.load(tmp_path, TASK, sam())


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"choice": {"structures": []}}'])
def test_what_cannot_be_read_is_said(tmp_path: Path, content: str) -> None:
    (tmp_path / "trust.json").write_text(content)
    with pytest.raises(UserError, match="unreadable"):
        Trust.load(tmp_path, TASK, sam())


@pytest.mark.parametrize(
    ("task", "digest", "says"),
    [
        (TASK, "e" * 64, "another SAM"),
        (small_task(recipe={"box_margin": 0.2}), "f" * 64, "another recipe"),
        (small_task(structures=["disk", "ring"]), "f" * 64, "another task"),
        (small_task(overlap=True, recipe={"box_margin": 0.2}), "e" * 64, "another task and recipe and SAM"),
    ],
)
def test_it_means_nothing_for_another_task_recipe_or_sam(tmp_path: Path, task: Any, digest: str, says: str) -> None:
    learn(tmp_path)
    with pytest.raises(UserError, match=says):
        Trust.load(tmp_path, task, sam(digest))


def test_what_does_not_shape_a_recipe_may_change(tmp_path: Path) -> None:
    learn(tmp_path)
    other = small_task(schedule={"every_labels": 3}, trust={"trials": 5}, training={"steps": 7})
    assert Trust.load(tmp_path, other, sam()).choice.recipes


def test_the_first_files_did_not_tell_what_for(tmp_path: Path) -> None:
    learn(tmp_path)
    path = tmp_path / "trust.json"
    content = json.loads(path.read_text())
    del content["for"], content["inputs"]
    path.write_text(json.dumps(content))
    assert Trust.load(tmp_path, TASK, sam()).choice.recipes
    with pytest.raises(UserError, match="another task"):
        Trust.load(tmp_path, small_task(structures=["disk", "ring"]), sam())
    assert take_again([tmp_path], inputs(), tmp_path / "new", TASK, sam()) is None


@pytest.mark.parametrize(
    "change",
    [
        {"teacher": FakeTeacher(version="u" * 64)},
        {"teacher": FakeTeacher(3)},
        {"labels": {"case0": {"tag": "final", "sha256": "1" * 64}}},
        {"backend": sam("e" * 64)},
        {"seed": 1},
        {"task": TASK.model_copy(update={"trust": TASK.trust.model_copy(update={"trials": 3})})},
        {"task": small_task(trust=TRUST, sam={"adapt": {"steps": 7}})},
        {"task": small_task(trust=TRUST, recipe={"threshold": 0.4})},
        {"task": small_task(trust=TRUST, overlap=True)},
    ],
)
def test_the_digest_tells_all_that_is_learnt_from(change: dict[str, Any]) -> None:
    assert inputs() == inputs() != inputs(**change)


def test_the_digest_passes_over_what_nothing_is_learnt_from() -> None:
    sections = TASK.model_dump(mode="json") | {"schedule": {"every_labels": 3}, "pseudo_labels": {"threshold": 0.9}}
    assert inputs(task=type(TASK).model_validate(sections)) == inputs()


def test_the_same_inputs_are_not_learnt_from_twice(tmp_path: Path) -> None:
    trust = learn(tmp_path / "r2", inputs())
    learn_recipes(tmp_path / "r1", TASK)
    (tmp_path / "r2" / "adapted.safetensors").write_bytes(b"weights")
    earlier = [tmp_path / "r3", tmp_path / "r1", tmp_path / "r2"]
    again = take_again(earlier, inputs(), tmp_path / "r4", TASK, sam())
    assert again is not None and again.digest == trust.digest and again.record == trust.record
    for name in ("trust.json", "adapted.safetensors"):
        assert (tmp_path / "r4" / name).read_bytes() == (tmp_path / "r2" / name).read_bytes()
    # From there it is taken on.
    assert take_again([tmp_path / "r4"], inputs(), tmp_path / "r5", TASK, sam()) is not None


def test_other_inputs_or_a_damaged_folder_are_learnt_anew(tmp_path: Path) -> None:
    learn(tmp_path / "r1", inputs())
    new = tmp_path / "r2"
    assert take_again([tmp_path / "r1"], inputs(seed=1), new, TASK, sam()) is None
    path = tmp_path / "r1" / "trust.json"
    whole = json.loads(path.read_text())
    for damaged in (json.dumps(whole | {"adapted": "adapted.safetensors"}), path.read_text()[:-9], "[]"):
        path.write_text(damaged)
        assert take_again([tmp_path / "r1"], inputs(), new, TASK, sam()) is None
    assert not (new / "trust.json").exists()
