"""Segmentations of images with invalid headers: written, and valid."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom import config
from pydicom.datadict import dictionary_VR
from pydicom.dataelem import RawDataElement
from pydicom.tag import Tag

from samstudent.imaging.annotations import read_label
from samstudent.imaging.case import read_image
from samstudent.imaging.dicom_seg_source import clean_text
from samstudent.imaging.dicom_seg_write import SegDescription, write_seg
from samstudent.imaging.labels import read_masks
from support.dicom_files import save, save_series
from support.dicom_segs import a_film, a_series, make_task, random_masks
from support.needed import require_dciodvfy

CASES = Path(__file__).resolve().parents[2] / "shared" / "cases"
OWN_CLASS = {"SOPClassUID": "1.3.6.1.4.1.9590.1"}
TURNED = {"ImageOrientationPatient": [0.8, 0.6, 0, -0.6, 0.8, 0]}
PLACE = {"FrameOfReferenceUID": "1.2.4", "SliceThickness": 2}


def errors_of(path: Path) -> list[str]:
    done = subprocess.run([require_dciodvfy(), str(path)], capture_output=True, text=True, check=False)
    said = (done.stdout + done.stderr).splitlines()
    assert "Segmentation" in said, said  # it has read the file as one
    return [line for line in said if line.startswith("Error")]


def edited(path: Path, **changes: Any) -> Path:
    """Image with values that pydicom would not write itself; None: without the element."""
    image = pydicom.dcmread(path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(config.settings, "writing_validation_mode", config.IGNORE)
        patch.setattr(config.settings, "reading_validation_mode", config.IGNORE)
        for keyword, value in changes.items():
            if value is None:
                delattr(image, keyword)
            elif isinstance(value, bytes):
                tag, padded = Tag(keyword), value + b" " * (len(value) % 2)
                image[tag] = RawDataElement(tag, dictionary_VR(keyword), len(padded), padded, 0, False, True)
            else:
                setattr(image, keyword, value)
        image.save_as(path)
    return path


def written(source: Path, dimension: int, folder: Path, share: float = 0.5) -> pydicom.Dataset:
    """SEG of random masks, checked to be valid and equal when read back."""
    task = make_task(dimension)
    masks = random_masks(source, task, share)
    grid = read_image(source).grid
    description = SegDescription(
        "Label", "SEMIAUTOMATIC", provenance={"student": "a"}, quality={"heart": 0.5}, creator="山田\\x", time=1.7e9
    )
    write_seg(folder / "seg.dcm", masks, task, grid, source, description)
    assert (read_masks(folder / "seg.dcm", task, grid) == masks).all()
    assert errors_of(folder / "seg.dcm") == []
    return pydicom.dcmread(folder / "seg.dcm")


SOURCES: dict[str, tuple[int, Callable[[Path], Path]]] = {
    "film": (2, a_film),
    "film without spacing": (
        2, lambda folder: edited(a_film(folder), PixelSpacing=None, ImagerPixelSpacing=None, PatientOrientation=None)
    ),
    "CT": (3, a_series),
    "CT that says little": (3, lambda folder: save_series(folder / "s", [0, 2, 4])),
    "MR": (3, lambda folder: save_series(folder / "s", [0, 2, 4], SOPClassUID="1.2.840.10008.5.1.4.1.1.4", **PLACE)),
    "of a class of its own": (3, lambda folder: save_series(folder / "s", [0, 2], **OWN_CLASS, **PLACE)),
    "tilted CT": (3, lambda folder: save_series(folder / "s", [0, 2, 4], lateral=0.3, **PLACE)),
    "oblique": (3, lambda folder: save_series(folder / "s", [0, 2], **TURNED)),
    "one slice": (2, lambda folder: save(folder / "a.dcm", **PLACE)),
    "one slice that says little": (2, lambda folder: save(folder / "a.dcm")),
}  # fmt: skip


@pytest.mark.parametrize("share", [0.5, 0.0], ids=["overlapping", "empty"])
@pytest.mark.parametrize("name", SOURCES)
def test_written_segmentations_are_valid_dicom(tmp_path: Path, name: str, share: float) -> None:
    dimension, make = SOURCES[name]
    source = make(tmp_path)
    seg = written(source, dimension, tmp_path, share)
    first = pydicom.dcmread(source if source.is_file() else sorted(source.iterdir())[0])
    named = seg.ReferencedSeriesSequence[0]
    assert named.SeriesInstanceUID == first.SeriesInstanceUID
    assert {item.ReferencedSOPClassUID for item in named.ReferencedInstanceSequence} == {first.SOPClassUID}


@pytest.mark.parametrize("orientation", [["A", "F"], None])
def test_orientation_of_a_radiograph_is_preserved(tmp_path: Path, orientation: list[str] | None) -> None:
    seg = written(edited(a_film(tmp_path), PatientOrientation=orientation), 2, tmp_path)
    assert "PatientOrientation" in seg and (seg.PatientOrientation or None) == orientation


HEADERS: dict[str, dict[str, Any]] = {
    "Japanese": {"SpecificCharacterSet": ["", "ISO 2022 IR 87"], "PatientName": "Yamada^Tarou=山田^太郎=やまだ^たろう"},
    "Korean": {"SpecificCharacterSet": ["", "ISO 2022 IR 149"], "PatientName": "Hong^Gildong=洪^吉洞=홍^길동"},
    "Chinese": {"SpecificCharacterSet": "GB18030", "PatientName": "Wang^XiaoDong=王^小东"},
    "Cyrillic": {"SpecificCharacterSet": "ISO_IR 144", "PatientName": "Люкceмбypг"},
    "empty set": {"SpecificCharacterSet": "", "PatientName": b"M\xfcller^J\xfcrgen"},
    "misspelt set": {"SpecificCharacterSet": b"ISO_IR1OO", "PatientName": b"M\xfcller^J\xfcrgen"},
    "unknown set": {"SpecificCharacterSet": b"latin-1\\klingon", "PatientName": b"M\xc3\xbcller"},
    "wrong set": {"SpecificCharacterSet": "ISO_IR 192", "PatientName": b"\x83\x84\xff\x1b$B^\\x"},
    "sex": {"PatientSex": "U"},
    "other sex": {"PatientSex": "unknown, perhaps f"},
    "dates": {"StudyDate": "2024.01.31", "PatientBirthDate": "unknown", "StudyTime": "12:34:56"},
    "other dates": {"StudyDate": "20241345", "PatientBirthDate": "1970-01-01", "StudyTime": "256199"},
    "long": {"PatientID": "x" * 100, "AccessionNumber": "y" * 40, "PatientName": "z" * 300, "StudyID": "a\\b"},
    "UIDs": {"FrameOfReferenceUID": b"not a UID"},
    "missing": dict.fromkeys(
        ("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "StudyID",
         "AccessionNumber", "ReferringPhysicianName", "SeriesNumber", "Modality")
    ),
    "numbers": {
        "SeriesNumber": b"-3", "PatientSize": b"1.7000000000000000001", "PatientWeight": b"heavy", "PatientAge": b"44"
    },
    "two values": {"PatientID": ["a", "b"], "PatientSex": ["M", "F"], "StudyID": ["1", "2"], "Modality": "Röntgen"},
    "lossy": {
        "LossyImageCompression": "01", "LossyImageCompressionRatio": b"10.123456789012345678",
        "LossyImageCompressionMethod": b"jpeg?",
    },
}  # fmt: skip


@pytest.mark.parametrize("name", HEADERS)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_label_is_written_for_any_header(tmp_path: Path, name: str) -> None:
    changes = HEADERS[name]
    written(edited(a_film(tmp_path), **changes), 2, tmp_path)
    series = a_series(tmp_path)
    for path in series.iterdir():
        edited(path, **{key: value for key, value in changes.items() if value is not None})
    written(series, 3, tmp_path)


def test_invalid_uids_are_referenced_unchanged(tmp_path: Path) -> None:
    """Under another UID the image could not be found."""
    film, task = edited(a_film(tmp_path), StudyInstanceUID=b"1.2.03.4"), make_task(2)
    write_seg(
        tmp_path / "seg.dcm", random_masks(film, task), task, read_image(film).grid, film, SegDescription("x", "MANUAL")
    )
    assert pydicom.dcmread(tmp_path / "seg.dcm").StudyInstanceUID == "1.2.03.4"


def raw(values: list[str]) -> bytes:
    return "\\".join(values).encode()


def test_long_decimal_strings_are_shortened(tmp_path: Path) -> None:
    turn = np.array([np.cos(0.3), np.sin(0.3), 0, -np.sin(0.3), np.cos(0.3), 0])
    folder = tmp_path / "s"
    folder.mkdir()
    for i in range(3):
        path = save(folder / f"{i}.dcm", **PLACE)  # with values of up to 20 characters, where 16 are allowed
        place = [f"{-123.45678901234567:.17g}", "0.1234567890123456789", f"{i * 1.1000000000000001:.17f}"]
        edited(path, ImageOrientationPatient=raw([f"{v:.18f}" for v in turn]), ImagePositionPatient=raw(place))
    seg = written(folder, 3, tmp_path)
    position = seg.PerFrameFunctionalGroupsSequence[0].PlanePositionSequence[0].ImagePositionPatient
    assert [float(v) for v in position[:2]] == pytest.approx([-123.45678901234567, 0.12345678901234568], abs=1e-9)


@pytest.mark.parametrize("name", ["Japanese", "Korean", "Chinese"])
def test_person_names_are_preserved(tmp_path: Path, name: str) -> None:
    seg = written(edited(a_film(tmp_path), **HEADERS[name]), 2, tmp_path)
    assert str(seg.PatientName) == HEADERS[name]["PatientName"]


@pytest.mark.skipif(not CASES.is_dir(), reason="the cases are not here")
def test_japanese_patient_name_is_preserved(tmp_path: Path) -> None:
    seg = written(CASES / "d_patient_japanese" / "a.dcm", 2, tmp_path)
    assert str(seg.PatientName) == "Yamada^Tarou=山田^太郎=やまだ^たろう"


def test_clean_text() -> None:
    assert clean_text(" a\\b\x1b$B\n" + "c" * 9, 6) == "ab$Bcc"


@pytest.mark.parametrize("name", ["film", "CT", "one slice that says little"])
def test_unannotated_structures_are_named(tmp_path: Path, name: str) -> None:
    """In an attribute that the standard allows, and read back as unannotated, not as absent."""
    dimension, make = SOURCES[name]
    source, task = make(tmp_path), make_task(dimension)
    grid = read_image(source).grid
    description = SegDescription(
        "Label; not annotated: heart, rib", "MANUAL", structures=["left lung"], not_annotated=["heart", "rib"]
    )
    write_seg(tmp_path / "seg.dcm", random_masks(source, task), task, grid, source, description)
    assert errors_of(tmp_path / "seg.dcm") == []
    assert pydicom.dcmread(tmp_path / "seg.dcm").ImageComments == "Not annotated: heart, rib"
    assert read_label(tmp_path / "seg.dcm", task, grid).annotated.tolist() == [True, False, False]
