"""Segments of a DICOM segmentation (SEG): their structures, references and authors, from the header alone.

Read with pydicom alone: viewers leave out much that the standard demands, and a strict reader would refuse their files.
``dicom_seg_frames`` reads the masks, ``dicom_seg_write`` is the way back.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pydicom.dataset import Dataset
from pydicom.uid import UID, SegmentationStorage

from samstudent.errors import UserError
from samstudent.imaging.dicom_header import read_header, sop_class
from samstudent.imaging.dicom_size_checks import check_dicom
from samstudent.imaging.formats import decoding
from samstudent.imaging.structure_names import IGNORE, find_structure, marked_structure
from samstudent.task import Task

#: Newer than pydicom's dictionary.
LABEL_MAP = UID("1.2.840.10008.5.1.4.1.1.66.7")
SOP_CLASSES = (SegmentationStorage, LABEL_MAP)
_SIDES = {"7771000": "left", "24028007": "right"}
#: Start of Image Comments (0020,4000) of a SEG of ours with structures that may be present without a segment.
NOT_ANNOTATED = "Not annotated: "


@dataclass(frozen=True)
class Segment:
    """Description of one segment in a SEG.

    Attributes:
        number: SegmentNumber, by which frames refer to it.
        label: SegmentLabel.
        code: value, scheme and side of its type code; None: no type code.
        algorithm: AUTOMATIC, SEMIAUTOMATIC, MANUAL, or empty.
    """

    number: int
    label: str
    code: tuple[str, str, str | None] | None
    algorithm: str


def is_seg(path: Path) -> bool:
    """Whether a DICOM file is a segmentation."""
    with decoding(path, "DICOM"):
        check_dicom(path)  # pydicom decompresses a deflated file completely
        return sop_class(read_header(path)) in SOP_CLASSES


def segments_of(seg: Dataset) -> list[Segment]:
    """Segments that a SEG declares, in file order. Raises UserError: one has no number."""
    file = getattr(seg, "filename", None) or "a DICOM segmentation"
    return [_segment(item, file) for item in seg.get("SegmentSequence") or []]


def is_automatic(seg: Dataset) -> bool:
    """Whether every segment is the output of an algorithm alone, not a human's label. Raises as ``segments_of``."""
    return all(segment.algorithm == "AUTOMATIC" for segment in segments_of(seg))


def structures_of(seg: Dataset, task: Task, marked: str = "") -> dict[int, str]:
    """Segment number -> the task's structure, by the segment's label, else by its code. Other segments are left out.

    Args:
        seg: the SEG; its header is enough.
        task: the structures.
        marked: prefix such as ``ignore:``: only segments with the label prefix + structure. Without it segments
            marked ``ignore:`` are left out, whatever their code.

    Raises:
        UserError: as ``segments_of``.
    """
    by_code = {task.code_of(name).key: name for name in task.names}
    found = {}
    for segment in segments_of(seg):
        if marked:
            name = marked_structure(segment.label, marked, task.names)
        elif marked_structure(segment.label, IGNORE, task.names):
            continue
        else:
            name = find_structure(segment.label, task.names) or (by_code.get(segment.code) if segment.code else None)
        if name:
            found[segment.number] = name
    return found


def other_labels(path: Path, task: Task) -> set[str]:
    """Labels of a SEG's segments that are none of the task's structures. Raises UserError: cannot be read."""
    with _header(path) as seg:
        known = {**structures_of(seg, task), **structures_of(seg, task, IGNORE)}
        return {segment.label for segment in segments_of(seg) if segment.number not in known}


def named_structures(path: Path, task: Task, prefix: str) -> list[str]:
    """Structures that a SEG declares, with or without frames; marked ones (``structures_of``) and, for ``ignore:``,
    those recorded as not annotated come with the prefix. Raises UserError: cannot be read."""
    with _header(path) as seg:
        named = [*structures_of(seg, task).values()]
        marked = [prefix + name for name in structures_of(seg, task, prefix).values()]
        not_annotated = not_annotated_in(seg, task) if prefix == IGNORE else []
        return [*named, *marked, *(prefix + name for name in not_annotated if name not in named)]


def not_annotated_in(seg: Dataset, task: Task) -> list[str]:
    """The task's structures that the Image Comments of a SEG of ours list as not annotated."""
    comments = str(seg.get("ImageComments") or "")
    if not comments.startswith(NOT_ANNOTATED):
        return []
    names = (find_structure(name, task.names) for name in comments.removeprefix(NOT_ANNOTATED).split(", "))
    return [name for name in names if name]


def known_labels(path: Path, task: Task) -> list[str]:
    """The task's structures with a segment in a SEG, in the task's order. Raises UserError: cannot be read."""
    with _header(path) as seg:
        found = set(structures_of(seg, task).values())
    return [name for name in task.names if name in found]


def references_of(seg: Dataset) -> tuple[str | None, list[str]]:
    """UIDs of the image series that a SEG was drawn on, and of the images that it refers to."""
    images: list[str] = []
    for series in seg.get("ReferencedSeriesSequence") or []:
        images += [str(item.ReferencedSOPInstanceUID) for item in series.get("ReferencedInstanceSequence") or []]
        return str(series.get("SeriesInstanceUID") or "") or None, images
    for item in seg.get("SourceImageSequence") or []:
        images.append(str(item.ReferencedSOPInstanceUID))
    return None, images


@contextmanager
def _header(path: Path) -> Iterator[Dataset]:
    """Header of a SEG; whatever pydicom raises on it becomes a UserError."""
    with decoding(path, "a DICOM segmentation"):
        check_dicom(path)  # pydicom decompresses a deflated file completely
        yield read_header(path)


def _segment(item: Dataset, file: object) -> Segment:
    code = None
    for entry in item.get("SegmentedPropertyTypeCodeSequence") or []:
        value = entry.get("CodeValue") or entry.get("LongCodeValue")
        sides = entry.get("SegmentedPropertyTypeModifierCodeSequence") or []
        side = next((_SIDES.get(str(modifier.get("CodeValue"))) for modifier in sides), None)
        code = (str(value), str(entry.get("CodingSchemeDesignator")), side) if value else None
    algorithm = str(item.get("SegmentAlgorithmType") or "")
    number = item.get("SegmentNumber")
    if not isinstance(number, int):
        raise UserError(f"{file}: a segment without a SegmentNumber, found {number!r}; expected a whole number")
    return Segment(int(number), str(item.get("SegmentLabel") or ""), code, algorithm)
