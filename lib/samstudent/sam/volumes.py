"""Slices of a volume: choice of the axis, coarse masks in 3D, and comparison of neighbouring slices.

SAM segments slices. A volume is refined from them as follows (docs/reference/recipe.md):

- slices are cut along the axis with the finest or the largest cross-sections (``slice_axis``);
- coarse masks are cleaned once in 3D, and slices that the student missed get a mask between their neighbours', from
  which prompts are made, too (``coarse_volume``);
- the parts of a structure within a slice are decoded separately (``parts_of``);
- with ``slice_step`` above 1 only every n-th slice is embedded, and logits in between are interpolated
  (``interpolated``);
- a mask that agrees neither with those of neighbouring slices nor with the student's is replaced by the coarse mask
  (``outliers``), and the others are smoothed across slices (``smoothed``).

Masks are compared, averaged and interpolated as SAM's own low-resolution logits, which have one frame in all slices.
Functions here expect volumes with the slices first, whatever the axis: (n, y, x).
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from samstudent.sam.prompts import Mask, coarse_mask
from samstudent.task import Recipe

Float = NDArray[np.float32]
Axis = Literal["auto", "z", "y", "x"]

#: Ratio of the longest to the second longest voxel side above which slices are cut across the longest side, as
#: acquired.
_ANISOTROPIC = 1.5
#: Largest number of slices along another axis than z, relative to that along z: near ties must not change the axis from
#: case to case.
_CLEARLY_FEWER = 0.8
#: Largest gap, in slices, that is filled between two slices with the structure.
_GAP = 2
#: Smallest Dice of the slices on both sides of a gap that is filled.
_ALIKE = 0.5
#: Largest number of components that are compared for gaps, the largest first: noise may have thousands.
_COMPONENTS = 50
#: Largest number of parts of a structure within one slice that are decoded, the largest first.
_PARTS = 8
#: A neighbouring slice's weight in smoothing, the slice's own being 0.5, where slices are no thicker than pixels.
_NEIGHBOUR = 0.25
#: Dice below which SAM's mask of a slice disagrees with the student's.
_DISAGREES = 0.5
#: Tolerance of a slice's Dice with its neighbour, below that of the student's masks in the same two slices.
_TOLERANCE = 0.2


def slice_axis(coarse: Mask, spacing: Sequence[float] | None = None, axis: Axis = "auto") -> int:
    """Axis along which a volume is cut into slices.

    Where voxels are clearly longer along one axis (CT, most MR), it is that one: the acquired slices have the finest
    pixels. Otherwise it is the axis with the fewest slices that contain a structure: fewer slices of the same volume
    are larger cross-sections, on which SAM is better (its input has a fixed size), and fewer embeddings. It is z unless
    another axis needs a fifth less.

    Args:
        coarse: bool (S, z, y, x), the coarse masks.
        spacing: mm along z, y, x; None: taken as equal.
        axis: ``Recipe.axis``; anything but "auto" is the result.

    Returns:
        0, 1 or 2 for z, y or x.
    """
    if axis != "auto":
        return "zyx".index(axis)
    if spacing is not None:
        ordered = sorted(spacing)
        if ordered[2] > _ANISOTROPIC * ordered[1]:
            return int(np.argmax(spacing))
    anything = coarse.any(axis=0)
    occupied = [int(anything.any(axis=tuple(b for b in range(3) if b != a)).sum()) for a in range(3)]
    best = int(np.argmin(occupied))
    return best if occupied[best] <= _CLEARLY_FEWER * occupied[0] else 0


def coarse_volume(probability: NDArray[np.floating[Any]], recipe: Recipe) -> Mask:
    """``coarse_mask`` in 3D, with missed slices filled.

    Two components that are at most two slices apart, and whose facing slices are similar (Dice at least 0.5), count as
    one: a missed slice must not lose the part beyond it to the component rule. The mask between them is where the
    signed distance to the border, interpolated between the facing slices, is positive (Raya and Udupa, IEEE TMI 1990).

    Args:
        probability: (n, y, x), 0 to 1.
        recipe: as of ``coarse_mask``, with voxels instead of pixels.
    """
    above = np.asarray(probability >= recipe.threshold)
    bridge = _bridge(above, recipe.min_size) & ~above
    return coarse_mask(np.where(bridge, recipe.threshold, probability), recipe)


def _bridge(mask: Mask, min_size: int) -> Mask:
    """Voxels of (n, y, x) between components on both sides of a short gap."""
    bridge = np.zeros_like(mask)
    labels, count = ndimage.label(mask, structure=np.ones((3, 3, 3), dtype=np.bool_))
    sizes = np.bincount(labels.ravel(), minlength=count + 1)[1:]
    largest = [int(i) for i in np.argsort(-sizes, kind="stable")[:_COMPONENTS] if sizes[i] >= min_size]
    extents = [found[0] for found in ndimage.find_objects(labels)]
    for low, high in itertools.permutations(largest, 2):
        first, last = extents[low].stop - 1, extents[high].start
        if not 1 < last - first <= _GAP + 1:
            continue
        faces = labels[first] == low + 1, labels[last] == high + 1
        if _dice(*faces) < _ALIKE:
            continue
        ends = [ndimage.distance_transform_edt(face) - ndimage.distance_transform_edt(~face) for face in faces]
        for z in range(first + 1, last):
            share = (z - first) / (last - first)
            bridge[z] |= (1 - share) * ends[0] + share * ends[1] > 0
    return bridge


def parts_of(mask: Mask, recipe: Recipe) -> list[Mask]:
    """Connected parts of a structure in one slice, the largest first, at most eight.

    One box around two parts would also contain everything between them.

    Args:
        mask: bool (y, x), not empty.
        recipe: parts of fewer than ``min_size`` pixels are left out, unless there is no other.
    """
    labels, count = ndimage.label(mask, structure=np.ones((3, 3), dtype=np.bool_))
    sizes = np.bincount(labels.ravel(), minlength=count + 1)[1:]
    order = [int(i) for i in np.argsort(-sizes, kind="stable")[:_PARTS]]
    largest = [i for i in order if sizes[i] >= recipe.min_size] or order[:1]
    return [labels == i + 1 for i in largest]


def outliers(masks: Mapping[int, Mask], coarse: Mask, step: int = 1) -> set[int]:
    """Slices whose mask agrees neither with its neighbours nor with the student's.

    A mask disagrees with the student where their Dice is below 0.5. It disagrees with its neighbours where its Dice
    with each of them is, by more than 0.2, below the Dice of the student's masks in the same two slices, a measure of
    the change of the structure there. For a mask without neighbours, or on a slice without a student's mask, only the
    other criterion counts.

    Args:
        masks: slice -> bool (y, x), SAM's.
        coarse: bool (n, y, x), the student's.
        step: slices up to this far away are neighbours, the nearest on each side.
    """
    found = set()
    order = sorted(masks)
    for k, z in enumerate(order):
        mask = masks[z]
        beside = [other for other in order[max(k - 1, 0) : k + 2] if 0 < abs(other - z) <= step]
        present = bool(coarse[z].any())
        if not beside or (present and _dice(mask, coarse[z]) >= _DISAGREES):
            continue
        # Without a student's mask, neighbouring masks should be similar.
        expected = [
            _dice(coarse[z], coarse[other]) if present and coarse[other].any() else _DISAGREES for other in beside
        ]
        agreed = [_dice(mask, masks[other]) for other in beside]
        if all(
            found_dice < least - (_TOLERANCE if present else 0)
            for found_dice, least in zip(agreed, expected, strict=True)
        ):
            found.add(z)
    return found


def neighbour_weight(spacing: Sequence[float] | None, axis: int) -> float:
    """Weight of a neighbouring slice in ``smoothed``: 0.25 where slices are as thick as pixels are wide, proportionally
    less where they are thicker."""
    if spacing is None:
        return _NEIGHBOUR
    within = float(np.mean([spacing[a] for a in range(3) if a != axis]))
    return _NEIGHBOUR * min(1.0, within / float(spacing[axis]))


def smoothed(logits: Mapping[int, Float], weight: float = _NEIGHBOUR) -> dict[int, Float]:
    """Logits averaged with those of the neighbouring slices, where these have the structure, too.

    Args:
        logits: slice -> float32 (y, x).
        weight: of each neighbour; the slice itself has 0.5, and the sum is normalised to 1.
    """
    result = {}
    for z, own in logits.items():
        total, mean = 0.5, 0.5 * own
        for other in (z - 1, z + 1):
            if other in logits:
                total, mean = total + weight, mean + weight * logits[other]
        result[z] = (mean / total).astype(np.float32)
    return result


def steps_of(occupied: Sequence[int], step: int) -> list[int]:
    """Every n-th of a structure's slices, and the first and last of each contiguous run."""
    chosen = []
    for i, z in enumerate(occupied):
        starts = i == 0 or occupied[i - 1] != z - 1
        ends = i == len(occupied) - 1 or occupied[i + 1] != z + 1
        if starts or ends or z % step == 0:
            chosen.append(z)
    return chosen


def interpolated(logits: Mapping[int, Float], slices: Sequence[int]) -> dict[int, Float]:
    """Logits for further slices, linear between the nearest slices with logits.

    Args:
        logits: slice -> float32 (y, x).
        slices: those outside the range of ``logits`` are left out.

    Returns:
        slice -> float32 (y, x), of the given and the further slices.
    """
    known = sorted(logits)
    result = dict(logits)
    for z in slices:
        if z in result or not known or not known[0] < z < known[-1]:
            continue
        above = next(i for i in known if i > z)
        below = known[known.index(above) - 1]
        share = (z - below) / (above - below)
        result[z] = ((1 - share) * logits[below] + share * logits[above]).astype(np.float32)
    return result


def _dice(a: Mask, b: Mask) -> float:
    size = int(a.sum()) + int(b.sum())
    return 2 * int((a & b).sum()) / size if size else 1.0
