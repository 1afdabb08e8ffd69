"""Recognition of DICOM files, with and without preamble, and of objects without an image."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pydicom
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from pydicom import uid
from pydicom.dataset import Dataset

from samstudent.errors import UserError
from samstudent.imaging.case import read_image
from samstudent.imaging.dicom_header import HEAD_BYTES, is_dicom, number, numbers, read_header, texts
from samstudent.imaging.dicom_size_checks import check_dicom
from samstudent.imaging.formats import kind_of
from samstudent.imaging.grid import Grid
from samstudent.imaging.labels import read_masks
from samstudent.task import load_task
from support.dicom_files import PLANE, save, save_series
from support.dicom_kinds import of_kind

CASES = Path(__file__).resolve().parents[2] / "shared" / "cases"


def bare(path: Path, syntax: str, with_meta: bool, **changes: Any) -> Path:
    """A CT slice without preamble, and without the file meta information if ``kind`` has none."""
    data = pydicom.dcmread(save(path.with_suffix(".whole")))
    for keyword, value in changes.items():
        setattr(data, keyword, value)
    implicit, little = syntax == uid.ImplicitVRLittleEndian, syntax != uid.ExplicitVRBigEndian
    if with_meta:
        data.file_meta.TransferSyntaxUID = syntax
        data.save_as(path.with_suffix(".whole"), implicit_vr=implicit, little_endian=little, enforce_file_format=True)
        path.write_bytes(path.with_suffix(".whole").read_bytes()[132:])
    else:
        plain = Dataset()
        plain.update(data)
        plain.save_as(path, implicit_vr=implicit, little_endian=little)
    return path


@pytest.mark.parametrize("with_meta", [True, False])
@pytest.mark.parametrize("syntax", [uid.ExplicitVRLittleEndian, uid.ImplicitVRLittleEndian])
def test_file_without_a_preamble_is_read(tmp_path: Path, syntax: str, with_meta: bool) -> None:
    path = bare(
        tmp_path / "a.dcm", syntax, with_meta, SpecificCharacterSet="ISO_IR 100", ImageType=["ORIGINAL", "PRIMARY"]
    )
    assert path.read_bytes()[:2] == (b"\x02\0" if with_meta else b"\x08\0")
    assert kind_of(path) == "dicom"
    assert (read_image(path, 2).pixels == PLANE).all()


def test_series_without_preambles_is_read(tmp_path: Path) -> None:
    folder = save_series(tmp_path / "s", [0, 2, 4])
    for path in folder.iterdir():
        data = pydicom.dcmread(path)
        plain = Dataset()
        plain.update(data)
        plain.save_as(path, implicit_vr=True, little_endian=True)
    assert read_image(folder, 3).grid.shape == (3, 3, 4)


def test_element_longer_than_a_file_without_a_preamble_is_refused(tmp_path: Path) -> None:
    path = bare(tmp_path / "a.dcm", uid.ImplicitVRLittleEndian, with_meta=False)
    raw = bytearray(path.read_bytes())
    at = raw.index(struct.pack("<HHI", 0x0008, 0x0060, 2))
    struct.pack_into("<I", raw, at + 4, 0xF0000000)
    path.write_bytes(raw)
    with pytest.raises(UserError, match=r"a\.dcm: corrupt, element \(0008,0060\) announces 4026531840 bytes"):
        read_image(path)


@given(st.binary(max_size=400), st.sampled_from([b"", b"\x08\0", b"\x02\0\x10\0UI", b"\x08\0\x05\0CS\x0a\0"]))
def test_other_files_are_not_recognised_as_dicom(content: bytes, start: bytes) -> None:
    assert not is_dicom(start + content)


@pytest.mark.parametrize("extension", [".png", ".tif", ".jpg", ".nii", ".nii.gz", ".zip", ".pdf", ".txt"])
def test_files_of_other_kinds_are_not_dicom(tmp_path: Path, extension: str) -> None:
    path = tmp_path / f"a{extension}"
    if extension in (".png", ".tif", ".jpg"):
        Image.fromarray(np.zeros((9, 9), np.uint8)).save(path)
    elif extension.startswith(".nii"):
        nibabel.save(nibabel.Nifti1Image(np.zeros((3, 3, 3), np.uint8), np.eye(4)), path)
    else:
        path.write_bytes(
            {".zip": b"PK\3\4", ".pdf": b"%PDF-1.7"}.get(extension, b"") + gzip.compress(bytes(range(256)))
        )
    assert not is_dicom(path.read_bytes()[:HEAD_BYTES])


KINDS = {
    uid.RTStructureSetStorage: r"an RTSTRUCT \(contours, not pixels\); save it as DICOM SEG, \.seg\.nrrd",
    uid.RTPlanStorage: "a radiotherapy plan",
    uid.RTDoseStorage: "an RTDOSE",
    uid.GrayscaleSoftcopyPresentationStateStorage: "a presentation state, which describes the display of an image",
    uid.ComprehensiveSRStorage: r"a structured report \(SR\), not an image",
    uid.EncapsulatedPDFStorage: r"an encapsulated document \(PDF",
    uid.MediaStorageDirectoryStorage: "a DICOMDIR, the table of contents of a medium; name the image files",
    uid.SegmentationStorage: r"a segmentation \(SEG\), not an image; it can be a label",
    uid.SpatialRegistrationStorage: "a registration, not an image",
    uid.RawDataStorage: "raw data of a scanner",
    uid.TwelveLeadECGWaveformStorage: "a waveform",
    "1.2.840.10008.5.1.4.39.1": "no image: Color Palette Storage, without rows and columns",
    "1.3.6.1.4.1.9590.100": "no image: 1.3.6.1.4.1.9590.100, without rows and columns",
}


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_dicom_objects_without_an_image_are_named(tmp_path: Path, kind: str) -> None:
    path = of_kind(tmp_path / "a.dcm", kind)
    with pytest.raises(UserError, match=rf"a\.dcm: {KINDS[kind]}") as error:
        read_image(path)
    assert "corrupt" not in str(error.value) and "truncated" not in str(error.value)
    if kind != uid.SegmentationStorage:
        grid = Grid.of(PLANE.shape, np.eye(4))
        with pytest.raises(UserError, match=rf"a\.dcm: {KINDS[kind]}"):
            read_masks(path, load_task("phantom"), grid)


@pytest.mark.skipif(not CASES.is_dir(), reason="the cases are not here")
def test_shared_contour_files_are_named() -> None:
    task = load_task(str(CASES / "vol.yaml"))
    grid = read_image(CASES / "s_rtstruct" / "a.nii.gz", 3).grid
    with pytest.raises(UserError, match=r"labels/final/a\.dcm: an RTSTRUCT \(contours, not pixels\)"):
        read_masks(CASES / "s_rtstruct" / "labels" / "final" / "a.dcm", task, grid)


def test_an_rt_image_and_a_secondary_capture_are_images(tmp_path: Path) -> None:
    for kind in (uid.RTImageStorage, uid.SecondaryCaptureImageStorage, uid.PositronEmissionTomographyImageStorage):
        assert (read_image(save(tmp_path / "a.dcm", SOPClassUID=kind)).pixels == PLANE).all()


def test_empty_values_have_defaults(tmp_path: Path) -> None:
    path = save(tmp_path / "a.dcm", PixelSpacing=None, ImageType=["A", "B"], SeriesDescription="")
    check_dicom(path)
    header = read_header(path)
    assert numbers(header, "PixelSpacing") == [] and number(header, "WindowWidth", 7) == 7
    assert texts(header, "ImageType") == ["A", "B"] and numbers(header, "ImageType") == []
