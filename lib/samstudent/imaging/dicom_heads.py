"""First elements of DICOM files, by which files are grouped to images, and the files of an image."""

from __future__ import annotations

import io
import os
import warnings
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from pydicom.datadict import tag_for_keyword
from pydicom.dataset import Dataset
from pydicom.filereader import read_partial

from samstudent.errors import UserError
from samstudent.imaging.dicom_header import (
    HEAD_BYTES,
    frames_of,
    is_dicom,
    item_of,
    no_image,
    numbers,
    read_header,
    text,
    texts,
)
from samstudent.imaging.dicom_size_checks import check_dicom
from samstudent.imaging.formats import decoding
from samstudent.imaging.image_paths import ImagePath

#: Bytes at the start of a file that nearly always contain the elements of ``_KEYWORDS``. Reading no more keeps a
#: listing fast (0.4 ms a file), and safe from files that announce or decompress to huge values.
_START_BYTES = 1 << 16
_KEYWORDS = (
    "SpecificCharacterSet", "SOPClassUID", "ImageType", "SeriesDescription", "StudyInstanceUID", "SeriesInstanceUID",
    "SeriesNumber", "ImagePositionPatient", "NumberOfFrames", "Rows", "Columns",
)  # fmt: skip
_TAGS = [tag for keyword in _KEYWORDS if (tag := tag_for_keyword(keyword)) is not None]
_LAST = tag_for_keyword("Columns") or 0


@dataclass(frozen=True)
class DicomHead:
    """Facts of one DICOM file.

    Attributes:
        series: Series Instance UID.
        number: Series Number as text; "" if there is none.
        description: Series Description.
        study: Study Instance UID.
        frames: number of images in the file.
        is_placed: every image has a position in space.
        is_localizer: a localizer (scout).
        no_image: description of an object that is not an image; None: an image.
        fault: reason why the header cannot be read; None: it can.
    """

    series: str = ""
    number: str = ""
    description: str = ""
    study: str = ""
    frames: int = 1
    is_placed: bool = False
    is_localizer: bool = False
    no_image: str | None = None
    fault: str | None = None


def dicom_head(path: Path) -> DicomHead | None:
    """Facts of a file, cached until it changes; None: not DICOM, or it cannot be opened."""
    try:
        status = path.stat()
        return _head(path, status.st_mtime_ns, status.st_size)
    except OSError:
        return None


@lru_cache(maxsize=1 << 18)
def _head(path: Path, changed: int, size: int) -> DicomHead | None:
    with path.open("rb") as file:
        start = file.read(HEAD_BYTES)
        if not is_dicom(start):
            return None
        start += file.read(_START_BYTES - HEAD_BYTES)
    try:
        header = _first_elements(start)
        if "Rows" not in header and size > len(start):
            with decoding(path, "DICOM"):
                check_dicom(path)
                header = read_header(path)
        frames = frames_of(header)
        placed = len(numbers(header, "ImagePositionPatient")) == 3
        if frames > 1:
            with decoding(path, "DICOM"):
                check_dicom(path)
                placed = are_frames_placed(read_header(path))
    except UserError as error:
        return DicomHead(fault=str(error).removeprefix(f"{path}: "))
    return DicomHead(
        series=text(header, "SeriesInstanceUID"),
        number=text(header, "SeriesNumber"),
        description=text(header, "SeriesDescription"),
        study=text(header, "StudyInstanceUID"),
        frames=frames,
        is_placed=placed,
        is_localizer=is_localizer(header),
        no_image=no_image(header),
    )


def _first_elements(start: bytes) -> Dataset:
    """Elements up to the columns of pixels in the first bytes of a file; empty where they cannot be read."""
    with warnings.catch_warnings(), suppress(Exception):  # whatever pydicom raises on a part of a file
        warnings.simplefilter("ignore")
        return read_partial(
            io.BytesIO(start), stop_when=lambda tag, vr, length: tag > _LAST, force=True, specific_tags=list(_TAGS)
        )
    return Dataset()


def is_localizer(header: Dataset) -> bool:
    return "LOCALIZER" in map(str.upper, texts(header, "ImageType"))


def are_frames_placed(header: Dataset) -> bool:
    """Whether the frames of a file have positions in space: it is a volume, not a clip."""
    groups = item_of(header, "PerFrameFunctionalGroupsSequence")
    position = None if groups is None else item_of(groups, "PlanePositionSequence")
    return position is not None and len(numbers(position, "ImagePositionPatient")) == 3


def dicom_files(folder: Path) -> Iterator[tuple[Path, DicomHead]]:
    """DICOM files directly in a folder with their facts, in the order of names; hidden files are left out.

    A file that is not DICOM although its name ends in .dcm has a fault.
    """
    with os.scandir(folder) as items:
        names = sorted(item.name for item in items if not item.name.startswith(".") and item.is_file())
    for name in names:
        head = dicom_head(folder / name)
        if head is None and name.lower().endswith(".dcm"):
            head = DicomHead(fault="not DICOM, although its name ends in .dcm; remove or rename it")
        if head is not None:
            yield folder / name, head


def image_files(path: Path) -> list[Path]:
    """Files with the content of an image: itself, the files directly in a folder, those of a series in it, or those of
    all channels."""
    image = ImagePath.of(path)
    if image.channels:
        return [file for channel in image.channels for file in image_files(channel)]
    if image.series is not None:
        return [file for file, head in dicom_files(image.place) if head.series == image.series and not head.no_image]
    if image.place.is_dir():
        return sorted(file for file in image.place.iterdir() if file.is_file() and not file.name.startswith("."))
    return [image.place]
