"""Slices of a case as PNG, and masks as run lengths on the same pixels.

Volumes are displayed in radiological convention: the patient's right on the left; anterior, or head, at the top.
"""

from __future__ import annotations

import io
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from samstudent.errors import UserError
from samstudent.imaging.case import CaseImage, displayed, for_sam, for_student
from samstudent.imaging.grid import Grid
from samstudent.task import ImageSection

#: Axes of canonical arrays (z, y, x).
AXES = {"z": 0, "y": 1, "x": 2}
#: Directions at left, right, top and bottom of a slice perpendicular to each axis.
SIDES = {"z": "RLAP", "y": "RLSI", "x": "APSI"}
#: Limits of the longest side of a picture, pixels.
SMALLEST, LARGEST = 32, 4096


@dataclass(frozen=True)
class Shown:
    """Displayed image of a case.

    Attributes:
        pixels: uint8 (*spatial) or (*spatial, 3).
        grid: grid of the image.
    """

    pixels: NDArray[Any]
    grid: Grid

    @classmethod
    def of(cls, image: CaseImage, section: ImageSection) -> Shown:
        """Image with the intensity range of student and SAM."""
        image = displayed(image, section)
        if len(image.pixels) == 3:
            return cls(for_sam(image, section), image.grid)
        grey = for_student(image, section.model_copy(update={"channels": 1}))[0]
        return cls((grey * 255 + 0.5).astype(np.uint8), image.grid)

    @property
    def shape(self) -> tuple[int, ...]:
        """(y, x) or (z, y, x)."""
        return self.grid.spatial_shape

    @property
    def spacing(self) -> tuple[float, ...]:
        """Spacing in mm, in the order of ``shape``."""
        return self.grid.spacing

    @property
    def nbytes(self) -> int:
        return self.pixels.nbytes


@dataclass(frozen=True)
class Slice:
    """Plane of a case and size of its picture.

    Attributes:
        axis, index: plane of a volume; None for a 2D case.
        size: longest side of the picture, pixels.
    """

    axis: str | None
    index: int | None
    size: int

    @classmethod
    def checked(cls, shape: tuple[int, ...], axis: str | None, index: int | None, size: int) -> Slice:
        """Validated slice of a case of this shape; raises UserError."""
        if not SMALLEST <= size <= LARGEST:
            raise UserError(f"size must be from {SMALLEST} to {LARGEST} pixels, not {size}")
        if len(shape) == 2:
            if axis is not None or index is not None:
                raise UserError("axis and index are for volumes; this case is a single image")
            return cls(None, None, size)
        axis = axis or "z"
        if axis not in AXES:
            raise UserError(f"axis must be one of z, y, x, not {axis!r}")
        depth = shape[AXES[axis]]
        if index is None or not 0 <= index < depth:
            raise UserError(f"index must be from 0 to {depth - 1} along {axis}, not {index}")
        return cls(axis, index, size)

    def of(self, array: NDArray[Any]) -> NDArray[Any]:
        """Plane of an array (*spatial) or (*spatial, 3), in display orientation."""
        if self.axis is None:
            return array
        # Canonical axes increase to the patient's right, front and head, opposite to the picture.
        return np.take(array, self.index or 0, axis=AXES[self.axis])[::-1, ::-1]

    def extent(self, shape: tuple[int, ...], spacing: tuple[float, ...]) -> tuple[int, int]:
        """Height and width of the picture, with square pixels not smaller than the smallest spacing of the plane."""
        in_plane = [i for i in range(len(shape)) if self.axis is None or i != AXES[self.axis]]
        finest = min(spacing[i] for i in in_plane)
        height, width = (shape[i] * spacing[i] / finest for i in in_plane)
        scale = min(1.0, self.size / max(height, width))
        return max(1, round(height * scale)), max(1, round(width * scale))


def picture(shown: Shown, where: Slice) -> bytes:
    """Slice as PNG."""
    height, width = where.extent(shown.shape, shown.spacing)
    image = Image.fromarray(np.ascontiguousarray(where.of(shown.pixels)))
    if image.size != (width, height):
        image = image.resize((width, height), Image.Resampling.BILINEAR, reducing_gap=2.0)
    stream = io.BytesIO()
    # Low compression, because latency matters more than size on a local network.
    image.save(stream, "PNG", compress_level=1)
    return stream.getvalue()


