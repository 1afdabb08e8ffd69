"""Shapes of CVAT's XML as pixels: polygons and run-length masks.

The form is described in CVAT's documentation of "CVAT for images 1.1" (docs.cvat.ai, "XML annotation format"); the
run-length code in cvat-ai/cvat#5828 and #6487. Coordinates are in pixels, and the corner of the first pixel is (0, 0),
so that the centre of the pixel in row y and column x is (x + 0.5, y + 0.5).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from skimage.draw import polygon as pixels_of_polygon

#: Largest distance of a point from the image, in pixels: CVAT rounds coordinates and the size of the image.
OUTSIDE = 1.0


@dataclass(frozen=True, eq=False)
class Polygon:
    """Polygon, closed from its last to its first point; with crossing edges the even-odd rule decides.

    Attributes:
        points: float64 (n, 2), (x, y) in pixels.
    """

    points: NDArray[np.float64]

    def draw(self, mask: NDArray[np.bool_]) -> None:
        """Set the pixels of a mask, bool (y, x), whose centres are in the polygon or on its border."""
        x, y = self.points.T - 0.5
        mask[pixels_of_polygon(y, x, mask.shape)] = True


@dataclass(frozen=True)
class RunLengthMask:
    """Mask within a box, as lengths of runs along its rows, which alternate and begin with background.

    Attributes:
        left, top: column and row of the box's first pixel.
        width, height: size of the box in pixels.
        runs: lengths in pixels; they fill the box.
    """

    left: int
    top: int
    width: int
    height: int
    runs: tuple[int, ...]

    def draw(self, mask: NDArray[np.bool_]) -> None:
        """Set the pixels of a mask, bool (y, x)."""
        foreground = np.arange(len(self.runs)) % 2 == 1
        pixels = np.repeat(foreground, self.runs).reshape(self.height, self.width)
        mask[self.top : self.top + self.height, self.left : self.left + self.width] |= pixels


Shape = Polygon | RunLengthMask


def polygon_of(attributes: Mapping[str, str], size: tuple[int, int]) -> Polygon:
    """Polygon from the attribute ``points`` of a ``polygon`` element.

    Args:
        attributes: attributes of the element.
        size: (y, x) of the image in pixels.

    Raises:
        ValueError: fewer than three points, a point that is no pair of numbers, or one outside of the image.
    """
    points = [_point(text) for text in _required(attributes, "points").split(";")]
    if len(points) < 3:
        raise ValueError(f"has {len(points)} points; a polygon has at least 3")
    height, width = size
    for number, (x, y) in enumerate(points, 1):
        if not (-OUTSIDE <= x <= width + OUTSIDE and -OUTSIDE <= y <= height + OUTSIDE):
            raise ValueError(
                f"point {number}, x {x:g}, y {y:g}, is outside of the image; expected 0 to {width} and 0 to {height}"
            )
    return Polygon(np.array(points, dtype=np.float64))


def mask_of(attributes: Mapping[str, str], size: tuple[int, int]) -> RunLengthMask:
    """Run-length mask from the attributes ``rle``, ``left``, ``top``, ``width`` and ``height`` of a ``mask`` element.

    Args:
        attributes: attributes of the element.
        size: (y, x) of the image in pixels.

    Raises:
        ValueError: an attribute is missing or no whole number, the box is outside of the image, or the runs do not fill
            the box.
    """
    left, top, width, height = (whole_number(attributes, key) for key in ("left", "top", "width", "height"))
    if width < 1 or height < 1 or left + width > size[1] or top + height > size[0]:
        raise ValueError(
            f"its box, left {left}, top {top}, {width} x {height} pixels, is not within the image of "
            f"{size[1]} x {size[0]} pixels (width x height)"
        )
    runs = tuple(_natural(text, "rle") for text in _required(attributes, "rle").split(","))
    if sum(runs) != width * height:
        raise ValueError(
            f"the runs of rle add up to {sum(runs)} pixels; expected {width * height}, as its box has "
            f"{width} x {height} pixels"
        )
    return RunLengthMask(left, top, width, height, runs)


#: Function of each supported element: attributes and (y, x) of the image -> shape.
SHAPES: dict[str, Callable[[Mapping[str, str], tuple[int, int]], Shape]] = {"polygon": polygon_of, "mask": mask_of}


def whole_number(attributes: Mapping[str, str], key: str) -> int:
    """Attribute as a whole number of at least 0. Raises ValueError naming the attribute."""
    return _natural(_required(attributes, key), key)


def _required(attributes: Mapping[str, str], key: str) -> str:
    if not (text := attributes.get(key, "").strip()):
        raise ValueError(f"has no attribute {key!r}, which CVAT always writes")
    return text


def _natural(text: str, key: str) -> int:
    text = text.strip()
    # At most nine digits: the sum of runs, and the size of a box, are compared with the image before memory is taken.
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise ValueError(f"{key}: {text[:40]!r} is not a whole number of 0 to 999999999")
    return int(text)


def _point(text: str) -> tuple[float, float]:
    try:
        x, y = map(float, text.split(","))
    except ValueError:
        x = y = math.nan
    if not (math.isfinite(x) and math.isfinite(y)):
        raise ValueError(f"points: {text[:40]!r} is not a point; expected numbers x,y, with ; between points")
    return x, y
