"""Tasks derived from the images and labels of a folder."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from samstudent.imaging.value_names import ValueNames, write_sidecar
from samstudent.research.derive_task import derive_task, student_size, student_window
from samstudent.research.folder import open_folder
from samstudent.util.files import sha256_file
from support.drawn import write_png
from support.drawn_folder import labelled_folder


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
    _, masks = folder.case("case3").read(task)
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
    digest = folder.digest(folder.order)
    task, folder = derive_task(folder, folder.labelled("train"))
    assert sorted(task.names) == ["nerve", "vessel"]
    for case in folder.labels:
        _, found = folder.case(case).read(task)
        assert found is not None
        masks = found.masks
        assert masks[task.names.index("nerve"), 10:30, 10:30].all() and masks[:, 20, 20].sum() == 1
        assert masks[task.names.index("vessel"), 40:50, 40:60].all()
    label = folder.labels[folder.order[0]]
    write_sidecar(label, sha256_file(label), ValueNames(("nerve", "artery"), "client"))
    assert folder.digest(folder.order) != digest


def test_bit_masks_become_overlapping_structures(tmp_path: Path) -> None:
    folder = open_folder(labelled_folder(tmp_path, kind="labels_overlap"))
    (tmp_path / "structures.txt").write_text("disk\nsquare\n")
    task, folder = derive_task(folder, folder.labelled("train")[:2])
    assert task.overlap
    assert task.names == ["disk", "square"]
    _, masks = folder.case("case0").read(task)
    assert masks is not None
    assert masks.masks.all(0).any()


def test_volumes_give_a_task_of_three_dimensions(tmp_path: Path) -> None:
    folder = open_folder(labelled_folder(tmp_path, depth=20))
    task, _ = derive_task(folder, folder.labelled("train")[:2])
    assert task.dimension == 3
    assert task.student.spacing == (2.0, 1.0, 1.0)
    assert task.student.size == (32, 64, 64)


def test_student_size_follows_aspect_ratio_and_small_structures() -> None:
    large = np.full((5, 3), 0.1)
    assert student_size(np.array([1000.0, 1000.0]), large) == (256, 256)
    assert student_size(np.array([500.0, 1000.0]), large) == (192, 352)
    # No more pixels than the image has.
    assert student_size(np.array([96.0, 64.0]), large) == (96, 64)
    # 10 pixels wide at 256 x 256: as much larger as is allowed.
    assert student_size(np.array([1000.0, 1000.0]), np.full((5, 3), 100 / 256**2)) == (384, 384)
    assert student_size(np.array([1000.0, 1000.0]), np.zeros((5, 3))) == (256, 256)


def test_student_window_holds_the_volume_or_its_largest_part() -> None:
    spacing, window = student_window(np.full((4, 3), 40.0), np.ones((4, 3)))
    assert spacing == (1.0, 1.0, 1.0)
    assert window == (48, 48, 48)
    spacing, window = student_window(np.full((4, 3), 320.0), np.ones((4, 3)))
    assert spacing == (2.0, 2.0, 2.0)
    assert np.prod(window) <= 64 * 96 * 96
    assert all(side % 16 == 0 for side in window)
