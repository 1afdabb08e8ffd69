"""An image as the stack of slices that a viewer's user clicks on.

A viewer names a voxel by the file's own i, j, k, and its smart-edit panel changes the slice of one k. So a volume is
cut along the file's k, not along the canonical z: clicks on a sagittal series lie on sagittal slices.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from cachetools import LRUCache, cached
from numpy.typing import NDArray

from samstudent.errors import UserError
from samstudent.imaging.case import CaseImage, Grid, for_sam
from samstudent.task import ImageSection

#: Size of the stacks that are cached between clicks; a CT of 300 slices takes 0.24 GB.
MAX_BYTES = 1 << 29
#: Images cached, however small.
MAX_IMAGES = 16


@dataclass(frozen=True)
class SliceStack:
    """Slices of one image, with the way from the client's indices and back to the canonical grid.

    Attributes:
        pixels: input of SAM, uint8 (K, y, x, 3); K is 1 for a 2D image.
        grid: of the image.
    """

    pixels: NDArray[np.uint8]
    grid: Grid

    @classmethod
    def of(cls, image: CaseImage, section: ImageSection) -> SliceStack:
        """Slices of an image with intensities by the task's ``image`` section (over the complete volume)."""
        pixels = for_sam(image, section)
        if image.grid.dimension == 2:
            return cls(pixels[None], image.grid)
        in_file = image.grid.to_file(np.moveaxis(pixels, -1, 0))
        return cls(np.moveaxis(in_file, 0, -1), image.grid)

    @property
    def count(self) -> int:
        """Number of slices."""
        return int(self.pixels.shape[0])

    @property
    def size(self) -> tuple[int, int]:
        """(y, x) pixels of a slice."""
        return int(self.pixels.shape[1]), int(self.pixels.shape[2])

    def locate(self, ijk: Sequence[float]) -> tuple[int, float, float]:
        """A client's index -> (slice, x, y); not checked against the image's borders.

        Raises:
            UserError: a volume's voxel without k.
        """
        if self.grid.dimension == 2:
            y, x = self.grid.index_from_file(ijk)
            return 0, float(x), float(y)
        if len(ijk) < 3:
            raise UserError(f"point {list(ijk)}: a volume's point has three numbers, i, j and k")
        return round(ijk[2]), float(ijk[0]), float(ijk[1])

    def inside(self, k: int, x: float, y: float) -> bool:
        """Whether this lies on a pixel of the image."""
        height, width = self.size
        return 0 <= k < self.count and -0.5 <= x < width - 0.5 and -0.5 <= y < height - 0.5

    def to_canonical(self, masks: NDArray[Any]) -> NDArray[Any]:
        """Masks on slices, (S, K, y, x) -> (S, *spatial) of the canonical grid."""
        return masks[:, 0] if self.grid.dimension == 2 else self.grid.from_file(masks)


class RecentStacks:
    """The stacks of the images that were last worked on: a user clicks many times on one, several users on several.

    Threads that ask for one image at once read it once; those of other images do not wait for it.

    Args:
        read: makes the stack of the image at a path.
        max_bytes: of all stacks that are cached; one is cached whatever its size.
    """

    def __init__(self, read: Callable[[str], SliceStack], max_bytes: int = MAX_BYTES) -> None:
        def size(stack: SliceStack) -> int:
            return min(max(stack.pixels.nbytes, max_bytes // MAX_IMAGES), max_bytes)

        cache: LRUCache[Any, SliceStack] = LRUCache(max_bytes, size)
        self._read = cached(cache, _file_version, condition=threading.Condition())(read)

    def of(self, path: str) -> SliceStack:
        """The stack of the image at a path, read now or cached from the last time, if the file is still the same."""
        return self._read(path)


def _file_version(path: str) -> Hashable:
    """A path with the time and size of its file."""
    file = Path(path)
    status = file.stat() if file.exists() else None
    return path, status and (status.st_mtime_ns, status.st_size)
