"""The folder for ``samstudent experiment``: mirrored films and masks."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from samstudent.errors import UserError
from samstudent.imaging.annotations import read_label
from samstudent.imaging.case import read_image
from samstudent.research.folder import open_folder
from samstudent.research.reproduction.prepare import prepare_folder
from samstudent.research.reproduction.split import make_split
from samstudent.task import load_task
from support.cvat_files import image, polygon, write_cvat
from support.wrist_films import TEST, TRAIN, UNLABELLED, VAL, hand, wrist_files, write_order

NAMES = load_task("wrist").names


def test_right_hands_and_their_masks_are_mirrored(tmp_path: Path) -> None:
    remarks = prepare_folder(make_split(wrist_files(tmp_path)), NAMES, tmp_path / "data")
    folder = open_folder(tmp_path / "data")
    assert folder.bits and folder.order[:4] == list(TRAIN) and set(folder.order[4:]) == set(UNLABELLED)
    assert folder.labelled("val") == [VAL] and folder.labelled("test") == list(TEST)
    for name in (*TRAIN, VAL, *TEST, *UNLABELLED):
        pixels, bones = hand(name)
        found = read_image(folder.images[name], 2)
        assert np.array_equal(found.pixels[0], pixels), name  # 16 bits, every value
        if name not in UNLABELLED:
            masks = read_label(folder.labels[name], load_task("wrist"), found.grid, bits=True).masks
            drawn = [bones.get(bone, np.zeros_like(masks[0])) for bone in NAMES]
            assert np.array_equal(masks, np.stack(drawn)), name
            assert masks.sum(axis=0).max() == 2
    assert json.loads((tmp_path / "data" / "labels.json").read_text())["16"] == "Radius"
    assert remarks[0] == "7 shapes of names that the task does not have were left out: Phalanx media II"
    assert remarks[1].startswith("not annotated in any film: Epiphyse Radius, ") and "Ulna" in remarks[1]


def test_folder_is_written_again_only_for_another_input(tmp_path: Path) -> None:
    files = wrist_files(tmp_path)
    prepare_folder(make_split(files), NAMES, tmp_path / "data")
    stamps = {path: path.stat().st_mtime_ns for path in (tmp_path / "data").rglob("*")}
    remarks = prepare_folder(make_split(files), NAMES, tmp_path / "data")
    assert remarks and {path: path.stat().st_mtime_ns for path in (tmp_path / "data").rglob("*")} == stamps
    write_order(files.order, TRAIN[1:])
    prepare_folder(make_split(files), NAMES, tmp_path / "data")
    assert open_folder(tmp_path / "data").labelled("train") == list(TRAIN[1:])
    assert not list((tmp_path / "data").rglob(f"{TRAIN[0]}*"))
    # A run that was stopped is repeated.
    (tmp_path / "data" / "made_of.json").write_text("{}")
    (tmp_path / "data" / "split.csv").unlink()
    prepare_folder(make_split(files), NAMES, tmp_path / "data")
    assert (tmp_path / "data" / "split.csv").is_file()


def test_folder_of_somebody_else_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "thesis.txt").write_text("mine")
    with pytest.raises(UserError, match=r"data: is not empty and not of an earlier run; choose another --output"):
        prepare_folder(make_split(wrist_files(tmp_path)), NAMES, tmp_path / "data")
    assert (tmp_path / "data" / "thesis.txt").read_text() == "mine"


def test_broken_film_without_label_is_left_out_and_named_each_time(tmp_path: Path) -> None:
    files = wrist_files(tmp_path)
    broken = files.images / f"{UNLABELLED[1]}.png"
    broken.write_bytes(broken.read_bytes()[:200])
    for _ in range(2):
        remarks = prepare_folder(make_split(files), NAMES, tmp_path / "data")
        assert remarks[0].startswith(f"left out, cannot be read: {broken}: ") and len(remarks) == 3
    assert open_folder(tmp_path / "data").order == [*TRAIN, UNLABELLED[0]]
    annotated = files.images / f"{TRAIN[1]}.png"
    annotated.write_bytes(annotated.read_bytes()[:200])
    with pytest.raises(UserError, match=rf"{TRAIN[1]}\.png: "):
        prepare_folder(make_split(files), NAMES, tmp_path / "data")


def test_image_of_another_size_than_its_annotation(tmp_path: Path) -> None:
    files = wrist_files(tmp_path)
    write_cvat(Path(files.annotations[2]), image(f"{VAL}.png", (64, 40), [polygon(label="Knochen", Anatomie="Radius")]))
    with pytest.raises(
        UserError, match=rf"{VAL}\.png: has 48 x 64 pixels .*annotations_val\.xml tells 40 x 64; expected"
    ):
        prepare_folder(make_split(files), NAMES, tmp_path / "data")
