"""Volumes on a grid whose axes are at right angles, which is all that ITK, and with it 3D Slicer, can hold.

A tilted gantry moves each slice in its own plane against the one before: the case's own grid is sheared. Viewers get
each slice moved to where it lies instead, by a part of a pixel where need be; no slice is mixed with another. What
they draw on that grid is found on the case's own by its place in space, as with any label on another grid.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from samstudent.imaging.formats import Stored

#: Slices that lie less beside than this, in pixels over the whole volume, count as straight, as in ``resample``.
_STRAIGHT = 0.25


def is_tilted(shape: Sequence[int], affine: NDArray[np.float64]) -> bool:
    """Whether the slices of a volume (k, j, i) do not lie straight above each other."""
    return bool(np.abs(_drift(affine) * (shape[0] - 1)).max() > _STRAIGHT)


def upright(stored: Stored) -> Stored:
    """The volume with axes at right angles: each slice moved into place, with more pixels around.

    Args:
        stored: (k, j, i) of one value a pixel.

    Returns:
        float32 or the type of the pixels; the darkest value where there is no slice.
    """
    straight = _right_angles(stored.affine)
    if not is_tilted(stored.shape, stored.affine):
        return replace(stored, affine=straight)
    pixels, drift, last = stored.pixels, _drift(stored.affine), stored.shape[0] - 1
    first = np.floor(np.minimum(0, drift * last)).astype(int)
    end = np.ceil(np.maximum(0, drift * last)).astype(int)
    columns, rows = stored.shape[2] + end[0] - first[0], stored.shape[1] + end[1] - first[1]
    darkest = pixels.min() if pixels.size else 0
    moved = np.empty((stored.shape[0], rows, columns), pixels.dtype)
    for k, plane in enumerate(pixels):
        offset = first[::-1] - drift[::-1] * k  # rows come first in arrays
        moved[k] = ndimage.affine_transform(
            plane, np.ones(2), np.round(offset, 6), output_shape=(rows, columns), order=1, cval=darkest
        )
    straight[:3, 3] = (stored.affine @ [first[0], first[1], 0, 1])[:3]
    return Stored(moved, moved.shape, straight, notes=stored.notes)


def _drift(affine: NDArray[np.float64]) -> NDArray[np.float64]:
    """(2,) how far each slice lies beside the one before, in pixels of the plane: i, j."""
    axes = affine[:3, :3]
    lengths = np.linalg.norm(axes, axis=0)
    return np.array([axes[:, 2] @ axes[:, axis] / lengths[axis] ** 2 for axis in (0, 1)])


def _right_angles(affine: NDArray[np.float64]) -> NDArray[np.float64]:
    """The affine with its third axis along the normal of the slices."""
    affine = np.array(affine, dtype=float)
    normal = np.cross(affine[:3, 0], affine[:3, 1])
    normal /= np.linalg.norm(normal)
    affine[:3, 2] = normal * (normal @ affine[:3, 2])
    return affine
