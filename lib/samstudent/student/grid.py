"""Resampling between an image's canonical grid and the student's grid.

2D images are fitted into ``student.size`` with their aspect, and centred; volumes are resampled to ``student.spacing``
with the resulting size. Pixel centres are at half pixels in both directions, and downsampling averages over the area of
a new pixel.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import interpolate

from samstudent.task import Task


@dataclass(frozen=True)
class Placement:
    """Position of one image in the student's grid; all in canonical array order, in pixels."""

    source: tuple[int, ...]
    #: Shape after resampling.
    inner: tuple[int, ...]
    #: First pixel of the resampled image within ``outer``.
    offset: tuple[int, ...]
    #: Shape of the student's grid (2D: ``student.size``; 3D: ``inner``, covered by the sliding window).
    outer: tuple[int, ...]

    @property
    def window(self) -> tuple[slice, ...]:
        """Slices of the resampled image within ``outer``."""
        return tuple(slice(o, o + n) for o, n in zip(self.offset, self.inner, strict=True))


def place(shape: Sequence[int], spacing: Sequence[float], task: Task) -> Placement:
    """Placement of an image of a canonical shape and spacing (mm, array order) in the student's grid."""
    source = tuple(int(n) for n in shape)
    if task.dimension == 3:
        ratios = [s / t for s, t in zip(spacing, task.student.spacing, strict=True)]
        inner = tuple(max(1, round(n * r)) for n, r in zip(source, ratios, strict=True))
        return Placement(source, inner, (0,) * len(inner), inner)
    outer = task.student.size
    scale = min(o / n for o, n in zip(outer, source, strict=True))
    inner = tuple(min(o, max(1, round(n * scale))) for o, n in zip(outer, source, strict=True))
    offset = tuple((o - n) // 2 for o, n in zip(outer, inner, strict=True))
    return Placement(source, inner, offset, outer)


def to_student_grid(array: NDArray[Any], placement: Placement) -> NDArray[Any]:
    """Resample intensities float32 (C, *source) to (C, *outer), zero around the image."""
    result = np.zeros((array.shape[0], *placement.outer), dtype=np.float32)
    result[(slice(None), *placement.window)] = resize(array, placement.inner)
    return result


def masks_to_student_grid(masks: NDArray[Any], placement: Placement, overlap: bool) -> NDArray[Any]:
    """Resample masks bool (S, *source) to (S, *outer).

    A pixel belongs to a structure that covers at least half of it where structures may overlap, else to the one that
    covers more than each other structure and the background.
    """
    covered = resize(masks.astype(np.float32), placement.inner)
    if overlap:
        hard = covered >= 0.5
    else:
        background = 1 - covered.sum(axis=0, keepdims=True)
        winner = np.concatenate([background, covered]).argmax(axis=0)
        hard = winner == np.arange(1, len(masks) + 1).reshape(-1, *(1,) * (masks.ndim - 1))
    result = np.zeros((masks.shape[0], *placement.outer), dtype=bool)
    result[(slice(None), *placement.window)] = hard
    return result


def from_student_grid(
    probabilities: NDArray[Any], placement: Placement, size: Sequence[int] | None = None
) -> NDArray[Any]:
    """Resample probabilities float32 (S, *outer) back to (S, *source), or to ``size``, by linear interpolation."""
    inner = probabilities[(slice(None), *placement.window)]
    return np.clip(resize(inner, size or placement.source), 0.0, 1.0)


def resize(array: NDArray[Any], shape: Sequence[int]) -> NDArray[Any]:
    """Linear resampling of float (C, *spatial), 2D or 3D, with area averaging along axes that shrink."""
    tensor = torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32))
    if tuple(tensor.shape[1:]) == tuple(shape):
        return tensor.numpy().copy()
    if tensor.ndim == 4:
        # torch has antialiasing in 2D only; linear resampling is separable, so z follows after (y, x).
        channels, depth = tensor.shape[:2]
        tensor = _resize_2d(tensor.reshape(channels * depth, *tensor.shape[2:]), shape[1], shape[2])
        tensor = _resize_2d(tensor.reshape(channels, depth, -1), shape[0], shape[1] * shape[2])
        return tensor.reshape(channels, *shape).numpy()
    return _resize_2d(tensor, shape[0], shape[1]).numpy()


def _resize_2d(tensor: torch.Tensor, height: int, width: int) -> torch.Tensor:
    return interpolate(tensor[None], size=(height, width), mode="bilinear", antialias=True, align_corners=False)[0]
