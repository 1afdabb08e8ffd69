from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from samstudent.errors import NotFound, UserError
from samstudent.imaging.annotations import LabelledMasks
from samstudent.imaging.case import read_image
from samstudent.imaging.label_writing import write_masks
from samstudent.research.folder import LARGEST_SIDE, open_folder, reduce_case
from support.dicom_files import PLANE, save, save_series
from support.drawn import case_image, small_task
from support.drawn_folder import labelled_folder


def test_train_cases_are_in_order_of_the_split(tmp_path: Path) -> None:
    folder = open_folder(labelled_folder(tmp_path, train=3, test=2))
    assert folder.order == ["case2", "case1", "case0"]
    assert folder.labelled("test") == ["case3", "case4"]
    assert not folder.bits


def test_without_train_order_the_order_is_random_and_fixed(tmp_path: Path) -> None:
    labelled_folder(tmp_path, train=8)
    rows = [f"case{n}.png,train" for n in range(8)]
    (tmp_path / "split.csv").write_text("id,split\n" + "\n".join(rows) + "\n")
    first, again = open_folder(tmp_path).order, open_folder(tmp_path).order
    assert first == again
    assert sorted(first) == [f"case{n}" for n in range(8)]
    assert first != sorted(first)


def test_train_case_without_a_label_is_not_labelled(tmp_path: Path) -> None:
    labelled_folder(tmp_path, train=3)
    (tmp_path / "labels" / "case2.png").unlink()
    folder = open_folder(tmp_path)
    assert folder.labelled("train") == ["case1", "case0"]
    assert "case2" in folder.order


def test_dicom_series_in_subfolders_are_cases(tmp_path: Path) -> None:
    (tmp_path / "images" / "p1").mkdir(parents=True)
    series = save_series(tmp_path / "images" / "p1" / "ct", [0, 2, 4])
    task = small_task(dimension=3, student={"size": [32, 32, 32]})
    grid = read_image(series, 3).grid
    masks = np.zeros((2, *grid.spatial_shape), dtype=bool)
    masks[0, 1] = True
    (tmp_path / "labels").mkdir()
    write_masks(tmp_path / "labels" / "p1_ct.seg.nrrd", masks, task, grid)
    (tmp_path / "split.csv").write_text("id,split\np1_ct,train\n")
    folder = open_folder(tmp_path, task=task)
    image, label = folder.case("p1_ct").read(task)
    assert folder.images == {"p1_ct": series} and image.grid.shape == (3, 3, 4)
    assert label is not None and (label.masks == masks).all()
    before = folder.digest(["p1_ct"])
    save(series / "9.dcm", PLANE, ImagePositionPatient=[0, 0, 6])
    assert open_folder(tmp_path, task=task).digest(["p1_ct"]) != before


def test_missing_files_are_named(tmp_path: Path) -> None:
    labelled_folder(tmp_path)
    (tmp_path / "split.csv").rename(tmp_path / "other.csv")
    with pytest.raises(NotFound, match=r"split\.csv"):
        open_folder(tmp_path)
    (tmp_path / "split.csv").write_text("id,split\nnobody,train\n")
    with pytest.raises(UserError, match="none of its ids"):
        open_folder(tmp_path)


def test_copied_folder_is_the_same_experiment(tmp_path: Path) -> None:
    folder = open_folder(labelled_folder(tmp_path / "here", train=2))
    digest = folder.digest(folder.order)
    copy = open_folder(Path(shutil.copytree(tmp_path / "here", tmp_path / "there")))
    for path in copy.images.values():
        os.utime(path, (1, 1))
    assert copy.digest(copy.order) == digest

    label = copy.labels[copy.order[0]]
    label.write_bytes(label.read_bytes() + b"\0")
    assert copy.digest(copy.order) != digest


def test_large_radiographs_are_reduced_by_area() -> None:
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


def test_a_hidden_label_cannot_be_read(tmp_path: Path) -> None:
    case = open_folder(labelled_folder(tmp_path, train=2)).case("case1")
    image, label = case.read(small_task())
    hidden_image, hidden = case.without_label().read(small_task())
    assert label is not None and hidden is None
    assert (hidden_image.pixels == image.pixels).all()
    assert case.without_label().content().image == case.content().image
    assert case.without_label().content().label is None
