"""One soft mask out of SAM's logits and the student's probability, and no pixel in two structures where that is wrong.

Pure functions on arrays of one 2D grid. A soft mask is the probability of each pixel to belong to the structure,
float32 (y, x); the mask is where it is at least 0.5.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.special import expit, logit

from samstudent.sam.backends import Float
from samstudent.sam.prompts import Mask, window_of
from samstudent.task import Recipe

#: A student's probability is never taken for surer than this: its logit would outweigh whatever SAM says.
_LEAST = 1e-3
_BELOW_HALF = float(np.nextafter(np.float32(0.5), np.float32(0)))


def student_logits(probability: NDArray[np.floating[Any]], coarse: Mask, recipe: Recipe) -> Float:
    """The student's say, float32 (y, x): at least 0 just where its coarse mask is.

    The logit of the probability (clamped to 0.001 to 0.999) less that of ``recipe.threshold``. Components that the
    recipe dropped count as surely not the structure; or fusion would bring them back.

    Args:
        probability: (y, x), 0 to 1; NaN counts as 0.
        coarse: bool (y, x), ``coarse_mask`` of it.
        recipe: ``threshold`` is used.
    """
    clamped = np.clip(np.nan_to_num(probability.astype(np.float32)), _LEAST, 1 - _LEAST)
    zero = logit(np.float32(np.clip(recipe.threshold, _LEAST, 1 - _LEAST)))
    values = logit(clamped) - zero
    values[(probability >= recipe.threshold) & ~coarse] = logit(np.float32(_LEAST))
    # Equal after clamping or rounding, or a mask that was cleaned in 3D or on a finer grid.
    values[coarse] = np.maximum(values[coarse], 0)
    return np.asarray(np.where(coarse, values, np.minimum(values, -1e-6)), dtype=np.float32)


def combine(
    probability: NDArray[np.floating[Any]], sam_logits: NDArray[np.float32] | None, coarse: Mask, recipe: Recipe
) -> Float:
    """The soft mask of one present structure, as ``recipe.source`` says.

    - ``sam``: the sigmoid of SAM's logits.
    - ``student``: the student's probability (as ``student_logits``), at least 0.5 just where the coarse mask is.
    - ``fused``: the sigmoid of ``fusion_weight`` x SAM's + (1 - ``fusion_weight``) x the student's logits.
    - ``border``: ``fused`` up to ``border_width`` pixels on both sides of the coarse mask's border, else ``student``.

    Args:
        probability: the student's (y, x), 0 to 1.
        sam_logits: (y, x); None only for source ``student``.
        coarse: bool (y, x), not empty.
        recipe: ``source``, ``fusion_weight``, ``border_width`` and ``threshold`` are used.
    """
    if recipe.source == "sam":
        assert sam_logits is not None
        return sigmoid(sam_logits)
    own = student_logits(probability, coarse, recipe)
    if recipe.source != "student":
        assert sam_logits is not None
        fused = recipe.fusion_weight * sam_logits + (1 - recipe.fusion_weight) * own
        own = fused if recipe.source == "fused" else np.where(near_border(coarse, recipe.border_width), fused, own)
    return sigmoid(own)


def student_soft(probability: NDArray[np.floating[Any]], coarse: Mask, recipe: Recipe) -> Float:
    """The soft mask of source ``student``, whatever the recipe's is."""
    return sigmoid(student_logits(probability, coarse, recipe))


def sigmoid(logits: NDArray[Any]) -> Float:
    """Sigmoid in float32 that stays below 0.5 for every negative logit, however small."""
    values = expit(logits.astype(np.float32))
    return np.where(logits < 0, np.minimum(values, np.float32(_BELOW_HALF)), values)


def near_border(mask: Mask, width: float) -> Mask:
    """Pixels at most ``width`` pixels (Euclidean, between centres) from the other side of the mask's border."""
    near = np.zeros_like(mask)
    window = window_of(mask)
    if window is None:
        return near
    reach = int(np.ceil(width))
    around = tuple(slice(max(part.start - reach, 0), part.stop + reach) for part in window)
    part = mask[around]
    # The image's edge is no border: nothing is known beyond it.
    for side in (part, ~part):
        if not side.all():
            near[around] |= side & (ndimage.distance_transform_edt(side) <= width)
    return near


def resolve(soft: NDArray[np.floating[Any]], overlap: bool) -> Mask:
    """Masks of soft masks: at least 0.5 and, unless structures may overlap, highest; of equal ones the first.

    Args:
        soft: (S, y, x).
        overlap: whether structures may share pixels.
    """
    masks = np.asarray(soft >= 0.5)
    if not overlap:
        resolve_overlap(masks, list(soft))
    return masks


def resolve_overlap(masks: Mask, scores: Sequence[NDArray[Any]]) -> None:
    """Leave each pixel to the mask of the highest score there; of equal ones to the first. Changes ``masks``.

    Args:
        masks: bool (N, y, x).
        scores: N arrays (y, x), soft masks or logits, read one after the other.
    """
    owner = np.full(masks.shape[1:], -1)
    highest = np.full(masks.shape[1:], -np.inf, dtype=np.float32)
    for index, (mask, values) in enumerate(zip(masks, scores, strict=True)):
        wins = mask & (values > highest)
        owner[wins], highest[wins] = index, values[wins]
    for index, mask in enumerate(masks):
        mask &= owner == index


def exclusive(soft: NDArray[np.floating[Any]]) -> Float:
    """Soft masks (S, y, x) of which at most one claims a pixel: the highest keeps its value, the others share at most
    what it leaves to 1. The order of the values stays, so ``resolve`` of the result is that of the argument."""
    if len(soft) < 2:
        return np.asarray(soft, dtype=np.float32)
    first = soft.argmax(axis=0)[None]
    top = np.take_along_axis(soft, first, axis=0)
    rest = soft.sum(axis=0, keepdims=True) - top
    scale = np.minimum(1, (1 - top) / np.maximum(rest, 1e-12))
    result = np.asarray(soft * scale, dtype=np.float32)
    np.put_along_axis(result, first, top.astype(np.float32), axis=0)
    return result


def as_half(soft: NDArray[np.floating[Any]], masks: Mask) -> NDArray[np.float16]:
    """Soft masks in half the memory, which rounding takes to neither side of 0.5 that ``masks`` does not say."""
    half = soft.astype(np.float16)
    half[~masks & (half >= 0.5)] = np.nextafter(np.float16(0.5), np.float16(0))
    half[masks & (half < 0.5)] = 0.5
    return half
