"""An image as the planes a viewer's user clicks on.

A viewer names a voxel by the file's own i, j, k, and its smart-edit panel changes the plane of one k. So a volume is
cut along the file's k, not along the canonical z: clicks on a sagittal series lie on sagittal planes.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from samstudent.errors import UserError
from samstudent.imaging.case import CaseImage, Grid, for_sam
from samstudent.task import ImageSection

#: Of the planes that are kept between clicks; a CT of 300 slices takes 0.24 GB. One image is kept whatever its size.
MOST_BYTES = 1 << 29
#: Images kept, however small.
MOST_IMAGES = 16


@dataclass(frozen=True)
class Planes:
    """Planes of one image, with the way from the client's indices and back to the canonical grid.

    pixels: uint8 (K, y, x, 3) as SAM sees them; K is 1 for a 2D image.
    """

    pixels: NDArray[np.uint8]
    grid: Grid

    @classmethod
    def of(cls, image: CaseImage, section: ImageSection) -> Planes:
        """Cut an image whose intensities are read as the task's ``image`` section says (over the whole volume)."""
        pixels = for_sam(image, section)
        if image.grid.dimension == 2:
            return cls(pixels[None], image.grid)
        in_file = image.grid.to_file(np.moveaxis(pixels, -1, 0))
        return cls(np.moveaxis(in_file, 0, -1), image.grid)

    @property
    def count(self) -> int:
        """Number of planes."""
        return int(self.pixels.shape[0])

    @property
    def size(self) -> tuple[int, int]:
        """(y, x) pixels of a plane."""
        return int(self.pixels.shape[1]), int(self.pixels.shape[2])

    def locate(self, ijk: Sequence[float]) -> tuple[int, float, float]:
        """A client's index -> (plane, x, y); not checked against the image's borders.

        Raises:
            UserError: a volume's voxel without k.
        """
        if self.grid.dimension == 2:
            y, x = self.grid.index_from_file(ijk)
            return 0, float(x), float(y)
        if len(ijk) < 3:
            raise UserError(f"point {list(ijk)}: a volume's point has three numbers, i, j and k")
        return round(ijk[2]), float(ijk[0]), float(ijk[1])

    def inside(self, plane: int, x: float, y: float) -> bool:
        """Whether this lies on a pixel of the image."""
        height, width = self.size
        return 0 <= plane < self.count and -0.5 <= x < width - 0.5 and -0.5 <= y < height - 0.5

    def to_canonical(self, masks: NDArray[Any]) -> NDArray[Any]:
        """Masks drawn on planes, (S, K, y, x) -> (S, *spatial) of the canonical grid."""
        return masks[:, 0] if self.grid.dimension == 2 else self.grid.from_file(masks)


class RecentPlanes:
    """The planes of the images that were last worked on: a user clicks many times on one, several users on several.

    Args:
        read: makes the planes of the image at a path.
    """

    def __init__(self, read: Callable[[str], Planes], most_bytes: int = MOST_BYTES) -> None:
        self._read = read
        self._most_bytes = most_bytes
        self._kept: OrderedDict[object, _Slot] = OrderedDict()
        self._lock = threading.Lock()

    def of(self, path: str) -> Planes:
        """Read now, or kept from the last time, if the file is still the same. Threads that ask for one image at once
        read it once; those of other images do not wait for it."""
        stat = Path(path).stat() if Path(path).exists() else None
        key = (path, stat and (stat.st_mtime_ns, stat.st_size))
        with self._lock:
            slot = self._kept.setdefault(key, _Slot())
            self._kept.move_to_end(key)
        with slot.lock:
            if slot.planes is None:
                try:
                    slot.planes = self._read(path)
                except BaseException:
                    with self._lock:
                        self._kept.pop(key, None)
                    raise
            planes = slot.planes
        self._shrink()
        return planes

    def _shrink(self) -> None:
        with self._lock:
            while len(self._kept) > 1 and (self._bytes() > self._most_bytes or len(self._kept) > MOST_IMAGES):
                self._kept.popitem(last=False)

    def _bytes(self) -> int:
        return sum(slot.planes.pixels.nbytes for slot in self._kept.values() if slot.planes is not None)


class _Slot:
    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.planes: Planes | None = None
