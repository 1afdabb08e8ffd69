"""Masks in COCO's forms: run lengths (RLE) and polygons.

RLE: lengths of runs down the columns, beginning with background, as a list or as COCO's text. Coordinates of polygons
are in pixels, and the corner of the first pixel is (0, 0). pycocotools is the format's own implementation; it is given
only what was checked here, because it does not notice run lengths that are too short for their image.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pycocotools.mask as coco
from numpy.typing import NDArray
from skimage.measure import approximate_polygon, find_contours

#: Largest distance in pixels by which a polygon is simplified. pycocotools still reads the same pixels, with a third of
#: the points; with 0.5 it does not.
_SIMPLIFIED = 0.25


def rle_of(mask: NDArray[np.bool_]) -> dict[str, Any]:
    """COCO's RLE of a mask, bool (y, x): ``size`` (y, x), and ``counts`` as text."""
    encoded = coco.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {"size": [int(side) for side in mask.shape], "counts": encoded["counts"].decode("ascii")}


def polygons_of(mask: NDArray[np.bool_]) -> list[list[float]] | None:
    """Polygons (x, y, x, y, ...) around the parts of a mask, bool (y, x).

    None: ``mask_of`` reads other pixels from them, because the mask has a hole, which COCO's polygons cannot have, or
    parts that touch at a corner.
    """
    parts = []
    for contour in find_contours(np.pad(mask, 1).astype(np.float64), 0.5):
        simple = approximate_polygon(contour, _SIMPLIFIED)[:-1]
        if len(simple) < 3:
            return None
        # From padded pixel centres, (y, x), to pixels from the corner of the image, (x, y).
        parts.append([round(float(value), 2) for value in (simple[:, ::-1] - 0.5).ravel()])
    height, width = mask.shape
    return parts if parts and (mask_of(parts, (height, width)) == mask).all() else None


def mask_of(segmentation: Any, size: tuple[int, int]) -> NDArray[np.bool_]:
    """Mask bool (y, x) of a ``segmentation``: RLE, a polygon, or a list of polygons, whose union it is.

    Args:
        segmentation: JSON values.
        size: (y, x) of the image in pixels.

    Raises:
        ValueError: another form, another size, run lengths that do not fill the image, or a polygon with fewer than
            three points, values that are no numbers, or points far outside of the image.
    """
    if isinstance(segmentation, Mapping):
        return _mask_of_rle(segmentation, size)
    if not isinstance(segmentation, list) or not segmentation:
        raise ValueError(f"segmentation {str(segmentation)[:40]!r}; expected polygons or RLE")
    polygons = segmentation if isinstance(segmentation[0], list) else [segmentation]
    for polygon in polygons:
        _check_polygon(polygon, size)
    encoded = coco.frPyObjects([[float(value) for value in polygon] for polygon in polygons], *size)
    return np.asarray(coco.decode(coco.merge(encoded)), dtype=bool)


def _mask_of_rle(rle: Mapping[str, Any], size: tuple[int, int]) -> NDArray[np.bool_]:
    if rle.get("size") != list(size):
        raise ValueError(f"RLE of size {rle.get('size')} (height, width); expected {list(size)}, the image's")
    counts = rle.get("counts")
    runs = _runs(counts) if isinstance(counts, str) else counts
    if not isinstance(runs, list) or not all(isinstance(run, int) and run >= 0 for run in runs):
        raise ValueError(f"counts {str(counts)[:40]!r}; expected whole numbers or COCO's text")
    height, width = size
    if sum(runs) != height * width:
        raise ValueError(f"counts add up to {sum(runs)} pixels; expected {height * width}")
    foreground = np.arange(len(runs)) % 2 == 1
    return np.repeat(foreground, runs).reshape(width, height).T


def _runs(text: str) -> list[int]:
    """Run lengths of COCO's text: numbers of 5 bits a character, and from the fourth on differences (maskApi.c)."""
    runs: list[int] = []
    number = shift = 0
    for character in text:
        code = ord(character) - 48
        if not 0 <= code < 64 or shift > 60:
            raise ValueError(f"counts {text[:40]!r} are not COCO's text")
        number |= (code & 31) << shift
        shift += 5
        if code & 32:
            continue
        if code & 16:
            number -= 1 << shift
        runs.append(number + (runs[-2] if len(runs) > 2 else 0))
        number = shift = 0
    if shift:
        raise ValueError(f"counts end within a number: {text[-40:]!r}")
    return runs


def _check_polygon(polygon: Any, size: tuple[int, int]) -> None:
    if not isinstance(polygon, Sequence) or len(polygon) < 6 or len(polygon) % 2:
        raise ValueError(f"polygon {str(polygon)[:40]!r}; expected x and y of three points or more")
    for position, value in enumerate(polygon):
        # An image's size beyond the border: tools do not cut polygons, and memory grows with the distance.
        side = size[1 - position % 2]
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            raise ValueError(f"polygon with {str(value)[:40]!r}; expected numbers")
        if not -side <= value <= 2 * side:
            raise ValueError(f"polygon with point {position // 2 + 1} at {value:g}; expected 0 to {side}")
