"""Names of a label map's values, from values files, records of equal content, and the task."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from samstudent.errors import UserError
from samstudent.imaging.value_lookup import KnownNames, names_in_folder, of_upload, resolve
from samstudent.imaging.value_names import TaskIdentity, ValueNames, sidecar_of, summary, write_sidecar
from samstudent.task import Task
from samstudent.util.files import sha256_file

NERVES = Task.model_validate({"name": "nerves", "dimension": 2, "structures": ["nerve", "vessel"]})
BONES = Task.model_validate({"name": "bones", "dimension": 2, "structures": ["bone"]})


def info_of(*entries: tuple[Any, Any]) -> dict[str, Any]:
    return {"label_info": [{"name": name, "idx": idx} for name, idx in entries], "client_id": "x"}


def save_map(path: Path, *values: int) -> Path:
    """Label map with one pixel of each value."""
    pixels = np.zeros((6, 8), np.uint8)
    pixels.flat[: len(values)] = values
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


def test_upload_without_a_structure_of_the_task_is_refused(tmp_path: Path) -> None:
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


def test_values_file_takes_precedence_over_the_task(tmp_path: Path) -> None:
    path = save_map(tmp_path / "a.png", 1, 2)
    assert settle(path, NERVES).source == "assumed"
    first = ValueNames(("vessel", "nerve"), "client", TaskIdentity.of(NERVES))
    write_sidecar(path, sha256_file(path), first)
    assert settle(path, NERVES) == settle(path, BONES) == first
    written = json.loads(sidecar_of(path).read_text())
    assert written["values"] == {"1": "vessel", "2": "nerve"} and written["sha256"] == sha256_file(path)


def test_manually_corrected_values_file_is_used(tmp_path: Path) -> None:
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
def test_unreadable_values_file_is_a_problem(tmp_path: Path, text: str) -> None:
    """Not skipped: a user may have corrected it."""
    path = save_map(tmp_path / "a.png", 1, 2)
    sidecar_of(path).write_text(text)
    assert "a.png.values.json" in str(settle(path, NERVES).problem)


def test_names_are_found_by_content(tmp_path: Path) -> None:
    path = save_map(tmp_path / "a.png", 1, 2)
    write_sidecar(path, sha256_file(path), ValueNames(("vessel", "nerve"), "client"))
    renamed = path.rename(tmp_path / "b.png")
    assert settle(renamed, NERVES).names == names_in_folder(renamed) == ("vessel", "nerve")
    other = save_map(tmp_path / "c.png", 1, 2, 2)
    assert settle(other, NERVES).source == "assumed" and names_in_folder(other) is None


def test_equal_content_with_two_value_names_is_ambiguous(tmp_path: Path) -> None:
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


def test_file_name_resolves_ambiguous_content(tmp_path: Path) -> None:
    """For files of equal content whose names are only in the list."""
    path = save_map(tmp_path / "final" / "a.png", 1, 2)
    infos = []
    for case, named in (("a", ("vessel", "nerve")), ("b", ("nerve", "vessel"))):
        info = {"name": f"{case}.png", "sha256": sha256_file(path)} | info_of(*zip(named, (1, 2), strict=True))
        infos.append(info)
    known = KnownNames(tmp_path, lambda: infos)
    assert resolve(path, sha256_file(path), {}, NERVES, known).names == ("vessel", "nerve")
    renamed = path.rename(path.with_name("c.png"))
    assert resolve(renamed, sha256_file(renamed), {}, NERVES, known).problem


def test_equal_empty_labels_are_not_ambiguous(tmp_path: Path) -> None:
    first, second, third = (save_map(tmp_path / f"{name}.png") for name in "abc")
    write_sidecar(first, sha256_file(first), ValueNames(("vessel", "nerve"), "client"))
    write_sidecar(second, sha256_file(second), ValueNames(("nerve",), "client"))
    assert settle(third, NERVES).problem is None


def test_externally_edited_label_is_recognised(tmp_path: Path) -> None:
    """Its values have the task's names, unless they had other names before."""
    path = save_map(tmp_path / "a.png", 1, 2)
    for before, certain in ((("nerve", "vessel"), True), (("vessel", "nerve"), False)):
        write_sidecar(path, "of another content", ValueNames(before, "client"))
        found = settle(path, NERVES)
        assert (found.problem is None) == certain
    assert "1 = vessel, 2 = nerve" in str(found.problem)
