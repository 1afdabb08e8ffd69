"""DICOM segmentations (SEG): what a task's structures are in one, whoever wrote it.

Read with pydicom alone: viewers leave out much that the standard asks for, and a strict reader would refuse their work.
``dicomseg_write`` is the way back.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.uid import UID, SegmentationStorage

from samstudent.errors import UserError
from samstudent.imaging import resampling
from samstudent.imaging.dicom_header import read_header, sop_class, transfer_syntax
from samstudent.imaging.dicom_size_checks import check_dicom
from samstudent.imaging.formats import Stored, decoding
from samstudent.imaging.grid import LPS_TO_RAS, Grid
from samstudent.imaging.size_checks import check_size
from samstudent.imaging.structure_names import find_structure, marked_structure
from samstudent.task import Task

#: Newer than pydicom's dictionary.
LABEL_MAP = UID("1.2.840.10008.5.1.4.1.1.66.7")
SOP_CLASSES = (SegmentationStorage, LABEL_MAP)
#: Frames whose corners lie less than this share of a pixel beside the image's are on its grid: headers round.
_SAME = 0.25
#: A hundred structures on each slice of a long CT have as many; each costs time, however few pixels it has.
_MAX_FRAMES = 1 << 16
_SIDES = {"7771000": "left", "24028007": "right"}
#: Begins Image Comments (0020,4000) of a SEG of ours in which structures have no segment though they may be there.
NOT_ANNOTATED = "Not annotated: "
#: ``imaging.labels.IGNORE``, which imports this module.
_IGNORE = "ignore:"


@dataclass(frozen=True)
class Segment:
    """What a SEG says of one segment."""

    number: int
    label: str
    #: Value, scheme and side of its type code; None where it has none.
    code: tuple[str, str, str | None] | None
    #: AUTOMATIC, SEMIAUTOMATIC, MANUAL, or empty.
    algorithm: str


def is_seg(path: Path) -> bool:
    """Whether a DICOM file is a segmentation."""
    with decoding(path, "DICOM"):
        check_dicom(path)  # pydicom unpacks a deflated file whole
        return sop_class(read_header(path)) in SOP_CLASSES


def segments_of(seg: Dataset) -> list[Segment]:
    """The segments that a SEG declares, in its own order. Raises UserError: one has no number."""
    file = getattr(seg, "filename", None) or "a DICOM segmentation"
    return [_segment(item, file) for item in seg.get("SegmentSequence") or []]


def is_machines(seg: Dataset) -> bool:
    """Whether every segment was drawn by a program alone, so that it is no human's label. Raises as ``segments_of``."""
    return all(segment.algorithm == "AUTOMATIC" for segment in segments_of(seg))


def structures_of(seg: Dataset, task: Task, marked: str = "") -> dict[int, str]:
    """Segment number -> the task's structure: by its label, else by its code. Segments of other names are left out.

    ``marked``: of the segments whose label is a structure's after this prefix, e.g. ``ignore:``; by default these are
    left out, whatever their code says.

    Raises as ``segments_of``.
    """
    by_code = {task.code_of(name).key: name for name in task.names}
    found = {}
    for segment in segments_of(seg):
        if marked:
            name = marked_structure(segment.label, marked, task.names)
        elif marked_structure(segment.label, _IGNORE, task.names):
            continue
        else:
            name = find_structure(segment.label, task.names) or (by_code.get(segment.code) if segment.code else None)
        if name:
            found[segment.number] = name
    return found


def other_labels(path: Path, task: Task) -> set[str]:
    """Labels of a SEG's segments that are none of the task's structures. Raises UserError: cannot be read."""
    with decoding(path, "a DICOM segmentation"):
        check_dicom(path)  # pydicom unpacks a deflated file whole
        seg = read_header(path)
        known = {**structures_of(seg, task), **structures_of(seg, task, _IGNORE)}
        return {segment.label for segment in segments_of(seg) if segment.number not in known}


def named_structures(path: Path, task: Task, prefix: str) -> list[str]:
    """The structures that a SEG declares, whether or not it has frames of them; those that are marked with the prefix
    (``structures_of``), or said to be not annotated, with the prefix. Raises UserError: cannot be read."""
    with decoding(path, "a DICOM segmentation"):
        check_dicom(path)  # pydicom unpacks a deflated file whole
        seg = read_header(path)
        named = [*structures_of(seg, task).values()]
        marked = [prefix + name for name in structures_of(seg, task, prefix).values()]
        left_open = not_annotated_in(seg, task) if prefix == _IGNORE else []
        return [*named, *marked, *(prefix + name for name in left_open if name not in named)]


def not_annotated_in(seg: Dataset, task: Task) -> list[str]:
    """The task's structures of which a SEG of ours says in its Image Comments that they are not annotated."""
    comments = str(seg.get("ImageComments") or "")
    if not comments.startswith(NOT_ANNOTATED):
        return []
    names = (find_structure(name, task.names) for name in comments.removeprefix(NOT_ANNOTATED).split(", "))
    return [name for name in names if name]


