"""The paper's split of drawn films."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from samstudent.errors import UserError
from samstudent.research.reproduction.split import ROTATED, WristFiles, make_split
from support.cvat_files import image, write_cvat
from support.wrist_films import (
    LATERAL,
    NOT_LISTED,
    SIZE,
    TEST,
    TRAIN,
    UNLABELLED,
    VAL,
    annotated,
    wrist_files,
    write_order,
)  # fmt: skip


def test_films_by_list_and_by_name_of_the_file(tmp_path: Path) -> None:
    split = make_split(wrist_files(tmp_path))
    assert split.parts == {"train": list(TRAIN), "val": [VAL], "test": list(TEST)}
    assert list(split.unlabelled) == sorted(UNLABELLED)
    assert split.mirrored == {TRAIN[0], TRAIN[2], VAL, TEST[1], UNLABELLED[0]}
    assert split.remarks == [
        f"{ROTATED}: left out, as in the paper",
        f"{NOT_LISTED}, {LATERAL}: annotated, but in no part of the split, so not used",
    ]
    assert split.difference_from_paper() == "films: 4 train, 1 val, 2 test; the paper has 43 train, 12 val, 11 test"


def test_one_file_with_the_split_in_the_list(tmp_path: Path) -> None:
    files = wrist_files(tmp_path)
    films = [*TRAIN, VAL, *TEST]
    together = write_cvat(tmp_path / "annotations.xml", *map(annotated, films))
    order = write_order(tmp_path / "o.csv", films, {"split": ["", "train", "", "", "val", "test", "test"]})
    split = make_split(WristFiles(files.images, [together], order))
    assert split.parts == {"train": list(TRAIN), "val": [VAL], "test": list(TEST)}
    assert NOT_LISTED in split.unlabelled and LATERAL not in split.unlabelled


def test_side_and_projection_of_the_dataset_win(tmp_path: Path) -> None:
    (tmp_path / "dataset.csv").write_text(
        f"filestem,laterality,projection\n{TRAIN[1]},R,1\n{UNLABELLED[0]},L,1\n{UNLABELLED[1]},L,2\n"
    )
    split = make_split(wrist_files(tmp_path / "wrist", dataset=tmp_path / "dataset.csv"))
    assert list(split.unlabelled) == [UNLABELLED[0]]
    assert split.mirrored == {TRAIN[0], TRAIN[1], TRAIN[2], VAL, TEST[1]}


def test_list_of_unlabelled_films(tmp_path: Path) -> None:
    listed = write_order(tmp_path / "few.csv", [UNLABELLED[1], TRAIN[0]])
    assert make_split(wrist_files(tmp_path / "wrist", unlabelled=listed)).unlabelled == [UNLABELLED[1]]
    write_order(listed, ["4000_1_01_WRI-L1_F001"])
    with pytest.raises(UserError, match=r"few\.csv: 4000_1_01_WRI-L1_F001: no image of this name in .*films"):
        make_split(wrist_files(tmp_path / "other", unlabelled=listed))


def without_image(files: WristFiles) -> None:
    (files.images / f"{VAL}.png").unlink()


def lateral_in_list(files: WristFiles) -> None:
    write_cvat(Path(files.annotations[2]), annotated(LATERAL))
    write_cvat(Path(files.annotations[3]), annotated(TEST[0]))
    write_order(files.order, [*TRAIN, LATERAL], {"split": ["", "", "", "", "val"]})


def without_shapes(files: WristFiles) -> None:
    write_cvat(Path(files.annotations[0]), image(TRAIN[0], SIZE), annotated(TRAIN[1]))


def film_to_test_in_list(files: WristFiles) -> None:
    write_order(files.order, [*TRAIN, TEST[0]])


def no_test(files: WristFiles) -> None:
    Path(files.annotations[3]).rename(files.images.parent / "rest.xml")
    files.annotations[3] = files.images.parent / "rest.xml"  # type: ignore[index]


def wrong_split(files: WristFiles) -> None:
    write_order(files.order, TRAIN, {"split": ["", "training", "", ""]})


def unknown_side(files: WristFiles) -> None:
    (files.images / f"{TRAIN[0]}.png").rename(files.images / "a.png")
    write_cvat(Path(files.annotations[0]), annotated(TRAIN[0]).replace(TRAIN[0], "a"), annotated(TRAIN[1]))
    write_order(files.order, ["a", *TRAIN[1:]])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without_image, rf"films: no image {VAL} \(\.png, .*\); .*annotations_val\.xml annotates it"),
        (lateral_in_list, rf"{LATERAL}\.png: not a frontal film; take it out of .*order\.csv"),
        (without_shapes, rf"annotations_train1\.xml: image {TRAIN[0]} has no shapes; take it out of .*order\.csv"),
        (film_to_test_in_list, rf"order\.csv: {TEST[0]} is to train, but is annotated in .*annotations_test\.xml"),
        (
            no_test,
            r"order\.csv: no film to test; expected test in the name of a file of annotations, or a column split",
        ),
        (wrong_split, r"order\.csv: split 'training'; expected train, val, test or nothing"),
        (unknown_side, r"a\.png: side not known; expected a name with _WRI-L1_ or _WRI-R1_, or a row in --dataset"),
        (lambda files: write_order(files.order, [*TRAIN, "7"]), r"order\.csv: 7: not annotated in .*train1\.xml, "),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_fault(tmp_path: Path, change: Callable[[WristFiles], Any], message: str) -> None:
    files = wrist_files(tmp_path)
    change(files)
    with pytest.raises(UserError, match=message):
        make_split(files)
