"""Label arrays on the image's grid: as they are where the grids are one, through space where they are not."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from samstudent.errors import UserError
from samstudent.formats import Stored
from samstudent.geometry import LPS_TO_RAS, Grid
from samstudent.orientation import swaps_axes

#: Grids whose corners differ by less than this share of a pixel are one: headers round their numbers.
_SAME = 0.25


def to_grid(layers: NDArray[Any], stored: Stored, grid: Grid, path: Path) -> NDArray[Any]:
    """Label values on the image's canonical grid.

    A label of the image's shape is taken pixel by pixel, unless its geometry says that it is the same box with axes
    flipped or swapped (another tool reoriented it). It and labels of other shapes (cropped, as they come back from
    DICOM SEG) are resampled: each pixel takes the value of the nearest pixel of the label in space, 0 outside of it.

    Args:
        layers: (layers, *stored.shape), file order.
        stored: the label file, for its geometry.
        grid: the image's.
        path: the label file, for errors.

    Returns:
        (layers, *grid.spatial_shape), the label's data type.

    Raises:
        UserError: shapes differ and nothing says where the label lies, it is a volume that lies elsewhere, or it was
            drawn on the image as it is stored, not upright.
    """
    _refuse_unturned(stored, grid, path)
    if _same_shape(stored.shape, grid):
        trusted = stored.has_geometry and _is_coded(grid)
        if not trusted or _corner_distances(stored, grid).diagonal().max() < _SAME:
            return grid.from_file(layers.reshape(len(layers), *grid.shape))
        if _corner_distances(stored, grid).min(axis=1).max() > _SAME:
            if grid.dimension == 2:  # Tools rarely keep the geometry of 2D images, and pixels cannot be mistaken.
                return grid.from_file(layers.reshape(len(layers), *grid.shape))
            raise UserError(f"{path}: has the image's shape {grid.shape} but lies elsewhere: {_both(stored, grid)}")
    elif layers[0].size == 1 and not layers.any():
        # How Slicer stores a segmentation in which nothing is segmented.
        return np.zeros((len(layers), *grid.spatial_shape), dtype=layers.dtype)
    elif not _says_where(stored, grid):
        raise UserError(f"{path}: label of shape {stored.shape} for an image of shape {grid.shape}")
    result = _nearest(layers, stored, grid)
    if layers.any() and not result.any():
        raise UserError(
            f"{path}: label of shape {stored.shape} lies outside the image of shape {grid.shape}: {_both(stored, grid)}"
        )
    return grid.from_file(result)


def _refuse_unturned(stored: Stored, grid: Grid, path: Path) -> None:
    """Of an image that lies on its side in its file: a label of that shape, whatever geometry it claims."""
    drawn, shown = ([n for n in shape if n > 1] for shape in (stored.shape, grid.shape))
    if swaps_axes(grid.orientation) and drawn != shown and drawn == shown[::-1]:
        raise UserError(
            f"{path}: label of shape {tuple(drawn)} for an image of shape {tuple(shown)}: the image has orientation"
            f" {grid.orientation} (EXIF or TIFF tag) and is shown upright; the label must be drawn on it upright"
        )


def _same_shape(shape: tuple[int, ...], grid: Grid) -> bool:
    """Whether the arrays have the same axes, but for the slice axis of a 2D case."""
    return shape == grid.shape or (
        grid.dimension == 2 and [n for n in shape if n > 1] == [n for n in grid.spatial_shape if n > 1]
    )


def _is_coded(grid: Grid) -> bool:
    """Whether the affine means anything; NIfTI without codes only has an assumed one."""
    return grid.nifti is None or bool(int(grid.nifti["sform_code"]) or int(grid.nifti["qform_code"]))


def _says_where(stored: Stored, grid: Grid) -> bool:
    """Whether the label's place can be told from its geometry.

    For images without geometry clients assume ITK's default, so a label with an offset is a part of it; one that has
    the default itself may be of any size for any reason.
    """
    default = any(np.allclose(stored.affine, affine) for affine in (LPS_TO_RAS, np.eye(4)))
    return stored.has_geometry and _is_coded(grid) and not (default and len(grid.shape) == 2)


def _nearest(layers: NDArray[Any], stored: Stored, grid: Grid) -> NDArray[Any]:
    """(layers, *grid.shape) by nearest neighbour, 0 beyond half a pixel outside of the label."""
    image_to_label = np.linalg.inv(stored.affine) @ grid.affine
    # Arrays are k, j, i; affines i, j, k. Rounded, so that a flip of the same grid lands on indices.
    matrix = np.round(image_to_label[:3, :3][::-1, ::-1], 9)
    offset = np.round(image_to_label[:3, 3][::-1], 6)
    shape = _three(grid.shape)
    moved = [
        ndimage.affine_transform(layer, matrix, offset, output_shape=shape, order=0, mode="grid-constant", cval=0)
        for layer in layers.reshape(len(layers), *_three(stored.shape))
    ]
    result: NDArray[Any] = np.stack(moved).reshape(len(layers), *grid.shape)
    return result


def _three(shape: tuple[int, ...]) -> tuple[int, ...]:
    return (1,) * (3 - len(shape)) + shape


def _corners(shape: tuple[int, ...], affine: NDArray[Any]) -> NDArray[Any]:
    """(8, 3) RAS mm of the outermost pixel centres, in the order of the array's axes."""
    index = np.array([(*corner[::-1], 1.0) for corner in product(*[(0, size - 1) for size in _three(shape)])])
    corners: NDArray[Any] = (index @ affine.T)[:, :3]
    return corners


def _corner_distances(stored: Stored, grid: Grid) -> NDArray[Any]:
    """(8, 8) from each corner of the image to each of the label, in pixels of the image."""
    ours, theirs = _corners(grid.shape, grid.affine), _corners(stored.shape, stored.affine)
    distances: NDArray[Any] = np.linalg.norm(ours[:, None] - theirs[None], axis=2) / min(grid.spacing)
    return distances


def _both(stored: Stored, grid: Grid) -> str:
    ours, theirs = (np.round(affine[:3], 3).tolist() for affine in (grid.affine, stored.affine))
    return f"its affine is {theirs}, the image's {ours}"
