"""Coarse masks from a student's probabilities, and SAM's prompts from coarse masks.

Pure functions on arrays. Masks are bool ``(y, x)`` (``(z, y, x)`` where noted); points and boxes are ``x, y`` in
pixels, pixel centres at integers, boxes inclusive.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from samstudent.errors import UserError
from samstudent.task import Recipe

Mask = NDArray[np.bool_]
Point = tuple[float, float]
Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Prompt:
    """Prompts of one structure in one call of SAM's decoder.

    Attributes:
        box: x0, y0, x1, y1, inclusive pixels.
        positive: points (x, y) on the structure.
        negative: points (x, y) outside of it.
        mask_input: float32 (L, L) low-resolution logits in the model's own frame: a ``DecodedMask.low_res``, or the
            result of ``embedding.mask_input``.
    """

    box: Box | None = None
    positive: tuple[Point, ...] = ()
    negative: tuple[Point, ...] = ()
    mask_input: NDArray[np.float32] | None = None

    def as_json(self) -> dict[str, Any]:
        """Box and points, rounded to a hundredth of a pixel; without unused parts."""
        content: dict[str, Any] = {}
        if self.box is not None:
            content["box"] = [round(v, 2) for v in self.box]
        if self.positive:
            content["positive"] = [[round(v, 2) for v in point] for point in self.positive]
        if self.negative:
            content["negative"] = [[round(v, 2) for v in point] for point in self.negative]
        return content


def coarse_mask(probability: NDArray[np.floating[Any]], recipe: Recipe) -> Mask:
    """Threshold one structure's probabilities and keep the components that the recipe selects.

    Pixels that touch at a corner are connected (8 neighbours in 2D, 26 in 3D), so that thin oblique structures are not
    split. Among equally probable components the larger is kept.

    Args:
        probability: (y, x) or (z, y, x), values 0 to 1. NaN counts as below the threshold.
        recipe: ``threshold``, ``component`` and ``min_size`` are used.

    Returns:
        bool mask of the same shape, all False where the structure is absent. ``recipe.morphology`` is not applied: see
        ``apply_morphology``.
    """
    mask = np.zeros(probability.shape, dtype=np.bool_)
    above = probability >= recipe.threshold
    window = window_of(above)
    if window is None:
        return mask
    labels, count = ndimage.label(above[window], structure=np.ones((3,) * mask.ndim, dtype=np.bool_))
    flat = labels.ravel()
    sizes = np.bincount(flat, minlength=count + 1)
    sizes[0] = 0
    keep = sizes >= recipe.min_size
    if recipe.component != "all" and keep.any():
        rank = sizes.astype(np.float64)
        if recipe.component == "probable":
            rank = np.bincount(flat, weights=probability[window].ravel(), minlength=count + 1) / np.maximum(sizes, 1)
        candidates = np.flatnonzero(keep)
        best = max(candidates, key=lambda label: (rank[label], sizes[label]))
        keep = np.arange(count + 1) == best
    mask[window] = keep[labels]
    return mask


def one_vs_rival(probabilities: NDArray[np.floating[Any]], overlap: bool) -> NDArray[np.floating[Any]]:
    """Probabilities for the thresholds of recipes: p / (p + rival) of each structure against its strongest rival.

    The rival is another structure or background. At 0.5 or more the structure is the most probable, so that it is not
    lost where an uncertain student distributes its probability: of 32 teeth the right one may have 0.4, background 0.3.
    Probabilities of structures that may share pixels are unchanged.

    Args:
        probabilities: (S, *spatial), 0 to 1; where structures do not overlap, background is 1 minus their sum.
        overlap: whether structures may share pixels.

    Returns:
        (S, *spatial), float32 where structures do not overlap.
    """
    if overlap:
        return probabilities
    best = np.maximum(1 - probabilities.sum(axis=0, dtype=np.float32), 0)
    second = np.zeros_like(best)
    owner = np.full(best.shape, -1, dtype=np.int16)
    for index, p in enumerate(probabilities):
        higher = p > best
        second = np.where(higher, best, np.maximum(second, p))
        best, owner = np.where(higher, p, best), np.where(higher, np.int16(index), owner)
    result = np.empty(probabilities.shape, dtype=np.float32)
    for index, (out, p) in enumerate(zip(result, probabilities, strict=True)):
        out[...] = p / np.maximum(p + np.where(owner == index, second, best), np.float32(1e-12))
    return result


def coarse_masks(probabilities: NDArray[np.floating[Any]], recipe: Recipe | Sequence[Recipe]) -> Mask:
    """``coarse_mask`` of every structure: float (S, *spatial) -> bool (S, *spatial), by one recipe or one for each."""
    recipes = [recipe] * len(probabilities) if isinstance(recipe, Recipe) else recipe
    masks = np.zeros(probabilities.shape, dtype=np.bool_)
    for mask, probability, own in zip(masks, probabilities, recipes, strict=True):
        mask[...] = coarse_mask(probability, own)
    return masks


def apply_morphology(mask: Mask, recipe: Recipe) -> Mask:
    """Apply the recipe's morphology with a square footprint of ``morphology_size`` pixels.

    Box and mask prompt come from the result, e.g. a larger box by dilation. A mask that erosion or opening would remove
    is returned unchanged: the structure is present, only thin.
    """
    window = window_of(mask)
    if recipe.morphology == "none" or window is None:
        return mask
    size = recipe.morphology_size
    # Padding beyond the image, too: closing at the image's edge must not erode the mask.
    padded = np.pad(mask[window], size)
    change = {
        "dilate": ndimage.binary_dilation,
        "erode": ndimage.binary_erosion,
        "open": ndimage.binary_opening,
        "close": ndimage.binary_closing,
    }[recipe.morphology]
    changed = change(padded, structure=np.ones((size,) * mask.ndim, dtype=np.bool_))
    result = np.zeros_like(mask)
    source, target = [], []
    for part, length in zip(window, mask.shape, strict=True):
        start, stop = max(part.start - size, 0), min(part.stop + size, length)
        target.append(slice(start, stop))
        source.append(slice(start - part.start + size, stop - part.start + size))
    result[tuple(target)] = changed[tuple(source)]
    return result if result.any() else mask


def box_of(mask: Mask, margin: float = 0.0) -> Box:
    """Box around a mask, clipped to the image.

    Args:
        mask: bool (y, x), not empty.
        margin: widening at each side, relative to the box's own width or height.

    Returns:
        x0, y0, x1, y1 of the outermost pixels, both inclusive.
    """
    window = window_of(mask)
    if window is None:
        raise UserError("an empty mask has no box")
    rows, columns = window
    height, width = mask.shape
    grow_x, grow_y = margin * (columns.stop - columns.start), margin * (rows.stop - rows.start)
    return (
        max(0.0, columns.start - grow_x),
        max(0.0, rows.start - grow_y),
        min(width - 1.0, columns.stop - 1 + grow_x),
        min(height - 1.0, rows.stop - 1 + grow_y),
    )


def depth_of(mask: Mask) -> NDArray[np.float64]:
    """Distance of each pixel of a mask to the nearest pixel outside; the image's edge is an edge of the mask, too."""
    return np.asarray(ndimage.distance_transform_edt(np.pad(mask, 1)))[1:-1, 1:-1]


