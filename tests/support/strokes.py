"""Strokes of a brush that draw and mend a mask, planned from the true mask."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt, label
from skimage.measure import approximate_polygon, find_contours
from skimage.morphology import skeletonize

Mask = NDArray[np.bool_]

#: Diameters of the page's brush in pixels, ``SIZES`` of annotate/tools.js.
SIZES = (1, 2, 3, 5, 8, 12, 18, 26, 38, 55, 80, 120, 180)
#: Radius of the brush for an outline, as a share of the structure's largest inner radius.
OUTLINE = 0.3
#: Part of an error that a brush must be able to reach without leaving the region where it is right.
REACHED = 0.8
#: Largest diameter of the brush, as a multiple of the width of an error.
WIDTH = 4.0


@dataclass(frozen=True)
class Stroke:
    """Stroke of the brush or the eraser.

    Attributes:
        erases: whether it removes pixels.
        diameter: one of ``SIZES``.
        points: float (n, 2), x, y in pixels, n >= 1.
    """

    erases: bool
    diameter: int
    points: NDArray[np.float64]


def outline(truth: Mask, tolerance: float) -> Stroke:
    """Stroke along the border of a mask, inside of it; with filled holes it is the mask.

    Args:
        truth: bool (y, x), not empty; of several parts the largest is outlined.
        tolerance: largest distance in pixels of the stroke's straight segments from the border's own line.
    """
    part = _largest(truth)
    depth = _depth(part)
    diameter = max(size for size in SIZES if size <= max(1.0, 2 * OUTLINE * depth.max()))
    inner = np.pad(depth, 1)
    level = min(diameter / 2, float(inner.max()) - 0.5)
    line = max(find_contours(inner, level), key=len)[:, ::-1] - 1
    return Stroke(False, diameter, approximate_polygon(line, tolerance))


def mending(truth: Mask, mask: Mask, tolerance: float) -> Stroke | None:
    """Stroke over the largest error of a mask, inside of the region where it is right; None: there is no error.

    Args:
        truth: bool (y, x).
        mask: bool (y, x), the mask to mend.
        tolerance: as for ``outline``.
    """
    missing, extra = _largest(truth & ~mask), _largest(mask & ~truth)
    erases = extra.sum() > missing.sum()
    error, allowed = (extra, ~truth) if erases else (missing, truth)
    if not error.any():
        return None
    depth, thick = _depth(allowed), WIDTH * 2 * _depth(error).max()
    for diameter in reversed([size for size in SIZES if size <= max(1.0, thick)]):
        centres = depth >= diameter / 2
        near = centres & _within(error, diameter / 2)
        if (_within(near, diameter / 2) & error).sum() >= REACHED * error.sum():
            break
    path = _longest_path(skeletonize(_largest(near if near.any() else error)))
    return Stroke(bool(erases), diameter, approximate_polygon(path, tolerance))


def _depth(mask: Mask) -> NDArray[np.float64]:
    """Distance of each pixel of a mask (y, x) to its border, in pixels; the image's edge is a border."""
    inside = np.pad(mask, 1)
    return np.asarray(distance_transform_edt(inside)[1:-1, 1:-1]) - 0.5 * mask


def _within(mask: Mask, distance: float) -> Mask:
    """Pixels not farther from a mask than a distance."""
    if not mask.any():
        return mask
    return np.asarray(distance_transform_edt(~mask) <= distance)


def _largest(mask: Mask) -> Mask:
    """Largest connected part of a mask (y, x)."""
    parts, count = label(mask, np.ones((3, 3)))
    if count < 2:
        return mask
    return np.asarray(parts == 1 + np.bincount(parts.ravel())[1:].argmax())


def _longest_path(skeleton: Mask) -> NDArray[np.float64]:
    """Points x, y, float (n, 2), of a long path through a skeleton (y, x): between two ends far from each other."""
    pixels = {(int(y), int(x)) for y, x in np.argwhere(skeleton)}

    def farthest(start: tuple[int, int]) -> list[tuple[int, int]]:
        before: dict[tuple[int, int], tuple[int, int] | None] = {start: None}
        waiting, last = deque([start]), start
        while waiting:
            last = waiting.popleft()
            for step in ((0, 1), (0, -1), (1, 0), (-1, 0), (1, 1), (1, -1), (-1, 1), (-1, -1)):
                to = last[0] + step[0], last[1] + step[1]
                if to in pixels and to not in before:
                    before[to] = last
                    waiting.append(to)
        path, at = [last], before[last]
        while at is not None:
            path.append(at)
            at = before[at]
        return path

    end = farthest(min(pixels))[0]
    return np.array([(x, y) for y, x in farthest(end)], dtype=np.float64)
