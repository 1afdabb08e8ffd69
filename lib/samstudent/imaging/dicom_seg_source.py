"""Header of an image for a segmentation that refers to it: the needed elements, each with a valid value.

Scanners, importers and anonymisers write values that the standard does not allow. Saving a label must not fail because
of them: values are corrected where possible (dates with hyphens, numbers with too many digits), else left empty. UIDs
of study, series and images are copied unchanged, because viewers find the images by them.
"""

from __future__ import annotations

import datetime
import re
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid
from pydicom.valuerep import format_number_as_ds

from samstudent.imaging.dicom_header import number, numbers, sop_class, text, texts
from samstudent.imaging.dicom_series import Slice

#: Largest length of texts in characters, PS3.5 6.2.
_LONGEST = {"SH": 16, "LO": 64, "CS": 16}
#: Elements that are copied as texts. The standard demands those of the first line, possibly empty.
_TEXTS = {
    "PatientID": "LO", "StudyID": "SH", "AccessionNumber": "SH",
    "StudyDescription": "LO", "IssuerOfPatientID": "LO",
}  # fmt: skip
_NEEDED_TEXTS = ("PatientID", "StudyID", "AccessionNumber")
_NAMES = ("PatientName", "ReferringPhysicianName")
_UIDS = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID")


def clean_header(image: Slice, is_volume: bool, depth: float) -> Dataset:
    """New header with the elements that a SEG copies from its source.

    Args:
        image: the source.
        is_volume: one of several slices, so that its frame must have a position in space.
        depth: distance of the slices in mm, used if the header has none.
    """
    header, clean = image.header, Dataset()
    clean.SpecificCharacterSet = "ISO_IR 192"  # UTF-8, which has every name
    for keyword in _UIDS:
        setattr(clean, keyword, sop_class(header) if keyword == "SOPClassUID" else text(header, keyword))
    for keyword, representation in _TEXTS.items():
        value = clean_text(_raw_text(header, keyword), _LONGEST[representation])
        if value or keyword in _NEEDED_TEXTS:
            setattr(clean, keyword, value)
    for keyword in _NAMES:
        setattr(clean, keyword, _name(_raw_text(header, keyword)))
    clean.PatientBirthDate, clean.StudyDate = _date(text(header, "PatientBirthDate")), _date(text(header, "StudyDate"))
    clean.StudyTime = _time(text(header, "StudyTime"))
    sex = text(header, "PatientSex").upper()
    clean.PatientSex = sex if sex in ("M", "F", "O") else ""
    if re.fullmatch(r"\d{3}[DWMY]", age := text(header, "PatientAge")):
        clean.PatientAge = age
    for keyword in ("PatientSize", "PatientWeight"):
        if (size := number(header, keyword, 0)) > 0:
            setattr(clean, keyword, format_number_as_ds(size))
    clean.Modality = _code(text(header, "Modality")) or "OT"
    clean.SeriesNumber = int(min(max(number(header, "SeriesNumber", 0), 0), 2**31 - 1))
    clean.Rows, clean.Columns = int(header.Rows), int(header.Columns)
    if image.frame is not None:
        clean.InStackPositionNumber = image.frame + 1
    if text(header, "LossyImageCompression") == "01":
        clean.LossyImageCompression = "01"
        # Both must be present; a missing one becomes "unknown".
        ratios, methods = numbers(header, "LossyImageCompressionRatio"), texts(header, "LossyImageCompressionMethod")
        clean.LossyImageCompressionRatio = [format_number_as_ds(ratio) for ratio in ratios or [1.0]]
        clean.LossyImageCompressionMethod = [code for method in methods if (code := _code(method))] or ["UNKNOWN"]
    _place(clean, image, is_volume, depth)
    return clean


def _place(clean: Dataset, image: Slice, is_volume: bool, depth: float) -> None:
    """Set position and orientation in space, either all elements or none, as readers demand. A radiograph may have a
    frame of reference, but has no position in it."""
    spacing = numbers(image.header, "PixelSpacing")
    if len(spacing) != 2 or min(spacing) <= 0:
        spacing = [1.0, 1.0] if is_volume else []
    directions = numbers(image.header, "ImageOrientationPatient")
    thickness = number(image.header, "SliceThickness", 0)
    if image.position is None or not spacing or (not is_volume and (len(directions) != 6 or thickness <= 0)):
        row = [code for value in texts(image.header, "PatientOrientation") if (code := _code(value))]
        clean.PatientOrientation = row if len(row) == 2 else None
        return
    frame = text(image.header, "FrameOfReferenceUID")
    series = text(image.header, "SeriesInstanceUID")
    clean.FrameOfReferenceUID = frame if _is_uid(frame) else generate_uid(entropy_srcs=["samstudent", series])
    clean.PositionReferenceIndicator = clean_text(text(image.header, "PositionReferenceIndicator"), 64)
    clean.ImagePositionPatient = [format_number_as_ds(float(value)) for value in image.position]
    clean.ImageOrientationPatient = [format_number_as_ds(float(value)) for value in image.orientation]
    clean.PixelSpacing = [format_number_as_ds(value) for value in spacing]
    clean.SliceThickness = format_number_as_ds(thickness if thickness > 0 else float(np.round(depth, 6)))


