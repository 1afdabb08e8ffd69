"""Frames of a DICOM segmentation (SEG) as masks on an image's grid.

``dicom_seg`` identifies the structure of each segment; ``dicom_seg_write`` writes segmentations.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from samstudent.errors import UserError
from samstudent.imaging import resampling
from samstudent.imaging.dicom_header import transfer_syntax
from samstudent.imaging.dicom_seg import LABEL_MAP, segments_of, structures_of
from samstudent.imaging.dicom_size_checks import check_dicom
from samstudent.imaging.formats import Stored, decoding
from samstudent.imaging.grid import LPS_TO_RAS, Grid
from samstudent.imaging.size_checks import check_size
from samstudent.imaging.structure_names import IGNORE
from samstudent.task import Task

#: Largest distance of a frame's corners from the image's, in pixels, for a frame on the image's grid: headers round.
_GRID_TOLERANCE = 0.25
#: A hundred structures on each slice of a long CT need as many frames; each costs time, however few pixels it has.
_MAX_FRAMES = 1 << 16


def read_seg(path: Path, task: Task, grid: Grid, marked: str = "") -> NDArray[Any]:
    """Masks of the task's structures in a SEG, on the image's grid. A structure without a frame is empty.

    Frames with a position in space are placed by it, and resampled to the nearest pixel if they are on another grid.
    Frames without one (radiographs) must have the image's size.

    Args:
        path: the SEG, BINARY, FRACTIONAL (threshold one half) or LABELMAP.
        task: the structures, see ``structures_of``.
        grid: grid of the image.
        marked: prefix of the labels of the segments to read, as in ``structures_of``; there need not be any.

    Returns:
        bool (S, *spatial), canonical.

    Raises:
        UserError: cannot be read; too large; none of the task's structures; another size; another place.
    """
    with decoding(path, "a DICOM segmentation"):
        check_dicom(path)  # pydicom decompresses a deflated file completely
        seg = pydicom.dcmread(path, force=True)
        structures = structures_of(seg, task, marked)
        if not structures and (marked or structures_of(seg, task, IGNORE)):
            return np.zeros((len(task.names), *grid.spatial_shape), dtype=bool)
        if not structures:
            labels = [segment.label for segment in segments_of(seg)]
            raise UserError(f"{path}: none of its segments {labels} is in the task, which has {task.names}")
        _check_frame_count(seg, path)
        frames = _Frames(seg, structures)
        masks = np.zeros((len(task.names), *_with_slices(grid)), dtype=bool)
        on_other_grid: list[int] = []
        for index, pixels in enumerate(frames.pixels):
            place = _slice_of(frames.affine(index), pixels.shape, grid, path)
            if place is None:
                on_other_grid.append(index)
                continue
            for structure, mask in frames.masks(index):
                masks[task.structures[structure] - 1, place] |= mask
        if on_other_grid:
            for structure, volume in _resample(frames, on_other_grid, grid, path).items():
                masks[task.structures[structure] - 1] |= volume.reshape(masks.shape[1:])
    return grid.from_file(masks.reshape(len(masks), *grid.shape))


@dataclass(frozen=True, eq=False)
class _Frames:
    """Frames of a SEG.

    Attributes:
        seg: the whole dataset.
        structures: segment number -> structure; other segments are left out.
    """

    seg: Dataset
    structures: Mapping[int, str]

    @cached_property
    def pixels(self) -> NDArray[Any]:
        """(frames, rows, columns): bool, or the segment numbers of a label map."""
        seg = self.seg
        if syntax := transfer_syntax(seg):
            seg.file_meta.TransferSyntaxUID = syntax
        pixels = seg.pixel_array
        frames = pixels[None] if pixels.ndim == 2 else pixels
        if seg.SOPClassUID == LABEL_MAP or str(seg.SegmentationType) == "LABELMAP":
            return np.asarray(frames)
        highest = int(seg.get("MaximumFractionalValue", 1)) if str(seg.SegmentationType) == "FRACTIONAL" else 1
        return np.asarray(frames >= max(1, (highest + 1) // 2))

    def masks(self, index: int) -> list[tuple[str, NDArray[Any]]]:
        """(structure, bool (rows, columns)) for each structure of a frame."""
        frame = self.pixels[index]
        if frame.dtype != bool:
            numbered = [(int(value), frame == value) for value in np.unique(frame) if value]
        else:
            group = self._group(index, "SegmentIdentificationSequence")
            numbered = [(int(group.ReferencedSegmentNumber), frame)] if group is not None else []
        return [(self.structures[number], mask) for number, mask in numbered if number in self.structures]

    def affine(self, index: int) -> NDArray[Any] | None:
        """(4, 4): a frame's index (column, row, 0) -> RAS mm, its third column the normal; None: no position."""
        position = self._group(index, "PlanePositionSequence")
        orientation = self._group(index, "PlaneOrientationSequence")
        measures = self._group(index, "PixelMeasuresSequence")
        if position is None or orientation is None or measures is None:
            return None
        axes = np.array(orientation.ImageOrientationPatient, dtype=float).reshape(2, 3)
        between_rows, between_columns = (float(v) for v in measures.PixelSpacing)
        affine = np.eye(4)
        affine[:3, 0], affine[:3, 1] = axes[0] * between_columns, axes[1] * between_rows
        affine[:3, 2] = np.cross(axes[0], axes[1])
        affine[:3, 3] = np.array(position.ImagePositionPatient, dtype=float)
        return np.asarray(LPS_TO_RAS @ affine)

    def slice_distance(self, index: int) -> float | None:
        """Distance of a frame's neighbours in mm; None: not in the file."""
        measures = self._group(index, "PixelMeasuresSequence")
        found = measures.get("SpacingBetweenSlices") or measures.get("SliceThickness") if measures is not None else None
        return abs(float(found)) if found and float(found) else None

    def _group(self, index: int, keyword: str) -> Dataset | None:
        """Functional group of a frame: its own, else the one shared by all frames."""
        own = self.seg.get("PerFrameFunctionalGroupsSequence") or []
        shared = list(self.seg.get("SharedFunctionalGroupsSequence") or [])
        for item in ([own[index]] if index < len(own) else []) + shared:
            if item.get(keyword):
                found: Dataset = item[keyword][0]
                return found
        return None


