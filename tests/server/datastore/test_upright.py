"""Upright copies of images with an orientation tag, for clients: readable by ITK, on the grid of the labels."""

from __future__ import annotations

import os
import shutil
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import tifffile
from numpy.typing import NDArray
from PIL import Image

from samstudent.errors import Unavailable
from samstudent.imaging.case import read_image
from samstudent.imaging.label_writing import write_masks
from samstudent.imaging.labels import read_masks
from samstudent.server.datastore.study_folder import StudyFolderDatastore
from samstudent.server.datastore.upright import UprightCopies
from samstudent.task import Task

TASK = Task.model_validate({"name": "t", "dimension": 2, "structures": ["a", "b"]})
GREY = (np.arange(20 * 30).reshape(20, 30) % 251).astype(np.uint8)
KINDS: dict[str, NDArray[Any]] = {
    "u1": GREY,
    "u2": GREY.astype(np.uint16) * 257,
    "i2": GREY.astype(np.int16) - 100,
    "f2": GREY.astype(np.float16),
    "f4": GREY.astype(np.float32) / 7,
    "f8": GREY.astype(np.float64) / 7,
    "i8": GREY.astype(np.int64) << 20,
    "rgb": np.dstack([GREY, GREY[::-1], GREY[:, ::-1]]),
    "rgb16": np.dstack([GREY, GREY[::-1], GREY[:, ::-1]]).astype(np.uint16) * 257,
}


def photograph(path: Path, orientation: int, pixels: NDArray[Any] = GREY, **options: Any) -> Path:
    exif = Image.Exif()
    exif[274] = orientation
    Image.fromarray(pixels).save(path, exif=exif, **options)
    return path


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("orientation", [2, 6])
def test_itk_reads_the_copy_like_our_reader_reads_the_image(tmp_path: Path, kind: str, orientation: int) -> None:
    path = tmp_path / "a.tif"
    resolution = {"resolution": (100, 50), "resolutionunit": 2}
    tag = [(274, "H", 1, orientation, False)]
    tifffile.imwrite(path, KINDS[kind], metadata=None, extratags=tag, **resolution)
    copy = UprightCopies(tmp_path / "copies").of("a", path)
    assert copy.name == ("a.png" if kind in ("u1", "u2", "rgb", "rgb16") else "a.nrrd")
    ours, theirs = read_image(path), sitk.ReadImage(str(copy))
    shown = sitk.GetArrayFromImage(theirs).astype(np.float32)
    assert (ours.pixels == (shown[None] if shown.ndim == 2 else np.moveaxis(shown, -1, 0))).all()
    assert theirs.GetSpacing()[::-1] == pytest.approx(ours.grid.spacing, rel=1e-4)
    # What we answer lies on it.
    write_masks(tmp_path / "answer.nrrd", np.zeros((2, *ours.grid.spatial_shape), bool), TASK, ours.grid)
    answer = sitk.ReadImage(str(tmp_path / "answer.nrrd"))
    assert answer.GetSize()[:2] == theirs.GetSize() and answer.GetSpacing()[:2] == pytest.approx(theirs.GetSpacing())
    # And what is drawn on it is taken.
    label = sitk.Cast(theirs[:, :] if shown.ndim == 2 else sitk.VectorIndexSelectionCast(theirs, 0), sitk.sitkUInt8) * 0
    label.CopyInformation(theirs)
    label[3, 2] = 2
    sitk.WriteImage(label, str(tmp_path / "label.nrrd"))
    assert np.argwhere(read_masks(tmp_path / "label.nrrd", TASK, ours.grid)).tolist() == [[1, 2, 3]]


def test_images_without_orientation_have_no_copy(tmp_path: Path) -> None:
    copies = UprightCopies(tmp_path / "copies")
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8\xff broken")
    Image.fromarray(GREY).save(tmp_path / "plain.png")
    (tmp_path / "volume.nii.gz").write_bytes(b"whatever")
    photograph(tmp_path / "one.jpg", 1)
    for path in [*tmp_path.iterdir(), tmp_path / "none.png"]:
        assert copies.of("a", path) == path
    assert not copies.folder.exists()


def test_copy_is_made_once_for_each_image_content(tmp_path: Path) -> None:
    copies = UprightCopies(tmp_path / "copies")
    path = photograph(tmp_path / "a.jpg", 6)
    copy = copies.of("a", path)
    made = copy.stat()
    assert copies.of("a", path) == copy and copy.stat().st_ino == made.st_ino
    photograph(path, 3, np.full((9, 7), 50, np.uint8))
    os.utime(path, (1, 1))
    assert sitk.ReadImage(str(copies.of("a", path))).GetSize() == (7, 9)
    copies.forget("a")
    assert not list(copies.folder.iterdir())


def test_unwritable_folder_of_copies_is_named(tmp_path: Path) -> None:
    (tmp_path / "copies").write_text("a file in the way")
    path = photograph(tmp_path / "a.jpg", 6)
    with pytest.raises(Unavailable, match=r"a\.jpg: the upright copy for viewers could not be written to .*copies"):
        UprightCopies(tmp_path / "copies").of("a", path)


@pytest.fixture
def study(tmp_path: Path) -> Path:
    folder = tmp_path / "study"
    (folder / "labels" / "final").mkdir(parents=True)
    photograph(folder / "turned.jpg", 6)
    Image.fromarray(GREY).save(folder / "plain.png")
    for name, shape in (("turned", (30, 20)), ("plain", (20, 30))):
        Image.fromarray(np.ones(shape, np.uint8)).save(folder / "labels" / "final" / f"{name}.png")
    return folder


def test_all_client_paths_lead_to_the_copy(study: Path, tmp_path: Path) -> None:
    store = StudyFolderDatastore(study)
    copy = study / ".samstudent" / "upright" / "turned.png"
    info = store.get_image_info("turned")
    assert info["path"] == str(copy) and info["name"] == "turned.png" and copy.is_file()
    assert store.viewer_file("turned") == copy and store.viewer_file("plain") == study / "plain.png"
    assert store.get_image_info("plain")["name"] == "plain.png"
    # Inside the server the image is its own file: it is turned when it is read.
    assert store.get_image_uri("turned") == str(study / "turned.jpg")
    pairs = {Path(pair["label"]).stem: pair["image"] for pair in store.datalist()}
    assert pairs == {"turned": str(copy), "plain": str(study / "plain.png")}
    archive = Path(store.get_dataset_archive(None))
    with zipfile.ZipFile(archive) as content:
        assert {"image/turned.png", "image/plain.png"} < set(content.namelist())
    archive.unlink()
    assert set(StudyFolderDatastore(study).list_images()) == {"turned", "plain"}
    store.remove_image("turned")
    assert not copy.exists()


def test_lost_copy_is_made_again(study: Path) -> None:
    store = StudyFolderDatastore(study)
    store.viewer_file("turned")
    shutil.rmtree(study / ".samstudent")
    assert store.viewer_file("turned").is_file()
