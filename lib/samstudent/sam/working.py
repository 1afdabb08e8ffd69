"""The working grid: refinement, search and calibration work on at most 512 pixels a side.

SAM answers on 256x256 pixels whatever the image, and the student sees a few hundred. On a radiograph of 3000 pixels
more would cost time and memory, and a recipe's pixel counts would mean another thing in every image.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from samstudent.sam.embedding import Float, Size
from samstudent.sam.prompts import Mask

#: Longest side of the working grid, in pixels.
WORKING_SIDE = 512


def working_size(image_size: Size) -> Size:
    """(y, x) of the working grid for an image of (y, x); smaller images are worked on as they are."""
    height, width = image_size
    scale = min(1.0, WORKING_SIDE / max(height, width))
    return max(1, round(height * scale)), max(1, round(width * scale))


def reduced(stack: NDArray[Any], size: Size) -> Float:
    """Means over the pixels that fall together: probabilities or masks (S, y, x) -> float32 (S, *size).

    A mask on the working grid is where the mean is at least 0.5.
    """
    if stack.shape[1:] == size:
        return np.asarray(stack, dtype=np.float32)
    result = np.empty((len(stack), *size), dtype=np.float32)
    for target, plane in zip(result, stack, strict=True):
        # One at a time: a radiograph's 32 structures in float32 are half a gigabyte.
        target[...] = F.adaptive_avg_pool2d(torch.from_numpy(plane.astype(np.float32))[None], size)[0].numpy()
    return result


def enlarged(soft: NDArray[Any], size: Size) -> tuple[Float, Mask]:
    """A soft mask (y, x) on a larger grid, float32, linear between pixel centres; and where it is at least 0.5.

    What is thinner than a pixel of the working grid would be lost that way; it is enlarged in blocks.
    """
    values = torch.from_numpy(np.asarray(soft, dtype=np.float32))[None, None]
    result = F.interpolate(values, size, mode="bilinear", align_corners=False)[0, 0].numpy()
    if result.max() < 0.5 <= soft.max():
        result = F.interpolate(values, size, mode="nearest-exact")[0, 0].numpy()
    return np.asarray(result), np.asarray(result >= 0.5)


def image_prompts(entries: list[dict[str, Any]], working: Size, image: Size) -> list[dict[str, Any]]:
    """``Prompt.as_json`` entries from pixels of the working grid to those of the image."""
    x, y = image[1] / working[1], image[0] / working[0]

    def point(value: list[float]) -> list[float]:
        return [round((value[0] + 0.5) * x - 0.5, 2), round((value[1] + 0.5) * y - 0.5, 2)]

    moved = []
    for entry in entries:
        changes: dict[str, Any] = {k: [point(v) for v in entry[k]] for k in ("positive", "negative") if k in entry}
        if "box" in entry:
            # The outermost pixels' outer edges, for the box is inclusive.
            x0, y0, x1, y1 = entry["box"]
            changes["box"] = [round(v, 2) for v in (x0 * x, y0 * y, (x1 + 1) * x - 1, (y1 + 1) * y - 1)]
        moved.append(entry | changes)
    return moved