def _check_frame_count(seg: Dataset, path: Path) -> None:
    """Refuse too many frames, and a number of functional groups other than that of the frames."""
    count, groups = int(seg.get("NumberOfFrames", 1)), len(seg.get("PerFrameFunctionalGroupsSequence") or [])
    check_size(path, (int(seg.Rows), int(seg.Columns), count))
    if count > _MAX_FRAMES:
        raise UserError(f"{path}: {count} frames; expected at most {_MAX_FRAMES}")
    if count > 1 and groups != count:
        raise UserError(f"{path}: {count} frames, but PerFrameFunctionalGroupsSequence has {groups} items")


def _with_slices(grid: Grid) -> tuple[int, ...]:
    """(slices, rows, columns) of the file's grid."""
    return (1, *grid.shape) if len(grid.shape) == 2 else grid.shape


def _slice_of(affine: NDArray[Any] | None, size: tuple[int, ...], grid: Grid, path: Path) -> int | None:
    """Index of the image's slice that a frame is drawn on; None: the frame is on another grid.

    Args:
        affine: that of the frame, see ``_Frames.affine``.
        size: (rows, columns) of the frame.
        grid: grid of the image.
        path: the SEG, for errors.
    """
    slices, rows, columns = _with_slices(grid)
    if affine is None:
        if slices > 1:
            raise UserError(f"{path}: its frames have no position in space, but the image is a volume")
        if size != (rows, columns):
            raise UserError(f"{path}: drawn on {size[0]} x {size[1]} pixels, but the image has {rows} x {columns}")
        return 0
    if size != (rows, columns):
        return None
    corners = np.array([[0, 0, 0, 1], [columns - 1, 0, 0, 1], [0, rows - 1, 0, 1], [columns - 1, rows - 1, 0, 1]]).T
    found = (np.linalg.inv(grid.affine) @ affine @ corners)[:3]
    if slices == 1 and grid.dimension == 2:
        found[2] = 0  # a single image: the distance of a viewer's plane from it has no meaning
    place = round(float(found[2].mean()))
    expected = corners[:3].astype(float)
    expected[2] = place
    return place if 0 <= place < slices and np.abs(found - expected).max() < _GRID_TOLERANCE else None


def _resample(frames: _Frames, indices: Sequence[int], grid: Grid, path: Path) -> dict[str, NDArray[Any]]:
    """Structure -> mask in file order, from frames of another grid, joined to a volume and resampled to the image's."""
    found = {index: frames.affine(index) for index in indices}
    affines = {index: affine for index, affine in found.items() if affine is not None}
    first = next(iter(affines.values()))
    normal = first[:3, 2]
    heights = {index: float(normal @ affine[:3, 3]) for index, affine in affines.items()}
    levels = sorted({round(height, 3) for height in heights.values()})
    step = frames.slice_distance(indices[0]) or _slice_distance(grid, normal)
    if len(levels) > 1:
        # Writers leave out empty frames: the least distance between two frames may be several slices.
        least = float(min(np.diff(levels)))
        step = least / max(1, round(least / step))
    count = round((levels[-1] - levels[0]) / step) + 1
    names = sorted(set(frames.structures.values()))
    size = frames.pixels.shape[1:]
    check_size(path, (count, *size), components=len(names))
    lowest, highest = (affines[edge(heights, key=heights.__getitem__)][:3, 3] for edge in (min, max))
    affine = first.copy()
    # With a tilted gantry the step from frame to frame is not along the normal.
    rise = levels[-1] - levels[0]
    affine[:3, 2] = (highest - lowest) * (step / rise) if rise > 0 else normal * step
    affine[:3, 3] = lowest
    volumes = np.zeros((len(names), count, *size), dtype=bool)
    for index, height in heights.items():
        for structure, mask in frames.masks(index):
            volumes[names.index(structure), round((height - levels[0]) / step)] |= mask
    stored = Stored(volumes[0], volumes.shape[1:], affine)
    moved = grid.to_file(resampling.to_grid(volumes, stored, grid, path))
    return dict(zip(names, moved, strict=True))


def _slice_distance(grid: Grid, normal: NDArray[Any]) -> float:
    """Size of the image's voxels along a direction, in mm: the extent of the axis nearest to it."""
    along = np.abs(np.asarray(grid.affine)[:3, :3].T @ normal)
    return float(along.max()) or 1.0
