"""Registered sequences as channels: files, 4D NIfTI, DICOM series; input of student and SAM."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom.uid import generate_uid

from samstudent.errors import UserError
from samstudent.imaging.case import displayed, for_sam, for_student, read_image
from samstudent.imaging.dicom import read_dicom
from samstudent.imaging.folder import list_folder, stamp_of
from samstudent.imaging.image_paths import ImagePath
from samstudent.imaging.perpendicular import upright
from samstudent.rounds.case_store import CaseStore
from samstudent.rounds.cases import FileCase
from samstudent.rounds.trained import content_of
from samstudent.task import ImageSection, Task
from support.dicom_files import save_series
from support.drawn import write_png

NAMES = ["T1", "T2", "FLAIR"]
SECTION = ImageSection(channels=NAMES, intensity="window", low=0, high=100)  # type: ignore[arg-type]
CHANNELS = SECTION.sequences
VOLUME = np.arange(4 * 5 * 6, dtype=np.float32).reshape(4, 5, 6) % 100


def write_nifti(path: Path, pixels: NDArray[Any], spacing: float = 1.0, origin: float = 0.0) -> Path:
    """A volume (i, j, k) or several (i, j, k, n), with axes to the right, front and head."""
    affine = np.diag([spacing, spacing, spacing, 1.0])
    affine[:3, 3] = origin
    nibabel.save(nibabel.Nifti1Image(pixels, affine), path)  # type: ignore[no-untyped-call]
    return path


def write_case(folder: Path, case: str = "a") -> None:
    for index, name in enumerate(NAMES):
        write_nifti(folder / f"{case}_{name}.nii.gz", VOLUME + index)


def listed(folder: Path, dimension: int = 3, channels: dict[str, str] = CHANNELS) -> dict[str, Path]:
    return list_folder(folder, dimension=dimension, channels=channels).files


def remarks_of(folder: Path) -> list[str]:
    remarks = list_folder(folder, dimension=3, channels=CHANNELS).remarks
    return [f"{remark.name}: {remark.text}" for remark in remarks if remark.is_fault]


# ---- files ----


def test_files_with_the_ends_of_the_channels_are_a_case(tmp_path: Path) -> None:
    write_case(tmp_path, "a")
    write_case(tmp_path, "b")
    files = listed(tmp_path)
    assert list(files) == ["a", "b"] and not remarks_of(tmp_path)
    image = read_image(files["a"], 3)
    assert image.pixels.shape == (3, 6, 5, 4)
    for index in range(3):
        assert (image.grid.to_file(image.pixels)[index] == VOLUME.T + index).all()


def test_ends_may_be_those_of_nnunet(tmp_path: Path) -> None:
    for index in range(2):
        write_nifti(tmp_path / f"a_{index:04}.nii.gz", VOLUME)
    assert list(listed(tmp_path, channels={"T1": "_0000", "T2": "_0001"})) == ["a"]


def test_an_incomplete_case_is_a_fault(tmp_path: Path) -> None:
    write_case(tmp_path)
    (tmp_path / "a_T2.nii.gz").unlink()
    assert not listed(tmp_path)
    assert remarks_of(tmp_path) == ["a_T1.nii.gz, a_FLAIR.nii.gz: no case: lacks T2 (a_T2)"]


def test_a_name_that_separates_channels_is_a_fault(tmp_path: Path) -> None:
    write_case(tmp_path, "a,b")
    assert not listed(tmp_path) and "rename it" in remarks_of(tmp_path)[0]


def test_a_channel_with_other_voxels_is_resampled_in_space(tmp_path: Path) -> None:
    """A linear ramp in space is the same on every grid."""
    i = np.mgrid[:8, :8, :8][0].astype(np.float32)
    write_nifti(tmp_path / "a_T1.nii.gz", 10 * i)
    coarse = np.mgrid[:6, :6, :6][0].astype(np.float32)
    write_nifti(tmp_path / "a_T2.nii.gz", 10 * (2 * coarse - 1), spacing=2.0, origin=-1.0)
    image = read_image(listed(tmp_path, channels={"T1": "_T1", "T2": "_T2"})["a"], 3)
    assert image.pixels[1] == pytest.approx(image.pixels[0], abs=1e-3)
    assert len(image.notes) == 1 and "a_T2.nii.gz is resampled to the voxels of" in image.notes[0]


def test_no_slice_of_a_resampled_channel_is_lost(tmp_path: Path) -> None:
    """The first and the last slice of a turned series coincide with those of the first channel, up to rounding."""
    turned, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))
    affine = np.eye(4)
    affine[:3, :3] = turned * [0.7, 0.8, 3.1]
    pixels = np.full((6, 5, 4), 100, np.float32)
    pixels[3, 2, 2] = 0
    for name, start in (("T1", 0.0), ("T2", 0.5)):
        moved = affine.copy()
        moved[:3, 3] = affine[:3, 0] * start
        nibabel.save(nibabel.Nifti1Image(pixels, moved), tmp_path / f"a_{name}.nii.gz")  # type: ignore[no-untyped-call]
    image = read_image(listed(tmp_path, channels={"T1": "_T1", "T2": "_T2"})["a"], 3)
    assert image.grid.to_file(image.pixels)[1, :, :, 5].min() > 99


def test_tilted_channels_have_perpendicular_axes(tmp_path: Path) -> None:
    """Clients load one channel, and ITK has no sheared volumes: case and copy must be on one grid."""
    for index in range(3):
        description = {
            "SeriesDescription": NAMES[index],
            "SeriesInstanceUID": generate_uid(),
            "StudyInstanceUID": "1.2",
        }
        (tmp_path / "p").mkdir(exist_ok=True)
        save_series(tmp_path / "p" / str(index), [0, 2, 4], lateral=0.5, **description)
    image = read_image(listed(tmp_path)["p"], 3)
    copy = read_dicom(tmp_path / "p" / "0")
    expected = upright(copy)
    assert image.grid.shape == expected.shape and image.grid.affine == pytest.approx(expected.affine)
    assert image.grid.to_file(image.pixels)[0] == pytest.approx(expected.pixels, abs=0.1)
    assert "tilted gantry, 27 degrees" in copy.notes[0]
    assert "a tilted gantry" in image.notes[0]


def test_a_channel_elsewhere_is_refused(tmp_path: Path) -> None:
    write_case(tmp_path)
    write_nifti(tmp_path / "a_T2.nii.gz", VOLUME, origin=3.0)
    with pytest.raises(UserError, match=r"a_T2\.nii\.gz: covers \d+% of the first channel's volume"):
        read_image(listed(tmp_path)["a"], 3)


def test_images_of_2d_channels_have_one_size(tmp_path: Path) -> None:
    for index, name in enumerate(NAMES):
        write_png(tmp_path / f"a_{name}.png", np.full((4, 5), 10 * index, np.uint8))
    image = read_image(listed(tmp_path, 2)["a"], 2)
    assert image.pixels[:, 0, 0].tolist() == [0, 10, 20]
    write_png(tmp_path / "a_T2.png", np.zeros((4, 6), np.uint8))
    with pytest.raises(UserError, match=r"a_T2\.png: has the size \(4, 6\), the first channel \(4, 5\)"):
        read_image(listed(tmp_path, 2)["a"], 2)


# ---- one file ----


def test_volumes_of_a_4d_nifti_are_channels(tmp_path: Path) -> None:
    file = write_nifti(tmp_path / "a.nii.gz", np.stack([VOLUME + index for index in range(3)], axis=-1))
    image = read_image(listed(tmp_path)["a"], 3)
    for index in range(3):
        assert (image.grid.to_file(image.pixels)[index] == VOLUME.T + index).all()
    with pytest.raises(UserError, match="4 axes"):
        read_image(file, 3)  # in a task without named channels


def test_another_number_of_volumes_is_refused(tmp_path: Path) -> None:
    write_nifti(tmp_path / "a.nii.gz", np.stack([VOLUME] * 2, axis=-1))
    with pytest.raises(UserError, match=r"a\.nii\.gz: has 2 channels, but the task's image\.channels names 3"):
        read_image(listed(tmp_path)["a"], 3)


# ---- DICOM ----


def write_study(folder: Path, *descriptions: str, study: str | None = None) -> None:
    study = study or generate_uid()
    for number, description in enumerate(descriptions, 1):
        (folder / f"S{number}").parent.mkdir(exist_ok=True, parents=True)
        save_series(
            folder / f"S{number}", [0, 2, 4], SeriesInstanceUID=generate_uid(), StudyInstanceUID=study,
            SeriesDescription=description, SeriesNumber=number, RescaleSlope=number, RescaleIntercept=0,
        )  # fmt: skip


def test_series_of_a_study_are_channels_by_their_descriptions(tmp_path: Path) -> None:
    write_study(tmp_path / "p1", "t2_tirm_tra_FLAIR", "T1w mprage", "DWI b1000", "T2 tse")
    listing = list_folder(tmp_path, dimension=3, channels=CHANNELS)
    assert list(listing.files) == ["p1"]
    slopes = [one.place.name for one in map(ImagePath.of, ImagePath.of(listing.files["p1"]).channels)]
    assert slopes == ["S2", "S4", "S1"]
    image = read_image(listing.files["p1"], 3)
    assert image.pixels[1, 0, 0, 0] == 2 * image.pixels[0, 0, 0, 0]
    assert [(remark.name, remark.is_fault) for remark in listing.remarks] == [("p1/S3", False)]


def test_a_study_without_a_channel_or_with_two_is_a_fault(tmp_path: Path) -> None:
    write_study(tmp_path / "p1", "T1", "T2")
    write_study(tmp_path / "p2", "T1", "T1 post", "T2", "FLAIR")
    assert not listed(tmp_path)
    assert remarks_of(tmp_path) == [
        "p1: no case: no series for FLAIR",
        "p2: no case: several series for T1: 'T1' (p2/S1), 'T1 post' (p2/S2); name it more precisely in image.channels",
    ]


def test_content_and_stamp_are_those_of_all_channels(tmp_path: Path) -> None:
    write_case(tmp_path)
    path = listed(tmp_path)["a"]
    before = content_of(path), stamp_of(path)
    write_nifti(tmp_path / "a_FLAIR.nii.gz", VOLUME + 9)
    assert content_of(path) != before[0] and stamp_of(path) != before[1]


# ---- input ----


def test_each_channel_has_its_own_range(tmp_path: Path) -> None:
    write_nifti(tmp_path / "a.nii.gz", np.stack([VOLUME, VOLUME * 1000], axis=-1))
    section = ImageSection(channels=["x", "y"], low=0, high=100)  # type: ignore[arg-type]
    shown = for_student(read_image(listed(tmp_path, channels=section.sequences)["a"], 3), section)
    assert shown.shape == (2, 6, 5, 4) and shown[0] == pytest.approx(shown[1], abs=1e-5)
    assert shown[0].max() == 1


@pytest.mark.parametrize(("seen", "expected"), [(None, [0, 0, 0]), ("FLAIR", [2, 2, 2]), ("composite", [0, 1, 2])])
def test_sam_sees_one_channel_or_three(tmp_path: Path, seen: str | None, expected: list[int]) -> None:
    for index, name in enumerate(NAMES):
        write_nifti(tmp_path / f"a_{name}.nii.gz", np.full((4, 5, 6), 20.0 * index, np.float32))
    image = read_image(listed(tmp_path)["a"], 3)
    section = SECTION.model_copy(update={"sam_channel": seen})
    pixels = for_sam(image, section)
    assert pixels.shape == (6, 5, 4, 3) and pixels.dtype == np.uint8
    assert pixels[0, 0, 0].tolist() == [51 * index for index in expected]
    assert displayed(image, section).pixels[0, 0, 0, 0] == 20 * expected[0]


def test_an_image_with_one_channel_is_refused(tmp_path: Path) -> None:
    image = read_image(write_nifti(tmp_path / "a.nii.gz", VOLUME), 3)
    with pytest.raises(UserError, match=r"has 1 channels, but the task's image\.channels names 3: T1, T2, FLAIR"):
        for_student(image, SECTION)


def test_windows_of_dicom_channels_are_kept_in_the_store(tmp_path: Path) -> None:
    for number, name in enumerate(("T1", "T2"), 1):
        save_series(
            tmp_path / "p1" if number > 2 else tmp_path / f"S{number}", [0, 2], SeriesDescription=name,
            SeriesInstanceUID=generate_uid(), WindowCenter=500 * number + 0.5, WindowWidth=201,
        )  # fmt: skip
    (tmp_path / "study" / "p1").mkdir(parents=True)
    for number in (1, 2):
        (tmp_path / f"S{number}").rename(tmp_path / "study" / "p1" / f"S{number}")
    task = Task.model_validate(
        {"name": "t", "dimension": 3, "structures": ["a"], "image": {"channels": ["T1", "T2"]},
         "student": {"size": [16, 16, 16], "channels": [4, 8]}}
    )  # fmt: skip
    path = listed(tmp_path / "study", channels=task.image.sequences)["p1"]
    store = CaseStore(tmp_path / "store", task)
    kept = store.image(store.add(FileCase("p1", path)))
    assert kept.windows == read_image(path, 3).windows == ((400, 600), (900, 1100))
    assert (for_student(kept, task.image) == for_student(read_image(path, 3), task.image)).all()
