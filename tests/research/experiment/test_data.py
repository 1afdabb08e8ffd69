from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from samstudent.errors import NotFound, UserError
from samstudent.imaging.annotations import LabelledMasks
from samstudent.imaging.value_names import ValueNames, write_sidecar
from samstudent.research.experiment.data import (
    LARGEST_SIDE,
    derive_task,
    open_folder,
    reduce_case,
    student_size,
    student_window,
)
from samstudent.util.files import sha256_file
from support.drawn import case_image, write_png
from support.drawn_folder import labelled_folder


def test_train_cases_come_in_their_order_and_the_split_is_kept(tmp_path: Path) -> None:
    folder = open_folder(labelled_folder(tmp_path, train=3, test=2))
    assert folder.order == ["case2", "case1", "case0"]
    assert folder.labelled("test") == ["case3", "case4"]
    assert not folder.bits


def test_without_train_order_the_order_is_drawn_once_for_all(tmp_path: Path) -> None:
    labelled_folder(tmp_path, train=8)
    rows = [f"case{n}.png,train" for n in range(8)]
    (tmp_path / "split.csv").write_text("id,split\n" + "\n".join(rows) + "\n")
    first, again = open_folder(tmp_path).order, open_folder(tmp_path).order
    assert first == again
    assert sorted(first) == [f"case{n}" for n in range(8)]
    assert first != sorted(first)


def test_a_train_case_without_label_is_never_a_labelled_one(tmp_path: Path) -> None:
    labelled_folder(tmp_path, train=3)
    (tmp_path / "labels" / "case2.png").unlink()
    folder = open_folder(tmp_path)
    assert folder.labelled("train") == ["case1", "case0"]
    assert "case2" in folder.order


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    labelled_folder(tmp_path)
    (tmp_path / "split.csv").rename(tmp_path / "other.csv")
    with pytest.raises(NotFound, match=r"split\.csv"):
        open_folder(tmp_path)
    (tmp_path / "split.csv").write_text("id,split\nnobody,train\n")
    with pytest.raises(UserError, match="none of its ids"):
        open_folder(tmp_path)


def test_a_folder_that_was_copied_is_still_the_same_experiment(tmp_path: Path) -> None:
    folder = open_folder(labelled_folder(tmp_path / "here", train=2))
    stamp = folder.stamp(folder.order)
    copy = open_folder(Path(shutil.copytree(tmp_path / "here", tmp_path / "there")))
    for path in copy.images.values():
        os.utime(path, (1, 1))
    assert copy.stamp(copy.order) == stamp

    label = copy.labels[copy.order[0]]
    label.write_bytes(label.read_bytes() + b"\0")
    assert copy.stamp(copy.order) != stamp


def test_a_task_is_derived_from_values_with_gaps(tmp_path: Path) -> None:
    labelled_folder(tmp_path, train=3, test=1)
    for path in sorted((tmp_path / "labels").iterdir()):
        values = np.zeros((64, 64), np.uint8)
        values[10:30, 10:30] = 7
        values[40:50, 40:60] = 255
        write_png(path, values)
    (tmp_path / "labels.json").write_text(json.dumps({"7": "left lung", "12": "nobody's"}))
    folder = open_folder(tmp_path)
    task, folder = derive_task(folder, folder.labelled("train"))
    assert task.names == ["left lung", "structure_255"]
    _, masks = folder.read("case3", task)
    assert masks is not None
    assert [int(m.sum()) for m in masks.masks] == [400, 200]


