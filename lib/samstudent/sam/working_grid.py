"""Working grid of refinement, at most 512 pixels a side, and the way back to the image's grid.

SAM decodes 256x256 pixels whatever the image, and the input of the student has a few hundred. On a radiograph of 3000
pixels a finer grid would cost time and memory, and a recipe's pixel counts would depend on the image.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from samstudent.sam.embedding import Float, Size
from samstudent.sam.prompts import Mask

Soft = NDArray[np.float16]

#: Longest side of the working grid, in pixels.
WORKING_SIDE = 512
_BELOW_HALF = np.nextafter(np.float16(0.5), np.float16(0))


def working_size(image_size: Sequence[int]) -> Size:
    """(y, x) of the working grid of an image of (y, x); of a small image it is the image's own grid."""
    height, width = image_size
    scale = min(1.0, WORKING_SIDE / max(height, width))
    return max(1, round(height * scale)), max(1, round(width * scale))


def reduced(stack: NDArray[Any], size: Size) -> Float:
    """Area means: probabilities or masks (S, y, x) -> float32 (S, *size).

    A mask on the working grid is where the mean is at least 0.5.
    """
    if stack.shape[1:] == size:
        return np.asarray(stack, dtype=np.float32)
    result = np.empty((len(stack), *size), dtype=np.float32)
    for target, plane in zip(result, stack, strict=True):
        # One at a time: 32 structures of a radiograph in float32 are half a gigabyte.
        target[...] = F.adaptive_avg_pool2d(torch.from_numpy(plane.astype(np.float32))[None], size)[0].numpy()
    return result


def enlarged(soft: NDArray[Any], size: Size) -> tuple[Float, Mask]:
    """Soft mask (y, x) on a larger grid, float32, by linear interpolation; and the mask where it is at least 0.5.

    Structures thinner than a pixel of the working grid would be lost; they are enlarged by nearest neighbour.
    """
    values = torch.from_numpy(np.asarray(soft, dtype=np.float32))[None, None]
    result = F.interpolate(values, size, mode="bilinear", align_corners=False)[0, 0].numpy()
    if result.max() < 0.5 <= soft.max():
        result = F.interpolate(values, size, mode="nearest-exact")[0, 0].numpy()
    return np.asarray(result), np.asarray(result >= 0.5)


def enlarged_masks(stack: NDArray[Any], size: Size, overlap: bool) -> Mask:
    """Masks on the image's grid, bool (S, *size), from masks or soft masks (S, y, x) on the working grid.

    Without ``overlap`` no pixel belongs to two structures: it goes to the one of the highest value there, of equal ones
    to the first. Two may reach 0.5 at one pixel, because thin ones are enlarged by nearest neighbour (``enlarged``).
    """
    return _enlarge(stack, size, overlap, None)


def enlarged_soft(soft: NDArray[Any], size: Size, overlap: bool) -> tuple[Soft, Mask]:
    """Soft masks float16 (S, *size) of soft masks (S, y, x), and ``enlarged_masks``: where they are at least 0.5."""
    result = np.zeros((len(soft), *size), dtype=np.float16)
    return result, _enlarge(soft, size, overlap, result)


def as_half(soft: NDArray[np.floating[Any]], masks: Mask) -> Soft:
    """Soft masks as float16, at least 0.5 exactly where ``masks`` are: rounding must not move a border."""
    clipped = np.where(masks, np.maximum(soft, np.float32(0.5)), np.minimum(soft, np.float32(_BELOW_HALF)))
    # By torch: numpy's conversion to float16 is six times slower.
    return np.asarray(torch.from_numpy(np.asarray(clipped, dtype=np.float32)).half().numpy())


def prompts_on_image(entries: Sequence[dict[str, Any]], working: Size, image: Size) -> list[dict[str, Any]]:
    """``Prompt.as_json`` entries from pixels of the working grid to those of the image."""
    x, y = image[1] / working[1], image[0] / working[0]

    def point(value: list[float]) -> list[float]:
        return [round((value[0] + 0.5) * x - 0.5, 2), round((value[1] + 0.5) * y - 0.5, 2)]

    moved = []
    for entry in entries:
        changes: dict[str, Any] = {k: [point(v) for v in entry[k]] for k in ("positive", "negative") if k in entry}
        if "box" in entry:
            # Outer edges of the outermost pixels, as the box is inclusive.
            x0, y0, x1, y1 = entry["box"]
            changes["box"] = [round(v, 2) for v in (x0 * x, y0 * y, (x1 + 1) * x - 1, (y1 + 1) * y - 1)]
        moved.append(entry | changes)
    return moved


def _enlarge(stack: NDArray[Any], size: Size, overlap: bool, soft: Soft | None) -> Mask:
    """``enlarged_masks``; also fills ``soft``, zeros (S, *size), unless it is None."""
    masks = np.zeros((len(stack), *size), dtype=np.bool_)
    highest = np.zeros(size, dtype=np.float32)
    for index, small in enumerate(stack):
        if not small.any():
            continue
        values, mask = enlarged(small, size)
        if not overlap:
            mask &= values > highest
            highest[mask] = values[mask]
            for earlier in range(index):
                if (lost := masks[earlier] & mask).any():
                    masks[earlier][lost] = False
                    if soft is not None:
                        soft[earlier][lost] = _BELOW_HALF
        masks[index] = mask
        if soft is not None:
            soft[index] = as_half(values, mask)
    return masks