@dataclass(frozen=True)
class Cropped:
    """Mask cropped to its bounding box, to save memory.

    Attributes:
        start: first index of the box along each axis.
        content: mask inside of the box.
    """

    start: tuple[int, ...]
    content: NDArray[np.bool_]

    @classmethod
    def of(cls, mask: NDArray[Any]) -> Cropped | None:
        """Cropped mask of a mask (*spatial); None for an empty mask."""
        box = []
        for axis in range(mask.ndim):
            occupied = np.flatnonzero(mask.any(axis=tuple(i for i in range(mask.ndim) if i != axis)))
            if not occupied.size:
                return None
            box.append(slice(int(occupied[0]), int(occupied[-1]) + 1))
        return cls(tuple(s.start for s in box), np.ascontiguousarray(mask[tuple(box)], dtype=bool))

    @property
    def nbytes(self) -> int:
        return self.content.nbytes

    def fullest(self) -> dict[str, int]:
        """Index of the slice with the largest area along each axis of a volume; the middle one of several."""
        found = {}
        for name, axis in AXES.items():
            areas = self.content.sum(axis=tuple(i for i in range(3) if i != axis))
            fullest = np.flatnonzero(areas == areas.max())
            found[name] = self.start[axis] + int(fullest[len(fullest) // 2])
        return found

    def plane(self, where: Slice, shape: tuple[int, ...]) -> NDArray[np.bool_]:
        """Mask of a plane, bool, of the size of the plane."""
        if where.axis is None:
            full = np.zeros(shape, dtype=bool)
            full[tuple(slice(s, s + n) for s, n in zip(self.start, self.content.shape, strict=True))] = self.content
            return full
        axis = AXES[where.axis]
        in_plane = [i for i in range(3) if i != axis]
        full = np.zeros([shape[i] for i in in_plane], dtype=bool)
        at = (where.index or 0) - self.start[axis]
        if 0 <= at < self.content.shape[axis]:
            box = tuple(slice(self.start[i], self.start[i] + self.content.shape[i]) for i in in_plane)
            full[box] = np.take(self.content, at, axis=axis)
        return full[::-1, ::-1]


def runs(mask: Cropped, where: Slice, shape: tuple[int, ...], spacing: tuple[float, ...]) -> list[int]:
    """Run lengths of a mask on the pixels of a picture, row by row, alternately outside and inside of the structure.

    Returns:
        Run lengths; empty if the structure is not in the plane.
    """
    plane = mask.plane(where, shape)
    if not plane.any():
        return []
    height, width = where.extent(shape, spacing)
    rows = (np.arange(height) + 0.5) * plane.shape[0] / height
    columns = (np.arange(width) + 0.5) * plane.shape[1] / width
    sampled = plane[np.ix_(rows.astype(int), columns.astype(int))].ravel()
    changes = np.flatnonzero(sampled[1:] != sampled[:-1]) + 1
    lengths = np.diff(np.concatenate([[0], changes, [sampled.size]])).tolist()
    if len(lengths) == 1 and not sampled[0]:
        return []
    return [0, *lengths] if sampled[0] else lengths


class Cache:
    """LRU cache with a limit in bytes; concurrent requests for one key read it once."""

    def __init__(self, most_bytes: int) -> None:
        self.most_bytes = most_bytes
        self._content: OrderedDict[object, tuple[Any, int]] = OrderedDict()
        self._reading: dict[object, threading.Lock] = {}
        self._lock = threading.Lock()

    def get(self, key: object, read: Callable[[], tuple[Any, int]]) -> Any:
        """Value of a key.

        Args:
            key: key of the value.
            read: returns the value and its size in bytes if it is not in the cache.
        """
        with self._lock:
            if key in self._content:
                self._content.move_to_end(key)
                return self._content[key][0]
            reading = self._reading.setdefault(key, threading.Lock())
        with reading:
            with self._lock:
                if key in self._content:
                    return self._content[key][0]
            try:
                value, size = read()
            finally:
                with self._lock:
                    self._reading.pop(key, None)
            with self._lock:
                self._content[key] = (value, size)
                while len(self._content) > 1 and sum(size for _, size in self._content.values()) > self.most_bytes:
                    self._content.popitem(last=False)
        return value
