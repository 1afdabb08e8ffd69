"""Training cases of a student, identified by the content of their images."""

from __future__ import annotations

import gzip
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from samstudent.rounds import trained
from samstudent.rounds.ledger import Ledger
from samstudent.rounds.round_store import RoundStore
from samstudent.rounds.trained import ImageContents, Trained, content_of, trained_of, under_ids
from samstudent.task import load_task


def test_digest_depends_on_content_not_on_the_name(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"pixels")
    (tmp_path / "b.png").write_bytes(b"other pixels")
    shutil.copy(tmp_path / "a.png", tmp_path / "c.png")
    digests = [content_of(tmp_path / f"{name}.png") for name in "abc"]
    assert digests[0] == digests[2] != digests[1]
    # A gzip file's header holds name and time.
    for name, level in (("a", 1), ("b", 9)):
        (tmp_path / f"{name}.nii.gz").write_bytes(gzip.compress(b"voxels", level, mtime=level))
    assert (tmp_path / "a.nii.gz").read_bytes() != (tmp_path / "b.nii.gz").read_bytes()
    assert content_of(tmp_path / "a.nii.gz") == content_of(tmp_path / "b.nii.gz")
    (tmp_path / "torn.nii.gz").write_bytes(b"no gzip")
    assert content_of(tmp_path / "torn.nii.gz") != content_of(tmp_path / "a.nii.gz")
    # A DICOM series, its files under other names.
    for folder, names in (("s", "12"), ("t", "ba"), ("u", "12")):
        (tmp_path / folder).mkdir()
        for name, content in zip(names, (b"slice", b"slice 2"), strict=True):
            (tmp_path / folder / name).write_bytes(content)
    (tmp_path / "u" / "3").write_bytes(b"slice 3")
    assert content_of(tmp_path / "s") == content_of(tmp_path / "t") != content_of(tmp_path / "u")


def test_each_image_is_hashed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[Path] = []

    def spied(path: Path) -> str:
        read.append(path)
        return content_of(path)

    monkeypatch.setattr(trained, "content_of", spied)
    image = tmp_path / "a.png"
    image.write_bytes(b"pixels")
    first = ImageContents(tmp_path / "state.sqlite").of(image)
    assert ImageContents(tmp_path / "state.sqlite").of(str(image)) == first == content_of(image)
    assert len(read) == 1
    image.write_bytes(b"other!")
    os.utime(image, (1, 1))
    assert ImageContents(tmp_path / "state.sqlite").of(image) == content_of(image) != first
    assert len(read) == 2
    assert ImageContents(tmp_path / "state.sqlite").of(tmp_path / "gone.png") is None


def a_round(ledger: Ledger, cases: dict[str, str | None], **inputs: Any) -> str:
    id = ledger.new_round(labels_used=list(cases))
    entries = {case: {"tag": "final"} | ({"image": digest} if digest else {}) for case, digest in cases.items()}
    RoundStore(ledger.folder_of(id), load_task("wrist")).write_record("inputs", {"cases": entries, **inputs})
    return id


def test_training_cases_of_a_round(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    first = a_round(ledger, {"a": "A", "b": "B", "broken": "X"}, inherited=Trained().as_json())
    ledger.update(first, unreadable={"broken": "no PNG"}, labels_used=["a", "b"])
    found = trained_of(ledger, first)
    assert [found.case_of(*case) for case in (("a", "A"), ("renamed", "A"), ("a", None), ("a", "new"))] == ["a"] * 4
    assert [found.case_of(*case) for case in (("c", "C"), ("c", None), ("broken", "X"))] == [None] * 3
    # A student that went on from these weights has trained on what they did.
    second = a_round(ledger, {"c": "C"}, inherited=found.as_json())
    assert trained_of(ledger, second).case_of("renamed", "A") == "a"
    assert trained_of(ledger, second).case_of("renamed", "C") == "c"


def test_rounds_of_earlier_versions_have_ids_only(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    first = a_round(ledger, {"a": None})
    ledger.update(first, model_digest="1" * 64)
    found = trained_of(ledger, a_round(ledger, {"b": None}, start="1" * 64))
    assert found.case_of("a", "A") == "a" and found.case_of("b", None) == "b" and found.case_of("c", "A") is None
    assert trained_of(ledger, ledger.new_round(labels_used=["d"])).ids == {"d"}, "nothing else is kept of it"


def test_scores_are_mapped_to_present_ids() -> None:
    scores = {"a": [1], "b": [2], "c": [3], "d": [4]}
    theirs = {"a": "A", "b": "B", "c": "C"}
    # a was renamed, b holds another image, c is gone; of d nothing is known.
    assert under_ids(scores, theirs, {"new": "A", "b": "Z"}) == {"new": [1], "c": [3], "d": [4]}
