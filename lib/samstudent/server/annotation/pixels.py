"""Pixels of a case for the browser, in the file's own range, so that window and level lose nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from samstudent.imaging.case import CaseImage, displayed, for_sam, intensity_bounds, luminance
from samstudent.imaging.grid import Grid
from samstudent.server.review_page.pictures import AXES
from samstudent.task import ImageSection


@dataclass(frozen=True)
class RawPixels:
    """Pixels of a case as whole numbers.

    Attributes:
        values: uint8 or little-endian uint16 (*spatial), or uint8 (*spatial, 3) of a colour image in the range of the
            task; canonical.
        offset, scale: value in the file = offset + scale * value here.
        window: (low, high) of the task's range, in values here.
        grid: grid of the image.
    """

    values: NDArray[Any]
    offset: float
    scale: float
    window: tuple[float, float]
    grid: Grid

    @classmethod
    def of(cls, image: CaseImage, section: ImageSection) -> RawPixels:
        """Pixels of an image; whole numbers of a range below 65536 are kept as they are."""
        image = displayed(image, section)
        if len(image.pixels) == 3:
            return cls(for_sam(image, section), 0.0, 1.0, (0.0, 255.0), image.grid)
        grey = luminance(image.pixels)
        low, high = float(grey.min()), float(grey.max())
        is_whole = high - low < 65536 and bool((grey == np.rint(grey)).all())
        scale = 1.0 if is_whole else max(high - low, 1e-30) / 65535
        kind = np.uint8 if is_whole and high - low < 256 else np.dtype("<u2")
        values = np.rint((grey[0].astype(np.float64) - low) / scale).astype(kind)
        bounds = intensity_bounds(grey, image, section)
        window = (bounds[0] - low) / scale, (bounds[1] - low) / scale
        return cls(values, low, scale, window, image.grid)

    @property
    def nbytes(self) -> int:
        return self.values.nbytes

    def plane(self, axis: str | None, index: int | None) -> bytes:
        """Bytes of the image, or of the plane perpendicular to an axis; x or y fastest, canonical."""
        values = self.values if axis is None else np.take(self.values, index or 0, axis=AXES[axis])
        return np.ascontiguousarray(values).tobytes()

    def as_json(self) -> dict[str, Any]:
        """Format of ``plane``."""
        return {
            "bytes": self.values.dtype.itemsize,
            "colour": self.values.ndim > len(self.grid.spatial_shape),
            "offset": self.offset,
            "scale": self.scale,
            "window": list(self.window),
        }
