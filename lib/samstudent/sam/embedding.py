"""Embeddings of SAM's image encoder, masks of its decoder, and mask prompts.

All in numpy, without state of a model.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

Float = NDArray[np.float32]
Size = tuple[int, int]

#: Probability of a pixel inside a mask prompt, and 1 minus that outside: logits of about +-7, SAM's own range.
_INSIDE = 0.999


@dataclass(frozen=True)
class Frame:
    """Geometry between the grid of prompts and masks, and the square input of the model.

    Attributes:
        grid_size: (y, x) of the grid of prompts and masks: the image's own, or its working grid.
        input_size: (y, x) of the image after resizing, before padding.
        side: side of the square input, padding included, in pixels of the resized image.
    """

    grid_size: Size
    input_size: Size
    side: int


@dataclass(frozen=True)
class Embedding:
    """Image embedding of SAM's encoder.

    Attributes:
        features: float32 (1, 256, h, w).
        image_size: (y, x) of the grid of prompts and masks; the image's own, or another one by ``on_grid``.
        input_size, side: as of ``Frame``.
    """

    features: Float
    image_size: Size
    input_size: Size
    side: int

    @property
    def frame(self) -> Frame:
        """Geometry without the features."""
        return Frame(self.image_size, self.input_size, self.side)

    @property
    def low_res_scale(self) -> float:
        """Pixels of SAM's low-resolution masks for a pixel of the resized image."""
        return 4 * self.features.shape[-1] / self.side

    @property
    def low_res_size(self) -> Size:
        """(y, x) of the part of the low-resolution masks that shows the image; the rest is padding."""
        height, width = (math.ceil(size * self.low_res_scale) for size in self.input_size)
        return height, width

    def on_grid(self, size: Size) -> Embedding:
        """The embedding for prompts and masks on a grid of (y, x) = ``size``; features are shared."""
        return self if size == self.image_size else replace(self, image_size=size)

    def pooled(self) -> Float:
        """Mean feature vector float32 (256,) of the image without its padding."""
        per_pixel = self.features.shape[-1] / self.side
        height, width = (max(1, round(size * per_pixel)) for size in self.input_size)
        return np.asarray(self.features[0, :, :height, :width].mean(axis=(1, 2)), dtype=np.float32)


@dataclass(frozen=True)
class DecodedMask:
    """Mask of one prompt.

    Attributes:
        low_res: float32 (L, L) logits in the model's padded frame; usable as ``Prompt.mask_input``.
        predicted_iou: the model's own estimate of the IoU of its mask and the truth; about 0 to 1.
        frame: geometry of the image.
    """

    low_res: Float
    predicted_iou: float
    frame: Frame

    @property
    def logits(self) -> Float:
        """Logits float32 (y, x) on the frame's grid; the mask is where they are above 0. Computed at every access:
        those of earlier stages are not needed, and those of a large radiograph take much memory."""
        side = self.frame.side
        height, width = self.frame.input_size
        with torch.inference_mode():
            logits = torch.from_numpy(self.low_res)[None, None]
            logits = F.interpolate(logits, (side, side), mode="bilinear", align_corners=False)[..., :height, :width]
            logits = F.interpolate(logits, self.frame.grid_size, mode="bilinear", align_corners=False)
        return np.asarray(logits[0, 0].numpy())


def mask_input(mask: NDArray[np.bool_], embedding: Embedding) -> Float:
    """Mask prompt, logits float32 (L, L), of a mask bool (y, x) at the image's size."""
    inside = np.clip(low_res_fraction(mask, embedding), 1 - _INSIDE, _INSIDE)
    return np.asarray(np.log(inside / (1 - inside)))


def low_res_fraction(mask: NDArray[np.bool_], embedding: Embedding) -> Float:
    """Fraction of each pixel of SAM's low-resolution masks that a mask covers.

    Args:
        mask: bool (y, x) at the image's size.
        embedding: of that image.

    Returns:
        float32 (L, L) from 0 to 1, in the model's padded frame, L being four times the side of the features.
    """
    side, low = embedding.side, 4 * embedding.features.shape[-1]
    height, width = embedding.input_size
    with torch.inference_mode():
        inside = torch.from_numpy(mask.astype(np.float32))[None, None]
        inside = F.interpolate(inside, (height, width), mode="bilinear", align_corners=False, antialias=True)
        inside = F.adaptive_avg_pool2d(F.pad(inside, (0, side - width, 0, side - height)), low)
        return np.asarray(inside[0, 0].numpy())