def _raw_text(header: Dataset, keyword: str) -> str:
    """Text of an element whose character set may be missing or misspelt."""
    element: Any = header.get_item(keyword)
    raw = getattr(element, "value", None)
    if found := text(header, keyword):
        return found
    if not isinstance(raw, bytes):
        return ""
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return raw.decode("latin-1")


def clean_text(value: str, longest: int) -> str:
    """A text without forbidden characters, at most ``longest`` characters long."""
    return "".join(c for c in value if c.isprintable() and c not in "\\\ufffd").strip()[:longest].strip()


def _name(value: str) -> str:
    """A person's name: up to three groups of up to five parts, PS3.5 6.2.1.1."""
    groups = ["^".join(clean_text(part, 64) for part in group.split("^")[:5])[:64] for group in value.split("=")[:3]]
    return "=".join(groups).rstrip("=^ ")


def _code(value: str) -> str:
    found = value.upper().strip()
    return found if re.fullmatch(r"[A-Z0-9_ ]{1,16}", found) else ""


def _date(value: str) -> str:
    digits = re.sub(r"[-./]", "", value[:10])
    try:
        return datetime.datetime.strptime(digits, "%Y%m%d").strftime("%Y%m%d") if len(digits) == 8 else ""
    except ValueError:
        return ""


def _time(value: str) -> str:
    found = re.fullmatch(r"(\d\d):?(\d\d)?:?(\d\d)?(\.\d{1,6})?\d*", value)
    if not found:
        return ""
    parts = [part or "" for part in found.groups()]
    hour, minute, second = (int(part or 0) for part in parts[:3])
    if hour > 23 or minute > 59 or second > 59 or (parts[3] and not parts[2]):
        return ""
    return "".join(parts)


def _is_uid(value: str) -> bool:
    return len(value) <= 64 and re.fullmatch(r"(0|[1-9]\d*)(\.(0|[1-9]\d*))+", value) is not None


def refer_to(seg: Dataset, placeholder: str, sop_class_uid: str) -> None:
    """Replace the placeholder by the source's own SOP class in the references of a segmentation."""

    def replace(dataset: Dataset, element: Any) -> None:
        if element.keyword == "ReferencedSOPClassUID" and element.value == placeholder:
            element.value = sop_class_uid

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        seg.walk(replace)


def as_instances(images: Sequence[Dataset]) -> dict[str, tuple[str, int]]:
    """Give each frame of a multi-frame source a SOP Instance UID of its own, so that it can be a source like a file.

    Args:
        images: headers from ``clean_header``; those of frames have their number from 1 in ``InStackPositionNumber``,
            which is removed.

    Returns:
        New UID -> UID of the file and number of the frame; empty for files of one image.
    """
    frames = {}
    for image in images:
        if number := image.get("InStackPositionNumber"):
            del image.InStackPositionNumber
            own = generate_uid(entropy_srcs=[str(image.SOPInstanceUID), str(number)])
            frames[str(own)] = str(image.SOPInstanceUID), int(number)
            image.SOPInstanceUID = own
    return frames


def refer_to_frames(seg: Dataset, frames: Mapping[str, tuple[str, int]]) -> None:
    """Replace the UIDs of ``as_instances`` by references to the frames of the source file."""
    if not frames:
        return

    def replace(dataset: Dataset, element: Any) -> None:
        if element.keyword == "ReferencedSOPInstanceUID" and (found := frames.get(str(element.value))):
            element.value, dataset.ReferencedFrameNumber = found

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        seg.walk(replace)
    for series in seg.get("ReferencedSeriesSequence", ()):
        # A reference to the instance as a whole, once.
        instances = {str(item.ReferencedSOPInstanceUID): item for item in series.ReferencedInstanceSequence}
        for item in instances.values():
            if "ReferencedFrameNumber" in item:
                del item.ReferencedFrameNumber
        series.ReferencedInstanceSequence = list(instances.values())
