"""Masks from the box and clicks of a user.

SAM was trained with points; LiteMedSAM and MedSAM with boxes alone: their point prompts were never trained. Mean Dice
with LiteMedSAM of one click well inside the structure, 34 nerves and vessels (14 ultrasound training images) and 15
drawn shapes:

- the click as SAM's point prompt: 0.00, 0.00; a box around that mask, with or without the click: 0.01, 0.01
- the true box: 0.87, 0.97; the true box and the click: 0.68, 0.86
- of square boxes of seven sizes around the click the mask of the highest predicted IoU: 0.64, 0.85; the same with the
  click as a point: 0.54, 0.71

So for these models without a click decoder (LiteMedSAM has one, ``sam/click_decoder.py``) clicks select a box and cut
the mask, and are not used as point prompts; nor is a single click with the general one. Sizes and rank were
chosen on 28 of those structures, 9 shapes and 24 phantom bones, so their own numbers are optimistic: 0.66, 0.79, 0.64.
Predicted IoU alone: 0.66, 0.78, 0.64; stability alone: 0.64, 0.76, 0.57; with one larger box (0.55 of the image):
0.57, 0.79, 0.59; with oblong boxes: 0.62, 0.79, 0.65.

Further clicks, each at the largest error, 23 of those structures and 9 shapes: one 0.66, 0.79; two 0.67, 0.75; three
0.73, 0.89; a box with every side off by up to 8 %: 0.85, 0.96. So a box is better than three clicks, and a structure
larger than 0.4 of the image needs a box, or clicks near its ends.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import ndimage

from samstudent.sam.click_decoder import ClickDecoder
from samstudent.sam.embedding import DecodedMask, Embedding
from samstudent.sam.model import SamBackend
from samstudent.sam.prompts import Box, Mask, Point, Prompt

#: Models whose point prompts were never trained; those for which ``Recipe.stages_for`` uses only boxes.
BOX_ONLY = ("lite_medsam", "medsam")
#: Sides of the boxes around a click, as shares of the image's longer side.
SCALES = (0.1, 0.14, 0.2, 0.28, 0.4)
#: Margin of boxes around several clicks, relative to the extent of the clicks.
_BEYOND = 0.1


@dataclass(frozen=True)
class ClickedMask:
    """SAM's mask for a user's box and clicks.

    Attributes:
        mask: bool (y, x) at the image's size; may be empty.
        prompt: prompt of the decoder; has the user's points only where the model was trained with points.
        predicted_iou: SAM's own estimate of the IoU with the truth.
        clicks: digest of the click decoder that decoded it; None: the SAM itself did.
    """

    mask: Mask
    prompt: Prompt
    predicted_iou: float
    clicks: str | None = None

    def as_json(self) -> dict[str, Any]:
        return {
            "present": bool(self.mask.any()),
            "prompts": [self.prompt.as_json()],
            "predicted_iou": round(self.predicted_iou, 4),
        } | ({} if self.clicks is None else {"clicks": self.clicks})


def mask_of_clicks(
    backend: SamBackend, embedding: Embedding, prompt: Prompt, clicks: ClickDecoder | None = None
) -> ClickedMask:
    """Mask of one structure.

    A model that was trained with points is run with the prompt itself, a click decoder with the
    prompts that it takes; another model with the box, or with boxes of several sizes around the positive points
    (``boxes_around``). Of their masks the one with most positive and fewest
    negative points is selected, among equal ones the one that ranks highest by SAM's own figures (``_rank``). Pixels
    nearer to a negative than to every positive point are removed (``cut_by_points``).

    Args:
        backend: the SAM.
        embedding: of the image.
        prompt: a box or at least one positive point; any negative points.
        clicks: click decoder of a SAM whose point prompts were never trained; None: there is none.
    """
    if clicks is not None and clicks.takes(prompt):
        decoded = clicks.sam.decode(embedding, prompt)
        return ClickedMask(decoded.logits > 0, prompt, decoded.predicted_iou, clicks.sam.digest)
    if backend.name not in BOX_ONLY:
        decoded = backend.decode(embedding, prompt)
        return ClickedMask(decoded.logits > 0, prompt, decoded.predicted_iou)
    boxes = [prompt.box] if prompt.box else boxes_around(prompt.positive, embedding.image_size)
    prompts = [Prompt(box=box) for box in boxes]
    candidates = list(zip(prompts, backend.decode_many(embedding, prompts), strict=True))
    used, decoded = max(candidates, key=lambda candidate: _rank(candidate[1], prompt))
    mask = cut_by_points(decoded.logits > 0, prompt.positive, prompt.negative)
    return ClickedMask(mask, used, decoded.predicted_iou)


def boxes_around(points: Sequence[Point], image_size: tuple[int, int]) -> list[Box]:
    """Boxes of several sizes around all points, smallest first, clipped to the image; at least one.

    Args:
        points: (x, y), at least one, inside the image.
        image_size: (y, x).
    """
    height, width = image_size
    low, high = np.min(points, axis=0), np.max(points, axis=0)
    middle, reach = (low + high) / 2, (high - low) / 2 * (1 + _BEYOND)
    boxes: dict[Box, None] = {}
    for scale in SCALES:
        half = np.maximum(reach, scale * max(height, width) / 2)
        x0, y0 = np.maximum(middle - half, 0)
        x1, y1 = np.minimum(middle + half, [width - 1, height - 1])
        boxes[float(x0), float(y0), float(x1), float(y1)] = None
    return list(boxes)


def cut_by_points(mask: Mask, positive: Sequence[Point], negative: Sequence[Point]) -> Mask:
    """A mask without the parts that a user's points exclude.

    If a negative point lies on the mask, pixels nearer to it than to every positive point are removed; without positive
    points its component is. Then the components with a positive point remain; all of them if there is none.
    """
    result = mask.copy()
    hit = [point for point in negative if mask[_pixel(point)]]
    if hit and positive:
        result &= _distance(mask.shape, positive) < _distance(mask.shape, hit)
    labels, _ = ndimage.label(result, structure=np.ones((3, 3)))
    on = {int(labels[_pixel(point)]) for point in positive} - {0}
    if on:
        result &= np.isin(labels, list(on))
    elif hit and not positive:
        result &= ~np.isin(labels, [labels[_pixel(point)] for point in hit])
    return result


def _rank(decoded: DecodedMask, user: Prompt) -> tuple[float, float]:
    """Rank of a mask: agreement with the user's points, then predicted IoU plus half the stability score (pixels with
    logits above 1, relative to those above -1).
    """
    logits = decoded.logits
    right = sum(float(logits[_pixel(p)] > 0) for p in user.positive)
    wrong = sum(float(logits[_pixel(p)] > 0) for p in user.negative)
    stability = float((logits > 1).sum()) / max(float((logits > -1).sum()), 1.0)
    return right - wrong, decoded.predicted_iou + stability / 2


def _pixel(point: Point) -> tuple[int, int]:
    """(row, column) of a point; a point on the outer half of a border pixel belongs to that pixel."""
    return max(round(point[1]), 0), max(round(point[0]), 0)


def _distance(shape: tuple[int, ...], points: Sequence[Point]) -> np.ndarray[Any, np.dtype[np.floating[Any]]]:
    """Distance of every pixel to the nearest of some points."""
    free = np.ones(shape, dtype=np.bool_)
    for point in points:
        free[_pixel(point)] = False
    return np.asarray(ndimage.distance_transform_edt(free))
