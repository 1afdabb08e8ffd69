"""An image as the planes a viewer's user clicks on.

A viewer names a voxel by the file's own i, j, k, and its smart-edit panel changes the plane of one k. So a volume is
cut along the file's k, not along the canonical z: clicks on a sagittal series lie on sagittal planes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from samstudent.errors import UserError
from samstudent.images import CaseImage, Grid, for_sam
from samstudent.task import ImageSection


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
