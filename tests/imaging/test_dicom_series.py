"""Selection of the files of a volume, messages about the others; geometry compared with ITK."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from pydicom import uid

from samstudent.errors import UserError
from samstudent.imaging.case import read_image
from samstudent.imaging.dicom import geometry_of, read_dicom
from samstudent.imaging.dicom_series import find_series
from support.dicom_files import PLANE, save, save_series
from support.dicom_kinds import of_kind

CORONAL = [1, 0, 0, 0, 0, -1]


def names_of(folder: Path) -> list[str]:
    return [one.path.name for one in find_series(folder).slices]


def test_localizer_is_ignored(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = save_series(tmp_path / "s", [0, 2])
    fields: dict[str, Any] = {"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"], "ImageOrientationPatient": CORONAL}
    save(folder / "scout.dcm", np.zeros((5, 6), np.uint16), **fields)
    image = read_image(folder, 3)
    assert image.grid.shape == (2, 3, 4)
    assert image.notes == ("1 localizer images are skipped (scout.dcm)",)
    assert "scout.dcm" in caplog.text


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize(
    "fields",
    [{"ImageOrientationPatient": CORONAL}, {"Rows": 5}, {"PixelSpacing": [2, 2]}],
    ids=lambda fields: next(iter(fields)),
)
def test_few_images_of_another_kind_are_ignored(tmp_path: Path, count: int, fields: dict[str, Any]) -> None:
    folder = save_series(tmp_path / "s", [0, 2, 4])
    plane = np.zeros((5, 4), np.uint16) if "Rows" in fields else PLANE
    for i in range(count):
        save(folder / f"other{i}.dcm", plane, ImagePositionPatient=[0, 0, 50 + i], **fields)
    assert names_of(folder) == ["0.dcm", "1.dcm", "2.dcm"]
    assert f"{count} images of another size or direction than the other 3 are skipped" in find_series(folder).notes[0]


def test_half_of_another_kind_is_refused(tmp_path: Path) -> None:
    folder = save_series(tmp_path / "s", [0, 2, 4])
    for i in range(3):
        save(folder / f"other{i}.dcm", ImageOrientationPatient=CORONAL, ImagePositionPatient=[0, i, 0])
    with pytest.raises(UserError, match="2 stacks of slices of different directions"):
        read_image(folder)


def test_duplicate_slices_are_read_once(tmp_path: Path) -> None:
    folder = save_series(tmp_path / "s", [0, 2, 4])
    before = read_image(folder)
    shutil.copy(folder / "1.dcm", folder / "9.dcm")
    after = read_image(folder)
    assert (after.pixels == before.pixels).all() and (after.grid.affine == before.grid.affine).all()
    assert after.notes == ("1 duplicate slices are skipped (e.g. 9.dcm)",)


@pytest.mark.parametrize("keyword", ["EchoTime", "AcquisitionNumber", "TemporalPositionIdentifier"])
def test_two_images_at_each_position_are_separated(tmp_path: Path, keyword: str) -> None:
    """Echoes or phases: those of the first form the volume; they are never mixed."""
    folder = tmp_path / "s"
    folder.mkdir()
    for part in (1, 2):
        for i, height in enumerate((0, 2, 4)):
            place = {"ImagePositionPatient": [0, 0, height], "InstanceNumber": 2 * i + part}
            save(folder / f"{part}{i}.dcm", PLANE + 1000 * part, **place, **{keyword: part})
    image = read_image(folder)
    assert image.grid.shape == (3, 3, 4) and set(np.unique(image.pixels // 1000)) <= {1, 2}
    assert image.pixels.max() == 1000 + PLANE.max()
    assert image.notes[0].startswith(f"of 2 images at each position (by {keyword}) those with 1")
    assert image.notes[0].endswith(" are taken, 3 are skipped")


def test_indistinguishable_images_at_one_position_are_refused(tmp_path: Path) -> None:
    folder = save_series(tmp_path / "s", [0, 1, 1, 2])
    with pytest.raises(UserError, match=r"missing, doubled .*1\.dcm and 2\.dcm have the same position and differ"):
        read_image(folder)


def test_other_objects_beside_a_series_are_ignored(tmp_path: Path) -> None:
    folder = save_series(tmp_path / "s", [0, 2, 4])
    of_kind(folder / "sr.dcm", uid.ComprehensiveSRStorage)
    of_kind(folder / "DICOMDIR", uid.MediaStorageDirectoryStorage)
    (folder / "._0.dcm").write_bytes((folder / "0.dcm").read_bytes())
    series = find_series(folder)
    assert [one.path.name for one in series.slices] == ["0.dcm", "1.dcm", "2.dcm"]
    assert series.notes[0].startswith("DICOMDIR is skipped: a DICOMDIR") and "structured report" in series.notes[1]


CLASSES = [
    uid.CTImageStorage, uid.MRImageStorage, uid.PositronEmissionTomographyImageStorage, uid.UltrasoundImageStorage,
    uid.ComputedRadiographyImageStorage, uid.DigitalXRayImageStorageForPresentation,
    uid.DigitalMammographyXRayImageStorageForProcessing, uid.DigitalIntraOralXRayImageStorageForPresentation,
    uid.XRayAngiographicImageStorage, uid.XRayRadiofluoroscopicImageStorage, uid.RTImageStorage,
    uid.SecondaryCaptureImageStorage, uid.VLPhotographicImageStorage,
]  # fmt: skip
SPACINGS = {
    "PixelSpacing": [2, 3], "ImagerPixelSpacing": [4, 5], "NominalScannedPixelSpacing": [6, 7],
    "ImagePlanePixelSpacing": [10, 11],
}  # fmt: skip


@pytest.mark.parametrize("spacings", ["all", "none", *SPACINGS])
@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.name)
def test_single_image_has_the_position_of_itk(tmp_path: Path, kind: str, spacings: str) -> None:
    """Results are written on the grid of the image, and must be aligned with it in Slicer, which uses ITK."""
    chosen = SPACINGS if spacings == "all" else {key: value for key, value in SPACINGS.items() if key == spacings}
    fields: dict[str, Any] = {"PixelAspectRatio": [2, 1], **chosen}
    path = save(
        tmp_path / "a.dcm", SOPClassUID=kind, ImagePositionPatient=[1, 2, 3], SliceThickness=13,
        ImageOrientationPatient=[0, 1, 0, 0, 0, -1], SpacingBetweenSlices=12, **fields,
    )  # fmt: skip
    data = pydicom.dcmread(path)
    data.file_meta.MediaStorageSOPClassUID = kind
    if "PixelSpacing" not in chosen:
        del data.PixelSpacing
    data.save_as(path)
    reader: Any = sitk.ImageFileReader()
    reader.SetImageIO("GDCMImageIO")
    reader.SetFileName(str(path))
    reader.ReadImageInformation()
    lps = np.eye(4)
    lps[:3, :3] = np.array(reader.GetDirection()).reshape(3, 3) * np.array(reader.GetSpacing())
    lps[:3, 3] = reader.GetOrigin()
    assert read_dicom(path).affine == pytest.approx(np.diag([-1, -1, 1, 1]) @ lps, abs=1e-6)


def test_geometry_is_read_from_headers_only(tmp_path: Path) -> None:
    folder = save_series(tmp_path / "s", [0, 2, 4], lateral=0.3)
    shape, affine = geometry_of(folder)
    stored = read_dicom(folder)
    assert shape == stored.shape and (affine == stored.affine).all()


def test_a_gap_is_named(tmp_path: Path) -> None:
    folder = save_series(tmp_path / "s", [0, 2, 4, 10, 12])
    with pytest.raises(UserError, match=r"2\.dcm and 3\.dcm are 6\.00 mm apart, others 2\.00 mm: 2 slices are missing"):
        read_image(folder)
    folder = save_series(tmp_path / "t", [0, 2, 4, 6.7, 8.7])
    with pytest.raises(UserError, match=r"2\.70 mm apart, others 2\.00 mm; export the series again, or resample"):
        read_image(folder)


def test_localizer_of_another_series_is_ignored(tmp_path: Path) -> None:
    folder = save_series(tmp_path / "s", [0, 2])
    save(folder / "scout.dcm", SeriesInstanceUID=uid.generate_uid(), ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    assert names_of(folder) == ["0.dcm", "1.dcm"]
