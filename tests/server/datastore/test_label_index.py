"""Index: changes since the last read, for every process."""

from __future__ import annotations

import json
import os
import sqlite3
from pathlib import Path

import pytest
from monailabel.datastore.local import DataModel, ImageLabelModel, LocalDatastoreModel

from samstudent.server.datastore.label_index import Export, LabelIndex

HEADER = {"name": "n", "description": "d", "images_dir": ".", "labels_dir": "labels"}


def entry(note: str) -> ImageLabelModel:
    return ImageLabelModel(image=DataModel(ext=".png", info={"note": note}))


@pytest.fixture
def index(tmp_path: Path) -> LabelIndex:
    index = LabelIndex(tmp_path / "state" / "index.sqlite")
    assert not index.exists()
    index.make(HEADER, {"b": entry("1"), "a": entry("2")}, None)
    return index


def test_changes_since_a_position(index: LabelIndex) -> None:
    first = index.read(None)
    assert (first.is_complete, list(first.entries), first.header) == (True, ["b", "a"], HEADER)
    other = LabelIndex(index.path)
    other.write(HEADER, {"a": entry("3"), "c": entry("4")}, ["b"])
    assert index.is_changed()
    changes = index.read(first.position)
    assert (changes.is_complete, dict(changes.entries), changes.removed) == (
        False, {"a": entry("3"), "c": entry("4")}, {"b"},
    )  # fmt: skip
    nothing = index.read(changes.position)
    assert not nothing.entries and not nothing.removed and nothing.position == changes.position
    other.write(HEADER, {"b": entry("5")}, [])
    assert index.read(changes.position).removed == frozenset()
    assert list(index.read(None).entries) == ["a", "c", "b"]  # what comes back comes last


def test_rebuilt_index_is_read_completely(index: LabelIndex) -> None:
    position = index.read(None).position
    index.path.unlink()
    index.make(HEADER, {"x": entry("1")}, None)
    changes = index.read(position)
    assert changes.is_complete and list(changes.entries) == ["x"]


def test_second_change_within_the_clock_resolution_is_detected(index: LabelIndex) -> None:
    """Times of files have a resolution of some milliseconds; the size need not change either."""
    position = index.read(None).position
    before = index.path.stat()
    LabelIndex(index.path).write(HEADER, {"a": entry("9")}, [])
    os.utime(index.path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert index.path.stat().st_size == before.st_size, "the test's change is not hidden by the stamp"
    assert index.is_changed() and index.read(position).entries.keys() == {"a"}


def test_exported_text_is_a_valid_host_list(index: LabelIndex) -> None:
    revision, text = index.as_host_list()
    model = LocalDatastoreModel.model_validate(json.loads(text))
    assert model.objects == index.read(None).entries and model.name == "n" and model.images_dir == "."
    index.set_export(Export(revision, (1, 2, 3), True))
    assert index.read(None).export == Export(revision, (1, 2, 3), True)
    index.write(HEADER, {"a": entry("3")}, ["b"])
    assert index.changed_since(revision) == ({"a"}, {"b"})


def test_empty_study_has_a_list(tmp_path: Path) -> None:
    index = LabelIndex(tmp_path / "index.sqlite")
    index.make(HEADER, {}, None)
    assert json.loads(index.as_host_list()[1])["objects"] == {}


def test_a_damaged_file_is_an_error_and_is_set_aside(index: LabelIndex) -> None:
    index.path.write_bytes(b"no database" * 1000)
    with pytest.raises(sqlite3.DatabaseError):
        index.read(None)
    aside = index.set_aside()
    assert aside.read_bytes().startswith(b"no database") and not index.exists()
