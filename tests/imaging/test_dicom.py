"""DICOM: rescale, MONOCHROME1, windows, valid and invalid series; synthetic and real files."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from pydicom.uid import generate_uid

from samstudent.errors import UserError
from samstudent.imaging.case import for_student, read_image
from samstudent.task import ImageSection
from support.dicom_files import PLANE, save, save_series


def test_rescale_and_window(tmp_path: Path) -> None:
    path = save(
        tmp_path / "a.dcm", RescaleSlope=2, RescaleIntercept=-1024, WindowCenter=[40, 300], WindowWidth=[301, 1500]
    )
    image = read_image(path, dimension=2)
    assert (image.pixels[0] == PLANE * 2.0 - 1024).all()
    assert image.window == (-110.5, 189.5)
    assert image.grid.shape == (1, 3, 4) and image.grid.spacing == (0.5, 0.25)
    assert for_student(image, ImageSection())[0, 0, 0] == 0


def test_monochrome1_is_inverted_with_its_window(tmp_path: Path) -> None:
    fields = {"RescaleSlope": 1, "RescaleIntercept": -10, "WindowCenter": 100.5, "WindowWidth": 51}
    bright = read_image(save(tmp_path / "2.dcm", **fields))
    dark = read_image(save(tmp_path / "1.dcm", PhotometricInterpretation="MONOCHROME1", **fields))
    # 12 bits from 0 to 4095, rescaled -10 to 4085: v becomes 4075 - v.
    assert (dark.pixels == 4075 - bright.pixels).all()
    assert bright.window == (75, 125) and dark.window == (3950, 4000)
    assert for_student(dark, ImageSection()) == pytest.approx(1 - for_student(bright, ImageSection()), abs=1e-6)


def test_signed_monochrome1(tmp_path: Path) -> None:
    stored = PLANE.astype(np.int16) - 500
    path = save(tmp_path / "a.dcm", stored, PhotometricInterpretation="MONOCHROME1", PixelRepresentation=1)
    assert (read_image(path).pixels[0] == -1 - stored).all()


@pytest.mark.parametrize("fields", [{}, {"WindowCenter": 40, "WindowWidth": 0}, {"WindowCenter": 40}])
def test_invalid_window_is_ignored(tmp_path: Path, fields: dict[str, Any]) -> None:
    assert read_image(save(tmp_path / "a.dcm", **fields)).window is None


def test_slices_are_sorted_by_position(tmp_path: Path) -> None:
    folder = save_series(tmp_path / "s", [6, 0, 3])
    (folder / "notes.txt").write_text("not DICOM")
    image = read_image(folder, dimension=3)
    assert image.grid.shape == (3, 3, 4) and image.grid.spacing == (3, 0.5, 0.25)
    # LPS file: x and y run against RAS, so the canonical array is flipped twice.
    assert [image.pixels[0, z, -1, -1] for z in range(3)] == [1, 2, 0]
    assert image.grid.affine[:3, 3] == pytest.approx([0, 0, 0])


def test_each_slice_has_its_own_rescale(tmp_path: Path) -> None:
    folder = tmp_path / "s"
    folder.mkdir()
    for i, slope in enumerate((1, 0.5, 0.25)):
        save(folder / f"{i}.dcm", RescaleSlope=slope, RescaleIntercept=0, ImagePositionPatient=[0, 0, i])
    pixels = read_image(folder).grid.to_file(read_image(folder).pixels)[0]
    for i, slope in enumerate((1, 0.5, 0.25)):
        assert (pixels[i] == PLANE * slope).all()


def test_tilted_gantry_is_a_sheared_volume(tmp_path: Path) -> None:
    image = read_image(save_series(tmp_path / "s", [0, 2, 4], lateral=0.3))
    assert image.grid.affine[:3, 2] == pytest.approx([0, -0.6, 2])


def test_windows_of_slices_are_merged(tmp_path: Path) -> None:
    folder = tmp_path / "s"
    folder.mkdir()
    for i, center in enumerate((10, 50, 60)):
        save(folder / f"{i}.dcm", WindowCenter=center + 0.5, WindowWidth=11, ImagePositionPatient=[0, 0, i])
    assert read_image(folder).window == (45, 55)


@pytest.mark.parametrize("heights", [[0, 1, 2, 4, 5], [0, 1, 1, 2], [0, 0, 0], [0, 1, 2, 9]])
def test_missing_duplicate_and_uneven_slices_are_refused(tmp_path: Path, heights: list[float]) -> None:
    with pytest.raises(UserError, match="missing, doubled or unevenly spaced"):
        read_image(save_series(tmp_path / "s", heights))


def test_one_file_in_a_folder_is_2d(tmp_path: Path) -> None:
    image = read_image(save_series(tmp_path / "s", [5]), dimension=2)
    assert image.pixels.shape == (1, 3, 4)


def test_folders_without_exactly_one_series_are_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no DICOM image"):
        read_image(tmp_path / "empty")
    folder = save_series(tmp_path / "two", [0, 1])
    save(folder / "other.dcm", SeriesInstanceUID=generate_uid())
    with pytest.raises(UserError, match="2 series"):
        read_image(folder)
    folder = save_series(tmp_path / "sizes", [0, 1])
    save(folder / "wide.dcm", np.zeros((5, 6), np.uint16), ImagePositionPatient=[0, 0, 2])
    with pytest.raises(UserError, match="different sizes"):
        read_image(folder)


def test_several_radiographs_are_not_a_volume(tmp_path: Path) -> None:
    folder = save_series(tmp_path / "s", [0, 1])
    for path in folder.iterdir():
        data = pydicom.dcmread(path)
        del data.ImagePositionPatient, data.ImageOrientationPatient
        data.save_as(path)
    with pytest.raises(UserError, match="without positions"):
        read_image(folder)


def test_a_clip_is_no_volume(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"a\.dcm: a clip of 2 frames without positions"):
        read_image(save(tmp_path / "a.dcm", np.stack([PLANE, PLANE])))


def test_truncated_slice_and_false_size_are_refused(tmp_path: Path) -> None:
    folder = save_series(tmp_path / "s", [0, 1, 2])
    content = (folder / "1.dcm").read_bytes()
    (folder / "1.dcm").write_bytes(content[:-12])
    with pytest.raises(UserError, match=r"1\.dcm: no image of this folder's series, or corrupt"):
        read_image(folder)
    with pytest.raises(UserError, match="more than the limit"):
        read_image(save(tmp_path / "huge.dcm", Rows=60000, Columns=60000))


def test_file_without_pixels_is_refused(tmp_path: Path) -> None:
    data = pydicom.dcmread(save(tmp_path / "a.dcm"))
    del data.PixelData, data.Rows, data.Columns
    data.save_as(tmp_path / "a.dcm")
    with pytest.raises(UserError, match=r"a\.dcm"):
        read_image(tmp_path / "a.dcm")


# Real files


def test_real_ct_in_jpeg_2000(shared_data: Path) -> None:
    image = read_image(shared_data / "dicom" / "ct", dimension=3)
    assert image.pixels.shape == (1, 20, 512, 512) and image.window == (-110, 189)
    assert image.pixels.min() == -1024  # Air outside of the scanner's circle, in Hounsfield units.
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(shared_data / "dicom" / "ct")))
    reference = reader.Execute()
    assert (image.grid.to_file(image.pixels)[0] == sitk.GetArrayFromImage(reference)).all()
    for ijk in ((0, 0, 0), (511, 100, 19)):
        x, y, z = reference.TransformIndexToPhysicalPoint(ijk)
        assert image.grid.affine @ [*ijk, 1] == pytest.approx([-x, -y, z, 1], abs=1e-3)


def test_real_ct_slice_is_2d(shared_data: Path) -> None:
    path = sorted((shared_data / "dicom" / "ct").iterdir())[0]
    assert read_image(path, dimension=2).pixels.shape == (1, 512, 512)


def test_real_mr_series(shared_data: Path, tmp_path: Path) -> None:
    image = read_image(shared_data / "dicom" / "mr_hippocampus", dimension=3)
    assert image.pixels.shape == (1, 32, 51, 35) and image.grid.spacing == (1, 1, 1)
    shutil.copytree(shared_data / "dicom" / "mr_hippocampus", tmp_path / "mr")
    sorted((tmp_path / "mr").iterdir())[10].chmod(0o644)
    (tmp_path / "mr").chmod(0o755)
    sorted((tmp_path / "mr").iterdir())[10].unlink()
    with pytest.raises(UserError, match="missing, doubled"):
        read_image(tmp_path / "mr")


def test_real_dx(shared_data: Path) -> None:
    path = shared_data / "dicom" / "dx" / "thorax.dcm"
    image = read_image(path, dimension=2)
    assert (image.pixels[0] == 255.0 - pydicom.dcmread(path).pixel_array).all()
    assert image.grid.shape == (1, 169, 211)
    assert image.grid.spacing == pytest.approx((1.2, 1.2012), abs=1e-4)
    assert image.window == (0, 255)