def known_labels(path: Path, task: Task) -> list[str]:
    """The task's structures that a SEG has a segment of, in their order. Raises UserError: cannot be read."""
    with decoding(path, "a DICOM segmentation"):
        check_dicom(path)  # pydicom unpacks a deflated file whole
        found = set(structures_of(read_header(path), task).values())
    return [name for name in task.names if name in found]


def references_of(seg: Dataset) -> tuple[str | None, list[str]]:
    """The image series that a SEG was drawn on, and the images that it names, as UIDs."""
    images: list[str] = []
    for series in seg.get("ReferencedSeriesSequence") or []:
        images += [str(item.ReferencedSOPInstanceUID) for item in series.get("ReferencedInstanceSequence") or []]
        return str(series.get("SeriesInstanceUID") or "") or None, images
    for item in seg.get("SourceImageSequence") or []:
        images.append(str(item.ReferencedSOPInstanceUID))
    return None, images


def read_seg(path: Path, task: Task, grid: Grid, marked: str = "") -> NDArray[Any]:
    """The task's structures in a SEG, on the image's grid. What it has no frame of is empty.

    Frames with a position in space are put where they lie, and resampled to the nearest pixel if they lie on another
    grid. Those without one (radiographs) must have the image's size.

    Args:
        path: the SEG, BINARY, FRACTIONAL (from one half on) or LABELMAP.
        task: whose structures to look for, see ``structures_of``.
        grid: the image's.
        marked: the segments whose label is so marked, as of ``structures_of``; there need not be any.

    Returns:
        bool (S, *spatial), canonical.

    Raises:
        UserError: cannot be read; too large; none of the task's structures; another size; another place.
    """
    with decoding(path, "a DICOM segmentation"):
        check_dicom(path)  # pydicom unpacks a deflated file whole
        seg = pydicom.dcmread(path, force=True)
        numbers = structures_of(seg, task, marked)
        if not numbers and (marked or structures_of(seg, task, _IGNORE)):
            return np.zeros((len(task.names), *grid.spatial_shape), dtype=bool)
        if not numbers:
            labels = [segment.label for segment in segments_of(seg)]
            raise UserError(f"{path}: none of its segments {labels} is in the task, which has {task.names}")
        count, told = int(seg.get("NumberOfFrames", 1)), len(seg.get("PerFrameFunctionalGroupsSequence") or [])
        check_size(path, (int(seg.Rows), int(seg.Columns), count))
        if count > _MAX_FRAMES:
            raise UserError(f"{path}: {count} frames; expected at most {_MAX_FRAMES}")
        if count > 1 and told != count:
            raise UserError(f"{path}: {count} frames, but PerFrameFunctionalGroupsSequence tells of {told}")
        frames = _frames(seg)
        masks = np.zeros((len(task.names), *_with_slices(grid)), dtype=bool)
        elsewhere: list[int] = []
        for index, frame in enumerate(frames):
            place = _slice_of(_corner(seg, index), frame.shape, grid, path)
            if place is None:
                elsewhere.append(index)
                continue
            for number, mask in _drawn(seg, index, frame):
                if number in numbers:
                    masks[task.structures[numbers[number]] - 1, place] |= mask
        if elsewhere:
            _resample(seg, elsewhere, frames, numbers, masks, task, grid, path)
    return grid.from_file(masks.reshape(len(masks), *grid.shape))


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


