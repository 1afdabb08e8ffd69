"""Cases in folders as hospitals export them: patients, series, localizers, reports, clips."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom import uid
from pydicom.data import get_testdata_file
from pydicom.pixels import pixel_array
from pydicom.uid import generate_uid

from samstudent.errors import UserError
from samstudent.imaging.case import read_image
from samstudent.imaging.folder import list_folder, stamp_of
from samstudent.rounds.trained import content_of
from support.dicom_files import PLANE, save, save_series
from support.dicom_kinds import of_kind

LOCALIZER = ["ORIGINAL", "PRIMARY", "LOCALIZER"]


def patient(folder: Path) -> tuple[str, str]:
    """A patient as on a CD: all files in one folder, names without extension; returns the UIDs of the two volumes."""
    early, late = generate_uid(), generate_uid()
    for number, (series, height) in enumerate(((early, 1.0), (late, 2.0))):
        made = save_series(
            folder, [0, height, 2 * height], SeriesInstanceUID=series, SeriesNumber=201 + number, Modality="MR"
        )
        for file in made.glob("*.dcm"):
            file.rename(made / f"IM{number}{file.stem}")
    save(folder / "scout", SeriesInstanceUID=generate_uid(), SeriesNumber=1, ImageType=LOCALIZER)
    save(folder / "capture", SeriesInstanceUID=generate_uid(), SeriesNumber=999)
    of_kind(folder / "report.dcm", uid.ComprehensiveSRStorage)
    return early, late


def remarks_of(folder: Path, dimension: int | None) -> dict[str, str]:
    return {remark.name: remark.text for remark in list_folder(folder, dimension=dimension).remarks}


def test_each_series_is_a_case(tmp_path: Path) -> None:
    early, late = patient(tmp_path / "p1")
    (tmp_path / "p2" / "study").mkdir(parents=True)
    alone = save_series(tmp_path / "p2" / "study" / "ct", [0, 2])
    files = list_folder(tmp_path, dimension=3).files
    assert files == {
        "p1_201": tmp_path / "p1" / f"series-{early}",
        "p1_202": tmp_path / "p1" / f"series-{late}",
        "p2_study_ct": alone,
    }
    assert [read_image(path, 3).grid.spacing[0] for path in files.values()] == pytest.approx([1, 2, 2])


def test_what_is_no_volume_is_named(tmp_path: Path) -> None:
    patient(tmp_path / "p1")
    found = remarks_of(tmp_path, 3)
    assert set(found) == {"p1/scout", "p1/capture", "p1/report.dcm"}
    assert found["p1/scout"] == "skipped: a localizer" and "structured report" in found["p1/report.dcm"]
    assert found["p1/capture"] == "skipped: a single image, no volume as in the task (dimension: 3)"


def test_in_2d_each_image_is_a_case_of_its_folder(tmp_path: Path) -> None:
    patient(tmp_path / "p1")
    files = list_folder(tmp_path, dimension=2).files
    assert set(files) == {"p1@capture", *(f"p1@IM{series}{index}" for series in (0, 1) for index in range(3))}
    assert read_image(files["p1@IM01"], 2).pixels.shape == (1, 3, 4)


def test_a_capture_in_a_series_is_left_out_of_its_volume(tmp_path: Path) -> None:
    folder = save_series(tmp_path / "ct", [0, 2, 4])
    data = pydicom.dcmread(save(folder / "capture.dcm", np.zeros((5, 6), np.uint16)))
    del data.ImagePositionPatient, data.ImageOrientationPatient
    data.save_as(folder / "capture.dcm")
    image = read_image(list_folder(tmp_path, dimension=3).files["ct"], 3)
    assert image.grid.shape == (3, 3, 4)
    assert image.notes == ("1 images of another size or direction than the other 3 are skipped (capture.dcm: 6 x 5)",)


def test_a_damaged_file_and_one_that_is_no_dicom_are_faults(tmp_path: Path) -> None:
    patient(tmp_path / "p1")
    (tmp_path / "p1" / "lost.dcm").write_bytes(b"")
    found = {remark.name: remark for remark in list_folder(tmp_path, dimension=3).remarks}
    assert found["p1/lost.dcm"].is_fault and found["p1/lost.dcm"].text.startswith("not DICOM")


def test_loose_slices_are_a_volume_in_3d_only(tmp_path: Path) -> None:
    save_series(tmp_path / "s", [0, 2, 4], SeriesNumber=7)
    assert list(list_folder(tmp_path / "s", dimension=3).files) == ["series_7"]
    assert list(list_folder(tmp_path / "s", dimension=2).files) == ["0", "1", "2"]


def test_an_id_used_twice_is_a_fault(tmp_path: Path) -> None:
    save_series(tmp_path / "p1_ct", [0, 2])
    (tmp_path / "p1").mkdir()
    save_series(tmp_path / "p1" / "ct", [0, 2])
    listing = list_folder(tmp_path, dimension=3)
    assert len(listing.files) == 1 and [remark.is_fault for remark in listing.remarks] == [True]


@pytest.mark.parametrize("dimension", [2, None])
def test_frames_of_a_clip_are_cases(tmp_path: Path, dimension: int | None) -> None:
    clip = save(tmp_path / "us.dcm", np.stack([PLANE, PLANE + 1, PLANE + 2]))
    files = list_folder(tmp_path, dimension=dimension).files
    assert list(files) == ["us@0001", "us@0002", "us@0003"] == list(list_folder(clip, dimension=dimension).files)
    for index, path in enumerate(files.values()):
        assert (read_image(path, 2).pixels[0] == PLANE + index).all()
    assert len({content_of(path) for path in files.values()}) == 3
    assert stamp_of(files["us@0001"]) is not None
    with pytest.raises(UserError, match="3 frames only"):
        read_image(clip / "frame-0004")


def test_frames_of_a_clip_in_a_subfolder(tmp_path: Path) -> None:
    (tmp_path / "p1").mkdir()
    save(tmp_path / "p1" / "IM1", np.stack([PLANE, PLANE + 1]))
    assert list(list_folder(tmp_path, dimension=2).files) == ["p1@IM1-0001", "p1@IM1-0002"]
    assert remarks_of(tmp_path, 3) == {
        "p1/IM1": "skipped: images without positions, no volume as in the task (dimension: 3)"
    }


def test_content_of_a_series_changes_with_its_files_only(tmp_path: Path) -> None:
    early, late = patient(tmp_path / "p1")
    paths = [tmp_path / "p1" / f"series-{series}" for series in (early, late)]
    before = [(content_of(path), stamp_of(path)) for path in paths]
    fields: dict[str, Any] = {"SeriesInstanceUID": late, "ImagePositionPatient": [0, 0, 6]}
    save(tmp_path / "p1" / "IM13", PLANE, **fields)
    after = [(content_of(path), stamp_of(path)) for path in paths]
    assert after[0] == before[0] and after[1][0] != before[1][0] and after[1][1] != before[1][1]


def test_a_name_that_is_no_text_is_a_fault(tmp_path: Path) -> None:
    folder = save_series(tmp_path / "ct", [0, 2])
    (tmp_path / "p1").mkdir()
    folder.rename(tmp_path / "p1" / os.fsdecode(b"ct\xff"))
    listing = list_folder(tmp_path, dimension=3)
    assert not listing.files and listing.remarks[0].text == "the name is not valid UTF-8; rename it"


def test_links_in_a_circle_end(tmp_path: Path) -> None:
    folder = save_series(tmp_path / "p1", [0, 2])
    (folder / "again").symlink_to(tmp_path / "p1", target_is_directory=True)
    assert list_folder(tmp_path, dimension=3).files == {"p1": folder}


def test_real_folders(shared_data: Path) -> None:
    folder = shared_data / "dicom"
    assert list_folder(folder, dimension=3).files == {
        "ct": folder / "ct", "mr_hippocampus": folder / "mr_hippocampus"
    }  # fmt: skip
    assert remarks_of(folder, 3) == {
        "dx/thorax.dcm": "skipped: a single image, no volume as in the task (dimension: 3)"
    }
    assert "dx@thorax" in list_folder(folder, dimension=2).files


@pytest.mark.parametrize(("name", "frames"), [("examples_ybr_color.dcm", 30), ("SC_rgb_rle_2frame.dcm", 2)])
def test_frames_of_real_clips(tmp_path: Path, name: str, frames: int) -> None:
    """An ultrasound clip (JPEG) and a secondary capture (RLE) that come with pydicom, as read by pydicom."""
    clip = tmp_path / "p1" / "clip"
    clip.parent.mkdir()
    shutil.copy(str(get_testdata_file(name)), clip)
    files = list_folder(tmp_path, dimension=2).files
    assert list(files) == [f"p1@clip-{number:04}" for number in range(1, frames + 1)]
    for index in (0, frames - 1):
        expected = pixel_array(clip, index=index)
        found = read_image(list(files.values())[index], 2).pixels
        assert (found == np.moveaxis(expected, -1, 0)).all()