def inner_point(mask: Mask) -> Point:
    """Deepest pixel of a mask: the maximum of its distance transform, as x, y.

    Not the centroid, as in the paper: that of a concave mask (a hook, a ring) may lie outside or close to an edge,
    where a click is ambiguous. SAM's own evaluation uses the deepest point, too (Segment Anything, arXiv 2304.02643,
    section 7.1). Among equally deep pixels it is the one nearest to the centroid, then the topmost, then the leftmost:
    for a disk or a rectangle the two rules agree.
    """
    window = window_of(mask)
    if window is None:
        raise UserError("an empty mask has no inner point")
    rows, columns = window
    depth = depth_of(mask[window])
    deepest = np.argwhere(depth >= depth.max() - 1e-9)
    off_centre = ((deepest - np.argwhere(mask[window]).mean(axis=0)) ** 2).sum(axis=1)
    y, x = deepest[np.argmin(off_centre)]
    return float(columns.start + x), float(rows.start + y)


def negative_points(
    masks: Sequence[Mask], inner: Sequence[Point], owners: Sequence[int] | None = None
) -> list[tuple[Point, ...]]:
    """Negative points of every structure: the inner points of all others.

    Where structures overlap, another's inner point may lie on this structure. Then it is replaced by the deepest pixel
    of the other outside this one, and omitted if the other structure is inside this one.

    Args:
        masks: the masks of the present structures, bool (y, x), none empty.
        inner: their inner points.
        owners: equal numbers for masks that are parts of one structure; None: each is a structure.

    Returns:
        One tuple of points (x, y) per structure, in the order of ``masks``.
    """
    result = []
    for i, own in enumerate(masks):
        points = []
        for j, other in enumerate(masks):
            if j == i or (owners is not None and owners[j] == owners[i]):
                continue
            x, y = inner[j]
            if not own[int(y), int(x)]:
                points.append((x, y))
            elif (rest := other & ~own).any():
                points.append(inner_point(rest))
        result.append(tuple(points))
    return result


def window_of(mask: Mask) -> tuple[slice, ...] | None:
    """Slices around a mask's True pixels, in any number of dimensions; None if there are none."""
    slices = []
    for axis in range(mask.ndim):
        hit = np.flatnonzero(mask.any(axis=tuple(a for a in range(mask.ndim) if a != axis)))
        if not len(hit):
            return None
        slices.append(slice(int(hit[0]), int(hit[-1]) + 1))
    return tuple(slices)
