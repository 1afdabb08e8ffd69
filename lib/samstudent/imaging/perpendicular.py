"""Volumes on a grid with perpendicular axes, as ITK and 3D Slicer require.

A tilted gantry shifts each slice in its plane against the previous one: the grid of the case is sheared. Viewers get a
volume in which each slice is shifted to its position, with interpolation within the slice only. Labels on that grid are
resampled to the grid of the case by their position in space, as labels on any other grid.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from samstudent.imaging.formats import Stored

#: Largest shift over the whole volume that is ignored, pixels, as in ``resample``.
_STRAIGHT = 0.25


def is_tilted(shape: Sequence[int], affine: NDArray[np.float64]) -> bool:
    """Whether the slices of a volume (k, j, i) are shifted against each other."""
    return bool(np.abs(_drift(affine) * (shape[0] - 1)).max() > _STRAIGHT)


def tilt_angle(affine: NDArray[np.float64]) -> float:
    """Angle in degrees between the normal of the slices and the direction from slice to slice."""
    step, normal = affine[:3, 2], _right_angles(affine)[:3, 2]
    return float(np.degrees(np.arccos(min(1.0, float(np.linalg.norm(normal) / np.linalg.norm(step))))))


def upright(stored: Stored) -> Stored:
    """Volume with perpendicular axes: each slice shifted to its position, on larger planes.

    Args:
        stored: volume (k, j, i) with one value per voxel.

    Returns:
        Volume of the same type; voxels outside of the slices have the smallest value.
    """
    if not is_tilted(stored.shape, stored.affine):
        return replace(stored, affine=_right_angles(stored.affine))
    pixels, drift = stored.pixels, _drift(stored.affine)
    first, (_, rows, columns) = _extent(stored.shape, drift)
    darkest = pixels.min() if pixels.size else 0
    moved = np.empty((stored.shape[0], rows, columns), pixels.dtype)
    for k, plane in enumerate(pixels):
        offset = first[::-1] - drift[::-1] * k  # rows come first in arrays
        moved[k] = ndimage.affine_transform(
            plane, np.ones(2), np.round(offset, 6), output_shape=(rows, columns), order=1, cval=darkest
        )
    return Stored(moved, moved.shape, upright_geometry(stored.shape, stored.affine)[1], notes=stored.notes)


def upright_geometry(
    shape: Sequence[int], affine: NDArray[np.float64]
) -> tuple[tuple[int, int, int], NDArray[np.float64]]:
    """Shape (k, j, i) and affine of the volume that ``upright`` makes of a tilted one."""
    first, planes = _extent(shape, _drift(affine))
    straight = _right_angles(affine)
    straight[:3, 3] = (affine @ [first[0], first[1], 0, 1])[:3]
    return planes, straight


def _extent(shape: Sequence[int], drift: NDArray[np.float64]) -> tuple[NDArray[np.int64], tuple[int, int, int]]:
    """Index (i, j) of the first pixel of planes on which all slices have place, and the shape (k, j, i)."""
    last = shape[0] - 1
    first = np.floor(np.minimum(0, drift * last)).astype(np.int64)
    end = np.ceil(np.maximum(0, drift * last)).astype(np.int64)
    return first, (shape[0], int(shape[1] + end[1] - first[1]), int(shape[2] + end[0] - first[0]))


def _drift(affine: NDArray[np.float64]) -> NDArray[np.float64]:
    """Shift of each slice against the previous one, in pixels of the plane, float64 (2,): i, j."""
    axes = affine[:3, :3]
    lengths = np.linalg.norm(axes, axis=0)
    return np.array([axes[:, 2] @ axes[:, axis] / lengths[axis] ** 2 for axis in (0, 1)])


def _right_angles(affine: NDArray[np.float64]) -> NDArray[np.float64]:
    """Affine with its third axis along the normal of the slices."""
    affine = np.array(affine, dtype=float)
    normal = np.cross(affine[:3, 0], affine[:3, 1])
    normal /= np.linalg.norm(normal)
    affine[:3, 2] = normal * (normal @ affine[:3, 2])
    return affine