def _frames(seg: Dataset) -> NDArray[Any]:
    """(frames, rows, columns): bool, or the segment numbers of a label map."""
    if syntax := transfer_syntax(seg):
        seg.file_meta.TransferSyntaxUID = syntax
    pixels = seg.pixel_array
    frames = pixels[None] if pixels.ndim == 2 else pixels
    if seg.SOPClassUID == LABEL_MAP or str(seg.SegmentationType) == "LABELMAP":
        return np.asarray(frames)
    highest = int(seg.get("MaximumFractionalValue", 1)) if str(seg.SegmentationType) == "FRACTIONAL" else 1
    return np.asarray(frames >= max(1, (highest + 1) // 2))


def _drawn(seg: Dataset, index: int, frame: NDArray[Any]) -> list[tuple[int, NDArray[Any]]]:
    """(segment number, mask) of all that is drawn on a frame."""
    if frame.dtype != bool:
        return [(int(value), frame == value) for value in np.unique(frame) if value]
    group = _group(seg, index, "SegmentIdentificationSequence")
    return [(int(group.ReferencedSegmentNumber), frame)] if group is not None else []


def _group(seg: Dataset, index: int, keyword: str) -> Dataset | None:
    """A functional group of a frame: its own, else the one shared by all frames."""
    own = seg.get("PerFrameFunctionalGroupsSequence") or []
    for item in ([own[index]] if index < len(own) else []) + list(seg.get("SharedFunctionalGroupsSequence") or []):
        if item.get(keyword):
            found: Dataset = item[keyword][0]
            return found
    return None


def _corner(seg: Dataset, index: int) -> NDArray[Any] | None:
    """(4, 4): a frame's index (column, row, 0) -> RAS mm, its third column the normal; None where it has no place."""
    position = _group(seg, index, "PlanePositionSequence")
    orientation = _group(seg, index, "PlaneOrientationSequence")
    measures = _group(seg, index, "PixelMeasuresSequence")
    if position is None or orientation is None or measures is None:
        return None
    axes = np.array(orientation.ImageOrientationPatient, dtype=float).reshape(2, 3)
    between_rows, between_columns = (float(v) for v in measures.PixelSpacing)
    affine = np.eye(4)
    affine[:3, 0], affine[:3, 1] = axes[0] * between_columns, axes[1] * between_rows
    affine[:3, 2] = np.cross(axes[0], axes[1])
    affine[:3, 3] = np.array(position.ImagePositionPatient, dtype=float)
    return np.asarray(LPS_TO_RAS @ affine)


def _with_slices(grid: Grid) -> tuple[int, ...]:
    return (1, *grid.shape) if len(grid.shape) == 2 else grid.shape


def _slice_of(corner: NDArray[Any] | None, size: tuple[int, ...], grid: Grid, path: Path) -> int | None:
    """Which of the file's slices a frame is; None where it lies on another grid."""
    slices, rows, columns = _with_slices(grid)
    if corner is None:
        if slices > 1:
            raise UserError(f"{path}: its frames have no position in space, but the image is a volume")
        if size != (rows, columns):
            raise UserError(f"{path}: drawn on {size[0]} x {size[1]} pixels, but the image has {rows} x {columns}")
        return 0
    if size != (rows, columns):
        return None
    corners = np.array([[0, 0, 0, 1], [columns - 1, 0, 0, 1], [0, rows - 1, 0, 1], [columns - 1, rows - 1, 0, 1]]).T
    found = (np.linalg.inv(grid.affine) @ corner @ corners)[:3]
    if slices == 1 and grid.dimension == 2:
        found[2] = 0  # one image alone: how far away a viewer thinks its plane is does not matter
    place = round(float(found[2].mean()))
    wanted = corners[:3].astype(float)
    wanted[2] = place
    return place if 0 <= place < slices and np.abs(found - wanted).max() < _SAME else None


def _resample(
    seg: Dataset,
    indices: Sequence[int],
    frames: NDArray[Any],
    numbers: Mapping[int, str],
    masks: NDArray[Any],
    task: Task,
    grid: Grid,
    path: Path,
) -> None:
    """Frames of another grid, made a volume of their own and brought to the image's; adds to ``masks``, file order."""
    corners = {index: _corner(seg, index) for index in indices}
    first = next(corner for corner in corners.values() if corner is not None)
    normal = first[:3, 2]
    heights = {index: float(normal @ corner[:3, 3]) for index, corner in corners.items() if corner is not None}
    levels = sorted({round(height, 3) for height in heights.values()})
    step = _thickness(seg, indices[0]) or _slice_distance(grid, normal)
    if len(levels) > 1:
        # Writers leave out empty frames: the least distance of two that are there may be that of many slices.
        least = float(min(np.diff(levels)))
        step = least / max(1, round(least / step))
    count = round((levels[-1] - levels[0]) / step) + 1
    names = sorted(set(numbers.values()))
    check_size(path, (count, *frames.shape[1:]), components=len(names))
    lowest, highest = (_place_at(corners, heights, edge) for edge in (min, max))
    affine = first.copy()
    # Frames of a tilted gantry do not lie straight above each other.
    rise = levels[-1] - levels[0]
    affine[:3, 2] = (highest - lowest) * (step / rise) if rise > 0 else normal * step
    affine[:3, 3] = lowest
    volumes = np.zeros((len(names), count, *frames.shape[1:]), dtype=bool)
    for index, height in heights.items():
        for number, mask in _drawn(seg, index, frames[index]):
            if number in numbers:
                volumes[names.index(numbers[number]), round((height - levels[0]) / step)] |= mask
    stored = Stored(volumes[0], volumes.shape[1:], affine)
    moved = resampling.to_grid(volumes, stored, grid, path)
    for name, volume in zip(names, grid.to_file(moved), strict=True):
        masks[task.structures[name] - 1] |= volume.reshape(masks.shape[1:])


def _place_at(
    corners: Mapping[int, NDArray[Any] | None], heights: Mapping[int, float], edge: Callable[..., int]
) -> NDArray[Any]:
    """(3,) RAS mm of the first pixel of the lowest (``min``) or highest (``max``) frame."""
    corner = corners[edge(heights, key=heights.__getitem__)]
    assert corner is not None  # those without a place have no height
    return corner[:3, 3]


def _thickness(seg: Dataset, index: int) -> float | None:
    """Distance of a frame's neighbours in mm, as far as the file tells."""
    measures = _group(seg, index, "PixelMeasuresSequence")
    found = measures.get("SpacingBetweenSlices") or measures.get("SliceThickness") if measures is not None else None
    return abs(float(found)) if found and float(found) else None


def _slice_distance(grid: Grid, normal: NDArray[Any]) -> float:
    """The image's voxels along a direction, in mm: the extent of the axis that points there most."""
    along = np.abs(np.asarray(grid.affine)[:3, :3].T @ normal)
    return float(along.max()) or 1.0