def test_names_beside_label_maps_that_number_them_differently(tmp_path: Path) -> None:
    labelled_folder(tmp_path, train=3, test=1)
    for number, path in enumerate(sorted((tmp_path / "labels").iterdir())):
        nerve, vessel = ((1, 2), (2, 1))[number % 2]
        values = np.zeros((64, 64), np.uint8)
        values[10:30, 10:30], values[40:50, 40:60] = nerve, vessel
        write_png(path, values)
        names = ("nerve", "vessel") if nerve == 1 else ("vessel", "nerve")
        write_sidecar(path, sha256_file(path), ValueNames(names, "client"))
    folder = open_folder(tmp_path)
    stamp = folder.stamp(folder.order)
    task, folder = derive_task(folder, folder.labelled("train"))
    assert sorted(task.names) == ["nerve", "vessel"]
    for case in folder.labels:
        _, label = folder.read(case, task)
        assert label is not None
        masks = label.masks
        assert masks[task.names.index("nerve"), 10:30, 10:30].all() and masks[:, 20, 20].sum() == 1
        assert masks[task.names.index("vessel"), 40:50, 40:60].all()
    write_sidecar(folder.labels[folder.order[0]], "of another content", ValueNames(("nerve",), "client"))
    assert folder.stamp(folder.order) != stamp


def test_bits_are_structures_that_overlap(tmp_path: Path) -> None:
    folder = open_folder(labelled_folder(tmp_path, kind="labels_overlap"))
    (tmp_path / "structures.txt").write_text("disk\nsquare\n")
    task, folder = derive_task(folder, folder.labelled("train")[:2])
    assert task.overlap
    assert task.names == ["disk", "square"]
    _, masks = folder.read("case0", task)
    assert masks is not None
    assert masks.masks.all(0).any()


def test_volumes_give_a_task_of_three_dimensions(tmp_path: Path) -> None:
    folder = open_folder(labelled_folder(tmp_path, depth=20))
    task, _ = derive_task(folder, folder.labelled("train")[:2])
    assert task.dimension == 3
    assert task.student.spacing == (2.0, 1.0, 1.0)
    assert task.student.size == (32, 64, 64)


def test_student_sees_the_aspect_of_the_images_and_more_of_small_structures() -> None:
    large = np.full((5, 3), 0.1)
    assert student_size(np.array([1000.0, 1000.0]), large) == (256, 256)
    assert student_size(np.array([500.0, 1000.0]), large) == (176, 368)
    # No more pixels than the image has.
    assert student_size(np.array([96.0, 64.0]), large) == (96, 64)
    # 10 pixels wide at 256 x 256: as much larger as is allowed.
    assert student_size(np.array([1000.0, 1000.0]), np.full((5, 3), 100 / 256**2)) == (384, 384)
    assert student_size(np.array([1000.0, 1000.0]), np.zeros((5, 3))) == (256, 256)


def test_student_of_volumes_holds_them_or_what_fits() -> None:
    spacing, window = student_window(np.full((4, 3), 40.0), np.ones((4, 3)))
    assert spacing == (1.0, 1.0, 1.0)
    assert window == (48, 48, 48)
    spacing, window = student_window(np.full((4, 3), 320.0), np.ones((4, 3)))
    assert spacing == (2.0, 2.0, 2.0)
    assert np.prod(window) <= 64 * 96 * 96
    assert all(side % 16 == 0 for side in window)


def test_large_films_are_reduced_by_areas() -> None:
    pixels = np.zeros((2 * LARGEST_SIDE, LARGEST_SIDE), np.float32)
    pixels[::2] = 100
    masks = np.zeros((1, *pixels.shape), bool)
    masks[0, 200:400, 200:400] = True
    image, small = reduce_case(case_image(pixels, spacing=0.5), LabelledMasks(masks, np.roll(masks, 500, axis=1)))
    assert image.grid.spatial_shape == (LARGEST_SIDE, LARGEST_SIDE // 2)
    assert image.grid.spacing == (1.0, 1.0)
    assert np.allclose(image.pixels, 50)
    assert small is not None
    assert small.masks[0, 100:200, 100:200].all()
    assert small.masks.sum() == 100 * 100
    assert small.unknown is not None
    assert small.unknown[0, 350:450, 100:200].all()
    assert small.unknown.sum() == 100 * 100
