"""Fusion of SAM's logits and the student's probabilities into soft masks, and resolution of overlaps.

Pure functions on arrays of one 2D grid. A soft mask is the probability of each pixel to belong to the structure,
float32 (y, x); the mask is where it is at least 0.5.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, logit

from samstudent.sam.embedding import Float
from samstudent.sam.prompts import Mask
from samstudent.task import Recipe

#: Bounds of a student's probability: beyond them its logit would be larger than any of SAM's.
_LEAST = 1e-3
_BELOW_HALF = float(np.nextafter(np.float32(0.5), np.float32(0)))


def student_logits(probability: NDArray[np.floating[Any]], coarse: Mask, recipe: Recipe) -> Float:
    """Student logits, float32 (y, x): at least 0 exactly where its coarse mask is.

    The logit of the probability (clamped to 0.001 to 0.999) minus that of ``recipe.threshold``. Components that the
    recipe dropped have the lowest logit, otherwise fusion would bring them back.

    Args:
        probability: (y, x), 0 to 1; NaN counts as 0.
        coarse: bool (y, x), ``coarse_mask`` of it.
        recipe: ``threshold`` is used.
    """
    clamped = np.clip(np.nan_to_num(probability.astype(np.float32)), _LEAST, 1 - _LEAST)
    zero = logit(np.float32(np.clip(recipe.threshold, _LEAST, 1 - _LEAST)))
    values = logit(clamped) - zero
    values[(probability >= recipe.threshold) & ~coarse] = logit(np.float32(_LEAST))
    # Equal after clamping or rounding, or the coarse mask comes from 3D or a finer grid.
    values[coarse] = np.maximum(values[coarse], 0)
    return np.asarray(np.where(coarse, values, np.minimum(values, -1e-6)), dtype=np.float32)


def combine(
    probability: NDArray[np.floating[Any]], sam_logits: NDArray[np.float32] | None, coarse: Mask, recipe: Recipe
) -> Float:
    """Soft mask of one present structure by ``recipe.source``: the sigmoid of

    - ``sam``, ``plain_sam``: SAM's logits;
    - ``student``, and wherever SAM's mask is empty: ``student_logits``;
    - ``fused``: the mean of SAM's and the student's logits.

    Args:
        probability: the student's (y, x), 0 to 1.
        sam_logits: (y, x); None: SAM was not run, possible with source ``student`` only.
        coarse: bool (y, x), not empty.
        recipe: ``source`` and ``threshold`` are used.
    """
    return sigmoid(_combined(probability, sam_logits, coarse, recipe))


def fuse(
    probabilities: NDArray[np.floating[Any]],
    sam_logits: Sequence[NDArray[np.float32] | None],
    coarse: Mask,
    recipes: Sequence[Recipe],
    overlap: bool,
) -> tuple[Float, Mask, list[bool]]:
    """``combine`` all structures of one image and assign each pixel to one of them, unless they may overlap.

    A structure with an empty SAM mask, or that loses all its pixels to others, has its coarse mask as the result; where
    overlap is forbidden, without the pixels of others.

    Args:
        probabilities: the student's (S, y, x), 0 to 1.
        sam_logits: S arrays (y, x); None where SAM was not run.
        coarse: bool (S, y, x).
        recipes: one per structure.
        overlap: whether structures may share pixels.

    Returns:
        Soft masks float32 (S, y, x), 0 where absent, of which at most one is at least 0.5 at a pixel unless
        ``overlap``; masks bool (S, y, x), where they are at least 0.5; and for each structure whether its mask is at
        least partly SAM's.
    """
    present = [int(i) for i in np.flatnonzero(coarse.any(axis=(1, 2)))]
    logits = np.full(coarse.shape, -np.inf, dtype=np.float32)
    for i in present:
        if recipes[i].source == "student" or _has_sam_mask(sam_logits[i]):
            logits[i] = _combined(probabilities[i], sam_logits[i], coarse[i], recipes[i])
    masks = logits >= 0
    if not overlap:
        # By logits: LiteMedSAM's go beyond 17, where the sigmoid is 1 in float32.
        resolve_overlap(masks, list(logits))
    refined = [recipe.source != "student" and bool(mask.any()) for recipe, mask in zip(recipes, masks, strict=True)]
    for i in present:
        if not masks[i].any():
            logits[i] = student_logits(probabilities[i], coarse[i], recipes[i])
            if not overlap:
                logits[i][masks.any(axis=0)] = -np.inf
            masks[i] = logits[i] >= 0
    soft = sigmoid(logits)
    return soft if overlap else _exclusive(soft, masks), masks, refined


def _combined(
    probability: NDArray[np.floating[Any]], sam_logits: NDArray[np.float32] | None, coarse: Mask, recipe: Recipe
) -> Float:
    """Logits of ``combine``."""
    if sam_logits is not None and recipe.source in ("sam", "plain_sam") and _has_sam_mask(sam_logits):
        return sam_logits
    own = student_logits(probability, coarse, recipe)
    if sam_logits is None or recipe.source == "student" or not _has_sam_mask(sam_logits):
        assert sam_logits is not None or recipe.source == "student"
        return own
    return np.asarray((sam_logits + own) / 2, dtype=np.float32)


def _has_sam_mask(sam_logits: NDArray[np.float32] | None) -> bool:
    """Whether SAM was run and its mask is not empty."""
    return sam_logits is not None and bool((sam_logits > 0).any())


def student_soft(probability: NDArray[np.floating[Any]], coarse: Mask, recipe: Recipe) -> Float:
    """Soft mask of source ``student``, whatever the recipe's source: at least 0.5 exactly where the coarse mask is."""
    return sigmoid(student_logits(probability, coarse, recipe))


def sigmoid(logits: NDArray[Any]) -> Float:
    """Sigmoid in float32 that stays below 0.5 for every negative logit, however small."""
    values = expit(logits.astype(np.float32))
    return np.where(logits < 0, np.minimum(values, np.float32(_BELOW_HALF)), values)


def resolve_overlap(masks: Mask, scores: Sequence[NDArray[Any]]) -> None:
    """Assign each pixel to the mask of the highest score there, among equal ones to the first. Changes ``masks``.

    Args:
        masks: bool (N, y, x).
        scores: N arrays (y, x), soft masks or logits.
    """
    owner = np.full(masks.shape[1:], -1)
    highest = np.full(masks.shape[1:], -np.inf, dtype=np.float32)
    for index, (mask, values) in enumerate(zip(masks, scores, strict=True)):
        wins = mask & (values > highest)
        owner[wins], highest[wins] = index, values[wins]
    for index, mask in enumerate(masks):
        mask &= owner == index


def _exclusive(soft: Float, masks: Mask) -> Float:
    """Soft masks (S, y, x) of which at most one is 0.5 or more at a pixel: the owner in ``masks``, else the highest,
    keeps its value, and the others are scaled so that the sum is at most 1."""
    first = np.where(masks.any(axis=0), masks.argmax(axis=0), soft.argmax(axis=0))[None]
    top = np.take_along_axis(soft, first, axis=0)
    rest = soft.sum(axis=0, keepdims=True) - top
    result = soft * np.minimum(1, (1 - top) / np.maximum(rest, np.float32(1e-12)))
    np.put_along_axis(result, first, top, axis=0)
    return np.asarray(result)
