"""What a client's list and the file beside a label map say of its values."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from samstudent.errors import UserError
from samstudent.files import sha256_file
from samstudent.task import Task
from samstudent.value_names import (
    KnownNames,
    TaskIdentity,
    ValueNames,
    names_from_label_info,
    names_in_folder,
    of_upload,
    resolve,
    sidecar_of,
    summary,
    write_sidecar,
)

NERVES = Task.model_validate({"name": "nerves", "dimension": 2, "structures": ["nerve", "vessel"]})
SWAPPED = Task.model_validate({"name": "nerves", "dimension": 2, "structures": ["vessel", "nerve"]})
RENAMED = Task.model_validate({"name": "arm", "dimension": 2, "structures": ["vessel", "Nerve"]})
BONES = Task.model_validate({"name": "bones", "dimension": 2, "structures": ["bone"]})


def info_of(*entries: tuple[Any, Any]) -> dict[str, Any]:
    return {"label_info": [{"name": name, "idx": idx} for name, idx in entries], "client_id": "x"}


def save_map(path: Path, *values: int) -> Path:
    """A label map that has these values, one pixel each."""
    pixels = np.zeros((6, 8), np.uint8)
    pixels.flat[: len(values)] = values
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


# ---- a client's list ----


@pytest.mark.parametrize(
    ("entries", "values", "named"),
    [
        ([("radius", 1), ("ulna", 2)], {1, 2}, {1: "radius", 2: "ulna"}),
        # Slicer with a background segment in front, or scribbles between: idx counts them, the voxels do not.
        ([("radius", 2), ("ulna", 3)], {1, 2}, {1: "radius", 2: "ulna"}),
        ([("radius", 2), ("ulna", 3)], {1}, {1: "radius"}),
        ([("radius", 1), ("ulna", 4)], {1, 2}, {1: "radius", 2: "ulna"}),
        ([("lunate", 3), ("ulna", 5), ("radius", 6)], {1, 2, 3}, {1: "lunate", 2: "ulna", 3: "radius"}),
        # The values show that a client means its idx.
        ([("radius", 2), ("ulna", 3)], {2, 3}, {2: "radius", 3: "ulna"}),
        ([("radius", 2), ("ulna", 3)], {3}, {3: "ulna"}),
        ([("radius", 10), ("ulna", 255)], {255}, {255: "ulna"}),
        ([("radius", 2.0), ("ulna", 3.0)], {2, 3}, {2: "radius", 3: "ulna"}),
        # Both readings are possible and say the same of what is there.
        ([("radius", 1), ("ulna", 4)], {1}, {1: "radius"}),
        # A client that does send the background.
        ([("background", 0), ("radius", 1), ("ulna", 2)], {1, 2}, {1: "radius", 2: "ulna"}),
        ([("background", 1), ("radius", 2)], {1, 2}, {1: "background", 2: "radius"}),
        # Slicer never sends them in another order, so a client means them.
        ([("ulna", 2), ("radius", 1)], {1, 2}, {1: "radius", 2: "ulna"}),
        ([("ulna", 3), ("radius", 2)], {2}, {2: "radius"}),
        ([("ulna", None), ("radius", None)], {1, 2}, {1: "ulna", 2: "radius"}),
        ([(" ulna ", 1), ("ignore:radius", 2)], {1, 2}, {1: "ulna", 2: "ignore:radius"}),
    ],
)
def test_names_from_label_info(entries: list[tuple[Any, Any]], values: set[int], named: dict[int, str]) -> None:
    names = names_from_label_info(info_of(*entries), values)
    assert names is not None
    by_value = dict(enumerate(names, 1))
    assert {value: by_value[value] for value in values} == {value: named[value] for value in values}


@pytest.mark.parametrize(
    ("entries", "values", "message"),
    [
        ([("radius", 2), ("ulna", 3)], {2}, r"two ways: value 2 .*'radius' by idx, 'ulna' by its place"),
        ([("background", 1), ("radius", 2)], {1}, "two ways: value 1"),
        ([("radius", 2), ("ulna", 3)], {1, 3}, r"names 2 = radius, 3 = ulna, but .* values 1, 3"),
        ([("radius", 1)], {1, 2}, "1 = radius, but .* values 1, 2"),
        ([("ulna", 3), ("radius", 2)], {1}, "values 1"),
        ([], {1}, "names no segment, but"),
        ([("radius", 1), ("Radius ", 2)], {1}, "one structure twice: 'radius' and 'Radius '"),
        ([("radius", 1), ("ulna", 1)], {1}, "idx 1 is given twice, to 'radius' and 'ulna'"),
        ([("", 1)], {1}, "must be a text that is not empty, not ''"),
        ([("  ", 1)], {1}, "must be a text that is not empty"),
        ([(3, 1)], {1}, "must be a text that is not empty, not 3"),
        ([(None, 1)], {1}, "must be a text"),
        ([("radius", "1")], {1}, "idx of 'radius' must be a whole number, not '1'"),
        ([("radius", True)], {1}, "whole number, not True"),
        ([("radius", 1.5)], {1}, "whole number, not 1.5"),
        ([("radius", -1)], {1}, "from 1 to 65535, not -1"),
        ([("radius", 10**9)], {1}, "from 1 to 65535"),
        ([("radius", 0), ("ulna", 1)], {1}, "idx 0 is the background"),
        ([("radius", 1), ("ulna", None)], {1}, "'ulna' has no idx"),
    ],
)
def test_lists_that_cannot_be_read_in_one_way(entries: list[tuple[Any, Any]], values: set[int], message: str) -> None:
    with pytest.raises(UserError, match=message):
        names_from_label_info(info_of(*entries), values)


def test_label_info_that_says_nothing_or_nonsense() -> None:
    assert names_from_label_info({}, {1}) is None and names_from_label_info({"label_info": []}, set()) == ()
    for wrong in ("radius", [1, 2], [{"idx": 1}], {"radius": 1}):
        with pytest.raises(UserError, match="label_info"):
            names_from_label_info({"label_info": wrong}, set())


def test_two_structures_of_alike_names_are_two() -> None:
    names = names_from_label_info(info_of(("a b", 1), ("a_b", 2)), {1, 2}, ["a b", "a_b"])
    assert names == ("a b", "a_b")
    with pytest.raises(UserError, match="twice"):
        names_from_label_info(info_of(("a b", 1), ("a_b", 2)), {1, 2}, ["a b"])


def test_an_upload_that_names_no_structure_of_the_task(tmp_path: Path) -> None:
    path = save_map(tmp_path / "a.png", 1)
    with pytest.raises(UserError, match=r"none of its names \['phalanx'\] is a structure of the task"):
        of_upload(path, info_of(("phalanx", 1)), NERVES)
    named = of_upload(path, info_of(("Vessel ", 1), ("phalanx", 2)), NERVES)
    assert named.source == "client" and named.left_out(NERVES) == ["phalanx"]
    assert of_upload(path, {}, NERVES) == ValueNames(("nerve", "vessel"), "assumed", TaskIdentity.of(NERVES))
    assert "value 3" in str(of_upload(save_map(tmp_path / "b.png", 3), {}, NERVES).problem)


# ---- the file beside a label map ----


def settle(path: Path, task: Task, **info: Any) -> ValueNames:
    return resolve(path, sha256_file(path), info, task, KnownNames(path.parent))


def test_the_file_beside_counts_before_the_task(tmp_path: Path) -> None:
    path = save_map(tmp_path / "a.png", 1, 2)
    assert settle(path, NERVES).source == "assumed"
    first = ValueNames(("vessel", "nerve"), "client", TaskIdentity.of(NERVES))
    write_sidecar(path, sha256_file(path), first)
    assert settle(path, NERVES) == settle(path, BONES) == first
    written = json.loads(sidecar_of(path).read_text())
    assert written["values"] == {"1": "vessel", "2": "nerve"} and written["sha256"] == sha256_file(path)


def test_a_file_beside_that_was_corrected_by_hand(tmp_path: Path) -> None:
    path = save_map(tmp_path / "a.png", 1, 2)
    write_sidecar(path, sha256_file(path), settle(path, NERVES))
    content = json.loads(sidecar_of(path).read_text())
    sidecar_of(path).write_text(json.dumps(content | {"source": "user", "values": {"1": "vessel", "2": "nerve"}}))
    assert settle(path, NERVES).names == ("vessel", "nerve") and not summary([settle(path, NERVES)], NERVES)


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        '{"sha256": 1}',
        '{"sha256": "x", "source": "me"}',
        '{"sha256": "x", "source": "user", "values": {"a": "b"}}',
    ],
)
def test_a_file_beside_that_cannot_be_read_is_a_problem(tmp_path: Path, text: str) -> None:
    """Not passed over: somebody may have corrected it."""
    path = save_map(tmp_path / "a.png", 1, 2)
    sidecar_of(path).write_text(text)
    assert "a.png.values.json" in str(settle(path, NERVES).problem)


def test_equal_content_under_another_name(tmp_path: Path) -> None:
    path = save_map(tmp_path / "a.png", 1, 2)
    write_sidecar(path, sha256_file(path), ValueNames(("vessel", "nerve"), "client"))
    renamed = path.rename(tmp_path / "b.png")
    assert settle(renamed, NERVES).names == names_in_folder(renamed) == ("vessel", "nerve")
    other = save_map(tmp_path / "c.png", 1, 2, 2)
    assert settle(other, NERVES).source == "assumed" and names_in_folder(other) is None


def test_equal_content_with_two_meanings(tmp_path: Path) -> None:
    first, second = save_map(tmp_path / "a.png", 1, 2), save_map(tmp_path / "b.png", 1, 2)
    sha256 = sha256_file(first)
    write_sidecar(first, sha256, ValueNames(("vessel", "nerve"), "client"))
    write_sidecar(second, sha256, ValueNames(("nerve", "vessel"), "client"))
    assert settle(first, NERVES).names == ("vessel", "nerve") and settle(second, NERVES).names == ("nerve", "vessel")
    third = save_map(tmp_path / "c.png", 1, 2)
    problem = str(settle(third, NERVES).problem)
    assert "a.png, where 1 = vessel, 2 = nerve" in problem and "b.png, where 1 = nerve" in problem
    with pytest.raises(UserError, match=r"a\.png.*b\.png"):
        names_in_folder(third)


def test_the_file_name_decides_between_two_meanings(tmp_path: Path) -> None:
    """Of files of one content, whose names are known from the list alone."""
    path = save_map(tmp_path / "final" / "a.png", 1, 2)
    objects = {}
    for case, named in (("a", ("vessel", "nerve")), ("b", ("nerve", "vessel"))):
        info = {"name": f"{case}.png", "sha256": sha256_file(path)} | info_of(*zip(named, (1, 2), strict=True))
        objects[case] = {"labels": {"final": {"info": info}}}
    (tmp_path / "list.json").write_text(json.dumps({"objects": objects}))
    known = KnownNames(tmp_path, [tmp_path / "missing.json", tmp_path / "list.json"])
    assert resolve(path, sha256_file(path), {}, NERVES, known).names == ("vessel", "nerve")
    renamed = path.rename(path.with_name("c.png"))
    assert resolve(renamed, sha256_file(renamed), {}, NERVES, known).problem


def test_empty_labels_are_equal_and_do_not_contradict(tmp_path: Path) -> None:
    first, second, third = (save_map(tmp_path / f"{name}.png") for name in "abc")
    write_sidecar(first, sha256_file(first), ValueNames(("vessel", "nerve"), "client"))
    write_sidecar(second, sha256_file(second), ValueNames(("nerve",), "client"))
    assert settle(third, NERVES).problem is None


def test_a_label_that_was_drawn_on_outside(tmp_path: Path) -> None:
    """Its values mean the task's, unless they meant something else before."""
    path = save_map(tmp_path / "a.png", 1, 2)
    for before, certain in ((("nerve", "vessel"), True), (("vessel", "nerve"), False)):
        write_sidecar(path, "of another content", ValueNames(before, "client"))
        found = settle(path, NERVES)
        assert (found.problem is None) == certain
    assert "1 = vessel, 2 = nerve" in str(found.problem)


