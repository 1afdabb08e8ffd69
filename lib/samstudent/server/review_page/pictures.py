"""What the page draws: slices of a case as PNG, and masks as runs of pixels on the same grid.

Volumes are shown as radiologists hang them: the patient's right on the left; front, or head, at the top.
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
from samstudent.imaging.case import CaseImage, for_sam, for_student
from samstudent.imaging.grid import Grid
from samstudent.task import ImageSection

#: Of canonical arrays (z, y, x).
AXES = {"z": 0, "y": 1, "x": 2}
#: What lies at the left, right, top and bottom of a slice across each axis.
SIDES = {"z": "RLAP", "y": "RLSI", "x": "APSI"}
#: Longest side of a picture, in pixels.
SMALLEST, LARGEST = 32, 4096


@dataclass(frozen=True)
class Shown:
    """A case as it is looked at. pixels: uint8 (*spatial) or (*spatial, 3); grid: where they lie in the file."""

    pixels: NDArray[Any]
    grid: Grid

    @classmethod
    def of(cls, image: CaseImage, section: ImageSection) -> Shown:
        """By the bounds that student and SAM see it with."""
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
        """In mm, in the order of ``shape``."""
        return self.grid.spacing

    @property
    def nbytes(self) -> int:
        return self.pixels.nbytes


@dataclass(frozen=True)
class Slice:
    """Which plane of a case, and how large. axis and index: None for a 2D case; size: longest side in pixels."""

    axis: str | None
    index: int | None
    size: int

    @classmethod
    def checked(cls, shape: tuple[int, ...], axis: str | None, index: int | None, size: int) -> Slice:
        """Raises UserError where there is no such plane of a case of this shape."""
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
        """The plane of an array (*spatial) or (*spatial, 3), as it is hung."""
        if self.axis is None:
            return array
        # Canonical axes rise to the right, the front and the head: each runs against the picture.
        return np.take(array, self.index or 0, axis=AXES[self.axis])[::-1, ::-1]

    def extent(self, shape: tuple[int, ...], spacing: tuple[float, ...]) -> tuple[int, int]:
        """Height and width of the picture: its pixels are square, and no finer than the plane's finest side."""
        kept = [i for i in range(len(shape)) if self.axis is None or i != AXES[self.axis]]
        finest = min(spacing[i] for i in kept)
        height, width = (shape[i] * spacing[i] / finest for i in kept)
        scale = min(1.0, self.size / max(height, width))
        return max(1, round(height * scale)), max(1, round(width * scale))


def picture(shown: Shown, where: Slice) -> bytes:
    """One plane as PNG."""
    height, width = where.extent(shown.shape, shown.spacing)
    image = Image.fromarray(np.ascontiguousarray(where.of(shown.pixels)))
    if image.size != (width, height):
        image = image.resize((width, height), Image.Resampling.BILINEAR, reducing_gap=2.0)
    stream = io.BytesIO()
    # Little compression: the page waits for the picture, and the network here is a hospital's.
    image.save(stream, "PNG", compress_level=1)
    return stream.getvalue()


@dataclass(frozen=True)
class Cropped:
    """A mask without what is empty around it: 32 structures of a volume would not fit into memory."""

    #: First index along each axis.
    start: tuple[int, ...]
    content: NDArray[np.bool_]

    @classmethod
    def of(cls, mask: NDArray[Any]) -> Cropped | None:
        """None for an empty mask (*spatial)."""
        box = []
        for axis in range(mask.ndim):
            there = np.flatnonzero(mask.any(axis=tuple(i for i in range(mask.ndim) if i != axis)))
            if not there.size:
                return None
            box.append(slice(int(there[0]), int(there[-1]) + 1))
        return cls(tuple(s.start for s in box), np.ascontiguousarray(mask[tuple(box)], dtype=bool))

    @property
    def nbytes(self) -> int:
        return self.content.nbytes

    def fullest(self) -> dict[str, int]:
        """Of a volume: for each axis the index of the slice that shows most of it, the middle one of several."""
        found = {}
        for name, axis in AXES.items():
            areas = self.content.sum(axis=tuple(i for i in range(3) if i != axis))
            fullest = np.flatnonzero(areas == areas.max())
            found[name] = self.start[axis] + int(fullest[len(fullest) // 2])
        return found

    def plane(self, where: Slice, shape: tuple[int, ...]) -> NDArray[np.bool_]:
        """Its part of a plane, bool, of the plane's own size."""
        if where.axis is None:
            full = np.zeros(shape, dtype=bool)
            full[tuple(slice(s, s + n) for s, n in zip(self.start, self.content.shape, strict=True))] = self.content
            return full
        axis = AXES[where.axis]
        kept = [i for i in range(3) if i != axis]
        full = np.zeros([shape[i] for i in kept], dtype=bool)
        at = (where.index or 0) - self.start[axis]
        if 0 <= at < self.content.shape[axis]:
            box = tuple(slice(self.start[i], self.start[i] + self.content.shape[i]) for i in kept)
            full[box] = np.take(self.content, at, axis=axis)
        return full[::-1, ::-1]


def runs(mask: Cropped, where: Slice, shape: tuple[int, ...], spacing: tuple[float, ...]) -> list[int]:
    """A mask on a picture's pixels, row by row: lengths of runs, in turn without and with the structure.

    Returns:
        Empty where the plane does not show it.
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
    """What was read last, up to so many bytes; several threads that ask for the same wait for one to read it."""

    def __init__(self, most_bytes: int) -> None:
        self.most_bytes = most_bytes
        self._content: OrderedDict[object, tuple[Any, int]] = OrderedDict()
        self._reading: dict[object, threading.Lock] = {}
        self._lock = threading.Lock()

    def get(self, key: object, read: Callable[[], tuple[Any, int]]) -> Any:
        """The value of ``key``; ``read`` gives it and its size in bytes where it is not here."""
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
