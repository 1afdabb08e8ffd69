"""Precedence of two records of one label after another program has written the host's list."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from monailabel.datastore.local import DataModel, ImageLabelModel, LocalDatastoreModel

from samstudent.server.datastore.host_list import Unexported, merge_host_list

IN_PLACE = 5_000_000_000


def listed(image: str, **labels: DataModel) -> LocalDatastoreModel:
    entry = ImageLabelModel(image=DataModel(ext=".png", info={"by": image}), labels=labels)
    return LocalDatastoreModel(name=image, description="", objects={"a": entry})


def record(by: str, mtime_ns: int | None) -> DataModel:
    return DataModel(ext=".nii", info={"by": by} | ({} if mtime_ns is None else {"mtime_ns": mtime_ns}))


@pytest.mark.parametrize(
    ("ours", "theirs", "is_ours_newer", "expected"),
    [
        (IN_PLACE, IN_PLACE, False, "theirs"),  # it has changed the record of the label in place
        (IN_PLACE, IN_PLACE, True, "ours"),  # so have we, and it cannot know that
        (IN_PLACE, 1, False, "ours"),  # its record is of an earlier label
        (IN_PLACE, None, False, "ours"),
        (1, None, False, "theirs"),  # it has put the label in place; the host's records have no such time
        (1, None, True, "theirs"),
        (None, IN_PLACE, True, "theirs"),
    ],
)
def test_record_of_the_present_file_takes_precedence(
    tmp_path: Path, ours: int | None, theirs: int | None, is_ours_newer: bool, expected: str
) -> None:
    file = tmp_path / "a.nii"
    file.touch()
    os.utime(file, ns=(IN_PLACE, IN_PLACE))
    unexported = Unexported(changed={"a"} if is_ours_newer else ())
    mine, other = listed("ours", final=record("ours", ours)), listed("theirs", final=record("theirs", theirs))
    merged = merge_host_list(mine, other, unexported, lambda case, tag, label: file).objects["a"]
    assert merged.labels["final"].info["by"] == expected
    assert merged.image.info["by"] == ("ours" if is_ours_newer else "theirs")
    assert mine.objects["a"].labels["final"].info["by"] == "ours"  # others may be reading it


def test_cases_missing_from_the_host_list_are_kept(tmp_path: Path) -> None:
    file = tmp_path / "a.nii"
    file.touch()
    mine = listed("ours", final=record("ours", file.stat().st_mtime_ns))
    empty = LocalDatastoreModel(name="n", description="d", images_dir="elsewhere", objects={})
    merged = merge_host_list(mine, empty, Unexported(), lambda case, tag, label: file)
    assert merged.objects == mine.objects
    assert (merged.name, merged.description, merged.images_dir) == ("n", "d", "")


def test_label_without_a_file_is_not_imported(tmp_path: Path) -> None:
    other = listed("ours", final=record("theirs", None))
    merged = merge_host_list(listed("ours"), other, Unexported(), lambda case, tag, label: tmp_path / "missing.nii")
    assert merged.objects["a"].labels == {}


def test_removed_case_is_not_restored(tmp_path: Path) -> None:
    empty = LocalDatastoreModel(name="", description="")
    for removed, expected in (((), ["a"]), ({"a"}, [])):
        unexported = Unexported(removed=removed)
        merged = merge_host_list(empty, listed("theirs"), unexported, lambda case, tag, label: tmp_path)
        assert list(merged.objects) == expected