# ---- tasks ----


def test_which_tasks_are_the_same() -> None:
    of = TaskIdentity.of
    assert of(NERVES).is_same_as(of(SWAPPED)) and of(NERVES).is_same_as(of(RENAMED))
    assert not of(NERVES).is_same_as(of(BONES))
    assert ValueNames(("bone",), "client", of(BONES)).is_of_another_task(NERVES)
    assert not ValueNames(("bone",), "client").is_of_another_task(NERVES)


def test_what_is_said() -> None:
    assumed = ValueNames(("nerve", "vessel"), "assumed", TaskIdentity.of(NERVES))
    named = ValueNames(("vessel", "cyst", "ignore:nerve", "background"), "client", TaskIdentity.of(NERVES))
    other = ValueNames(("bone",), "client", TaskIdentity.of(BONES))
    text = "\n".join(summary([assumed] * 14 + [named, other, ValueNames.unknown("x.png: unclear", NERVES)], NERVES))
    assert "14 label maps do not say what their values mean; assumed from task nerves: 1 = nerve, 2 = vessel." in text
    assert "left out: cyst (1)" in text and "1 label maps are left out: they are of task bones (bone)" in text
    assert "x.png: unclear" in text
    assert not summary([ValueNames((), "file"), ValueNames(("nerve",), "user")], NERVES)
