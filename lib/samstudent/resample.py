"""Label arrays on the image's grid: as they are where the grids are one, through space where they are not."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import numpy as np
from scipy import ndimage

from samstudent.errors import UserError
from samstudent.formats import Stored
from samstudent.geometry import Grid

#: Grids whose corners differ by less than this share of a pixel are one: headers round their numbers.
_SAME = 0.25


def to_grid(layers: np.ndarray, stored: Stored, grid: Grid, path: Path) -> np.ndarray:
    """Label values on the image's canonical grid.

    A label of the image's shape is taken pixel by pixel where it is 2D, has no geometry of its own, or lies where the image
    lies. Otherwise each pixel takes the value of the nearest pixel of the label in space, 0 outside of it (a label that
    came back from DICOM SEG is cropped; another tool may have stored the axes in another order).

    Args:
        layers: (layers, *stored.shape), file order.
        stored: the label file, for its geometry.
        grid: the image's.
        path: the label file, for errors.

    Returns:
        (layers, *grid.spatial_shape), the label's data type.

    Raises:
        UserError: shapes differ and nothing says where the label lies, or it lies elsewhere.
    """
    if _squeezed(stored.shape) == _squeezed(grid.shape):
        if grid.dimension == 2 or not stored.has_geometry or not _has_space(grid):
            return grid.from_file(layers.reshape(len(layers), *grid.shape))
        if _corner_offset(stored, grid) < _SAME:
            return grid.from_file(layers)
        if not _is_reordered(stored, grid):
            raise UserError(
                f"{path}: has the image's shape {grid.shape} but lies elsewhere: its affine is {_brief(stored.affine)},"
                f" the image's {_brief(grid.affine)}"
            )
    elif layers[0].size == 1 and not layers.any():
        # How Slicer stores a segmentation in which nothing is segmented.
        return np.zeros((len(layers), *grid.spatial_shape), dtype=layers.dtype)
    elif not stored.has_geometry or not _has_space(grid) or len(stored.shape) < 3 or len(grid.shape) < 3:
        raise UserError(f"{path}: label of shape {stored.shape} for an image of shape {grid.shape}")
    result = _nearest(layers, stored, grid)
    if layers.any() and not result.any():
        raise UserError(
            f"{path}: label of shape {stored.shape} lies outside the image of shape {grid.shape}: its affine is"
            f" {_brief(stored.affine)}, the image's {_brief(grid.affine)}"
        )
    return grid.from_file(result)


def _nearest(layers: np.ndarray, stored: Stored, grid: Grid) -> np.ndarray:
    """(layers, *grid.shape) by nearest neighbour, 0 beyond half a pixel outside of the label."""
    image_to_label = np.linalg.inv(stored.affine) @ grid.affine
    matrix = image_to_label[:3, :3][::-1, ::-1]  # Arrays are k, j, i; affines i, j, k.
    # A flip of the same grid must land on indices, not a rounding error beside the half.
    offset = np.round(image_to_label[:3, 3][::-1], 6)
    return np.stack(
        [
            ndimage.affine_transform(
                layer, np.round(matrix, 9), offset, output_shape=grid.shape, order=0, mode="grid-constant", cval=0
            )
            for layer in layers
        ]
    )


def _squeezed(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Shape without the slice axis of a 2D case: its slowest singleton."""
    if len(shape) == 3 and 1 in shape:
        axis = shape.index(1)
        return shape[:axis] + shape[axis + 1 :]
    return shape


def _has_space(grid: Grid) -> bool:
    """Whether the image's affine means anything: NIfTI without codes and files of two axes only have an assumed one."""
    coded = grid.nifti is None or bool(int(grid.nifti["sform_code"]) or int(grid.nifti["qform_code"]))
    return coded and len(grid.shape) == 3


def _corners(shape: tuple[int, ...], affine: np.ndarray) -> np.ndarray:
    """(8, 3) RAS mm of the outermost pixel centres, in the order of the array's axes."""
    index = np.array([(*corner[::-1], 1.0) for corner in product(*[(0, size - 1) for size in shape])])
    corners: np.ndarray = (index @ affine.T)[:, :3]
    return corners


def _corner_offset(stored: Stored, grid: Grid) -> float:
    """Largest distance of corresponding corners, in pixels of the image."""
    apart = _corners(stored.shape, stored.affine) - _corners(grid.shape, grid.affine)
    return float(np.linalg.norm(apart, axis=1).max() / min(grid.spacing))


def _is_reordered(stored: Stored, grid: Grid) -> bool:
    """Whether both are the same box of pixels, with axes flipped or swapped."""
    ours, theirs = _corners(grid.shape, grid.affine), _corners(stored.shape, stored.affine)
    nearest = np.linalg.norm(ours[:, None] - theirs[None], axis=2).min(axis=1)
    return bool(nearest.max() / min(grid.spacing) < _SAME)


def _brief(affine: np.ndarray) -> list[list[float]]:
    return [[round(float(v), 3) for v in row] for row in affine[:3]]
