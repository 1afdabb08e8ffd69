"""Registered volumes on one grid: channels of a case that were stored with different voxels."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from samstudent.errors import UserError
from samstudent.imaging.grid import Grid

#: Largest distance of corners of equal grids, in voxels: headers round their numbers.
_SAME = 0.25
#: Least share of the first channel's volume that another one must cover.
_LEAST_COVERED = 0.5


def require_registered(own: Grid, first: Grid, path: Path) -> None:
    """Check that an image can be a channel beside the first one.

    Args:
        own: grid of the image.
        first: grid of the first channel.
        path: the image, for errors.

    Raises:
        UserError: 2D images of different sizes; a volume elsewhere.
    """
    if own.dimension != first.dimension or (own.dimension == 2 and own.spatial_shape != first.spatial_shape):
        raise UserError(
            f"{path}: has the size {own.spatial_shape}, the first channel {first.spatial_shape}; channels of an image"
            " must be registered"
        )
    covered = 1.0 if own.dimension == 2 else _covered(np.linalg.inv(own.affine) @ first.affine, first.shape, own.shape)
    if covered < _LEAST_COVERED:
        raise UserError(
            f"{path}: covers {covered:.0%} of the first channel's volume; channels must be registered and in one space"
        )


def on_grid(pixels: NDArray[Any], own: Grid, grid: Grid) -> NDArray[Any]:
    """Pixels of a volume on another grid in the same space; unchanged if the grids are equal, and in 2D.

    Linear interpolation by position in space; outside of the image its smallest value.

    Args:
        pixels: float32 (1, *own.spatial_shape), canonical.
        own: grid of the image.
        grid: the other grid.

    Returns:
        float32 (1, *grid.spatial_shape), canonical.
    """
    if own.dimension == 2 or is_same_grid(own, grid):
        return pixels
    to_own = np.linalg.inv(own.affine) @ grid.affine
    # Arrays are (k, j, i).
    moved = ndimage.affine_transform(
        own.to_file(pixels)[0],
        to_own[:3, :3][::-1, ::-1],
        to_own[:3, 3][::-1],
        output_shape=grid.shape,
        order=1,
        # Not "constant", for which a coordinate of -1e-15 lies outside of the image.
        mode="grid-constant",
        cval=float(pixels.min()),
    )
    return grid.from_file(moved[None].astype(np.float32))


def is_same_grid(one: Grid, other: Grid) -> bool:
    """Whether two grids have the same shape and position."""
    if one.shape != other.shape:
        return False
    ends = _points(one.shape, 2)
    apart = np.linalg.norm(((one.affine - other.affine) @ ends)[:3], axis=0)
    return bool(apart.max() <= _SAME * np.linalg.norm(other.affine[:3, :3], axis=0).min())


def _covered(to_own: NDArray[Any], shape: tuple[int, ...], own: tuple[int, ...]) -> float:
    """Share of a grid that lies inside of another one."""
    index = (to_own @ _points(shape, 9))[:3]
    last = np.array(own[::-1])[:, None] - 1
    return float(((index >= -0.5) & (index <= last + 0.5)).all(axis=0).mean())


def _points(shape: tuple[int, ...], each: int) -> NDArray[np.float64]:
    """(4, each^3) indices i, j, k, 1 evenly distributed over a grid (k, j, i), with its corners."""
    axes = [np.linspace(0, size - 1, each) for size in shape[::-1]]
    return np.array([*map(list, zip(*product(*axes), strict=True)), [1.0] * each ** len(axes)])
