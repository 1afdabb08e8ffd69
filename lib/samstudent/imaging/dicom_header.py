"""Header of a DICOM file: detection of the format, kind of object, values as texts and numbers."""

from __future__ import annotations

import logging
import math
import struct
import warnings
from pathlib import Path
from typing import Any

import pydicom
from pydicom.datadict import dictionary_has_tag
from pydicom.dataset import Dataset
from pydicom.uid import UID
from pydicom.valuerep import STANDARD_VR

# pydicom logs the failure of each decoder with a traceback; we report a failure once, as a UserError.
logging.getLogger("pydicom").setLevel(logging.CRITICAL)

#: Bytes at the start of a file that are enough to recognise DICOM.
HEAD_BYTES = 4096
_LONG_REPRESENTATIONS = (b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV")
#: Elements that identify a DICOM file: UIDs of its SOP class and transfer syntax, all with this root.
_IDENTIFYING = {(0x0002, 0x0002), (0x0002, 0x0010), (0x0008, 0x0016)}
_ROOT = b"1.2.840.10008."

#: Objects that are not images and the user's alternative, by the common prefix of their SOP class UIDs.
_NO_IMAGES = {
    "1.2.840.10008.1.3.10": "a DICOMDIR, the table of contents of a medium; name the image files themselves",
    "1.2.840.10008.5.1.4.1.1.481.3": (
        "an RTSTRUCT (contours, not pixels); save it as DICOM SEG, .seg.nrrd, .nrrd or .nii.gz"
    ),
    "1.2.840.10008.5.1.4.1.1.481.2": "an RTDOSE (radiation dose), not an image",
    "1.2.840.10008.5.1.4.1.1.481": "a radiotherapy plan or record, not an image",
    "1.2.840.10008.5.1.4.1.1.11": "a presentation state, which describes the display of an image; use the image",
    "1.2.840.10008.5.1.4.1.1.88": "a structured report (SR), not an image",
    "1.2.840.10008.5.1.4.1.1.104": "an encapsulated document (PDF, CDA or a surface model), not an image",
    "1.2.840.10008.5.1.4.1.1.66.1": "a registration, not an image",
    "1.2.840.10008.5.1.4.1.1.66.2": "fiducials, not an image",
    "1.2.840.10008.5.1.4.1.1.66.3": "a registration, not an image",
    "1.2.840.10008.5.1.4.1.1.66.4": "a segmentation (SEG), not an image; it can be a label",
    "1.2.840.10008.5.1.4.1.1.66.5": "a surface segmentation; save it as DICOM SEG, .seg.nrrd, .nrrd or .nii.gz",
    "1.2.840.10008.5.1.4.1.1.66.6": "a tractography, not an image",
    "1.2.840.10008.5.1.4.1.1.66.7": "a segmentation (SEG), not an image; it can be a label",
    "1.2.840.10008.5.1.4.1.1.66": "raw data of a scanner, not an image",
    "1.2.840.10008.5.1.4.1.1.9": "a waveform (ECG, audio), not an image",
}
# The image among the classes of radiotherapy.
_RT_IMAGE = "1.2.840.10008.5.1.4.1.1.481.1"


def is_dicom(head: bytes) -> bool:
    """Whether a file is DICOM, by its first bytes.

    Files with a preamble have a magic number. Without one (files as received, older archives) the first elements must
    be well formed, ascending and known, and hold the UID of a SOP class or transfer syntax of DICOM.

    Args:
        head: the first ``HEAD_BYTES`` of the file, fewer if it is shorter.
    """
    if head[128:132] == b"DICM":
        return True
    return _has_dicom_elements(head, explicit=True) or _has_dicom_elements(head, explicit=False)


def _has_dicom_elements(head: bytes, explicit: bool) -> bool:
    """Whether the first elements, little endian, are DICOM up to one of ``_IDENTIFYING``."""
    at, last = 0, (0, -1)
    while at + 12 <= len(head):
        tag = struct.unpack_from("<HH", head, at)
        if tag <= last or tag[0] not in (0x0002, 0x0008) or not (tag[1] == 0 or dictionary_has_tag(tag)):
            return False
        representation = head[at + 4 : at + 6]
        if explicit or tag[0] == 0x0002:  # group 2 always names them
            if representation.decode("latin-1") not in STANDARD_VR:
                return False
            long = representation in _LONG_REPRESENTATIONS
            start = at + (12 if long else 8)
            length = struct.unpack_from("<I", head, at + 8)[0] if long else struct.unpack_from("<H", head, at + 6)[0]
        else:
            start, length = at + 8, struct.unpack_from("<I", head, at + 4)[0]
        if tag in _IDENTIFYING:
            return length <= 64 and head[start : start + len(_ROOT)] == _ROOT
        at, last = start + length, tag
    return False


def read_header(path: Path) -> Dataset:
    """All elements before the pixels. Call ``check_dicom`` first: pydicom decompresses a deflated file completely."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # invalid values: those that matter are checked where they are used
        return pydicom.dcmread(path, stop_before_pixels=True, force=True)


def transfer_syntax(dataset: Dataset) -> UID | None:
    """Transfer syntax of the file, else the one by which it was read; None: unknown compression of the pixels."""
    found = getattr(dataset, "file_meta", {}).get("TransferSyntaxUID")
    if found:
        return UID(str(found))
    implicit, little = dataset.original_encoding
    pixels = dataset.get_item("PixelData") if "PixelData" in dataset else None
    if pixels is not None and getattr(pixels, "is_undefined_length", False):
        return None
    if implicit:
        return UID("1.2.840.10008.1.2")
    return UID("1.2.840.10008.1.2.1" if little else "1.2.840.10008.1.2.2")


def sop_class(dataset: Dataset) -> str:
    """SOP class UID of the dataset, or of its file's header; "" if neither has one."""
    return text(dataset, "SOPClassUID") or text(getattr(dataset, "file_meta", Dataset()), "MediaStorageSOPClassUID")


def no_image(dataset: Dataset) -> str | None:
    """Description of an object that is not an image, with a remedy, for messages; None: it may be an image."""
    uid = sop_class(dataset)
    if uid == _RT_IMAGE or uid.startswith(_RT_IMAGE + "."):
        return None
    # The longest that fits: 481.3 before 481.
    fitting = [part for part in _NO_IMAGES if uid == part or uid.startswith(part + ".")]
    if fitting:
        return _NO_IMAGES[max(fitting, key=len)]
    if "Rows" not in dataset or "Columns" not in dataset:
        name = UID(uid).name if uid else "a file that does not name its kind"
        return f"no image: {name}, without rows and columns of pixels"
    return None


def text(dataset: Dataset, keyword: str) -> str:
    """A value as text, of several the first; "" where it is missing, empty or cannot be decoded."""
    return (texts(dataset, keyword) or [""])[0]


def texts(dataset: Dataset, keyword: str) -> list[str]:
    """All values of an element as texts; [] where it is missing, empty or cannot be decoded."""
    value = _value(dataset, keyword)
    if value is None:
        return []
    several = isinstance(value, (list, tuple, pydicom.multival.MultiValue))
    return [str(part).strip() for part in (value if several else [value])]


def numbers(dataset: Dataset, keyword: str) -> list[float]:
    """All values of an element as numbers; [] where it is missing or one of them is no finite number."""
    try:
        found = [float(part) for part in texts(dataset, keyword)]
    except ValueError:
        return []
    return found if all(map(math.isfinite, found)) else []


def number(dataset: Dataset, keyword: str, default: float) -> float:
    """The first value of an element as a number."""
    return (numbers(dataset, keyword) or [default])[0]


def frames_of(dataset: Dataset) -> int:
    """Number of images in a file."""
    return max(1, int(number(dataset, "NumberOfFrames", 1)))


def item_of(dataset: Dataset, keyword: str) -> Dataset | None:
    """The first item of a sequence; None where there is none."""
    value = _value(dataset, keyword)
    return value[0] if isinstance(value, pydicom.sequence.Sequence) and len(value) else None


def _value(dataset: Dataset, keyword: str) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return dataset.get(keyword)
    except Exception:  # whatever pydicom raises on a value that it cannot convert
        return None
