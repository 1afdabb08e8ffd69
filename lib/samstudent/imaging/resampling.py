"""Label arrays on the image's grid: unchanged if the grids are equal, else resampled in space.

A file may have several affines, one for each kind of reader (``samstudent.imaging.nifti``), and label and image may
have been written by different ones. So all pairs of an affine of the image and one of the label are compared: the best
fit is used, and of equal fits that of equal readers.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from samstudent.errors import UserError
from samstudent.imaging.formats import Stored
from samstudent.imaging.grid import LPS_TO_RAS, Grid, has_inverse
from samstudent.imaging.orientation import swaps_axes

logger = logging.getLogger(__name__)

#: Largest distance of corners of equal grids, in pixels: headers round their numbers.
_SAME = 0.25


def to_grid(layers: NDArray[Any], stored: Stored, grid: Grid, path: Path) -> NDArray[Any]:
    """Label values on the image's canonical grid.

    A label with the image's shape is copied pixel by pixel, unless by its geometry it is the same box with flipped or
    swapped axes (reoriented by another tool). Such labels and those of other shapes (cropped, e.g. from DICOM SEG) are
    resampled: each pixel gets the value of the label's nearest pixel in space, 0 outside of the label.

    Args:
        layers: (layers, *stored.shape), file order.
        stored: the label file, for its geometry.
        grid: grid of the image.
        path: the label file, for errors.

    Returns:
        (layers, *grid.spatial_shape), the label's data type.

    Raises:
        UserError: shapes differ and the label has no geometry, a volume is at another place, or the label was drawn on
            the stored image, not on the upright one.
    """
    _refuse_unturned(stored, grid, path)
    fits = _fits(stored, grid, path)
    best = min(fits, key=lambda fit: fit.rank)
    if _same_shape(stored.shape, grid):
        has_geometry = stored.has_geometry and _is_coded(grid)
        if not has_geometry and _is_coded(grid) and grid.dimension == 3 and stored.unplaced:
            logger.warning(
                "%s: %s: read voxel by voxel on the grid of its image, which has the same size", path, stored.unplaced
            )
        if not has_geometry or best.equal:
            return grid.from_file(layers.reshape(len(layers), *grid.shape))
        if not best.same_box:
            if grid.dimension == 2:  # Tools rarely keep the geometry of 2D images, and equal shapes are unambiguous.
                return grid.from_file(layers.reshape(len(layers), *grid.shape))
            raise UserError(f"{path}: has the image's shape {grid.shape} but another place: {best}")
    elif layers[0].size == 1 and not layers.any():
        # An empty segmentation of Slicer.
        return np.zeros((len(layers), *grid.spatial_shape), dtype=layers.dtype)
    elif not _has_place(stored, grid, best):
        why = f"; {stored.unplaced}, so its place is not defined" if stored.unplaced else ""
        raise UserError(f"{path}: label of shape {stored.shape} for an image of shape {grid.shape}{why}")
    if any(fit.rank == best.rank and not np.allclose(fit.to_label, best.to_label, atol=_SAME) for fit in fits):
        logger.warning(
            "%s: its place on the image is ambiguous, because a sform and a qform differ; used: %s",
            path,
            best,
        )
    result = _nearest(layers, best.to_label, stored.shape, grid)
    if layers.any() and not result.any():
        raise UserError(f"{path}: label of shape {stored.shape} lies outside the image of shape {grid.shape}: {best}")
    return grid.from_file(result)


def _refuse_unturned(stored: Stored, grid: Grid, path: Path) -> None:
    """Refuse a label with the shape of the stored image if that is rotated by 90 degrees, whatever its geometry."""
    drawn, shown = ([n for n in shape if n > 1] for shape in (stored.shape, grid.shape))
    if swaps_axes(grid.orientation) and drawn != shown and drawn == shown[::-1]:
        raise UserError(
            f"{path}: label of shape {tuple(drawn)} for an image of shape {tuple(shown)}: the image has orientation"
            f" {grid.orientation} (EXIF or TIFF tag) and is shown upright; the label must be drawn on it upright"
        )


@dataclass(frozen=True, eq=False)
class _Fit:
    """Position of a label on an image, by one affine of each.

    Attributes:
        image, label: (4, 4), index (i, j, k) -> RAS mm.
        to_label: (4, 4), index of the image -> index of the label.
        equal: the grids are equal.
        same_box: they have the same corners, in any order.
        same_unit: voxel sizes differ by less than a factor of a thousand.
        same_voxels: the boxes meet, and voxels of one fall on voxels of the other.
        inside: share of the label's box inside of the image's, 0 to 1, to two digits.
    """

    image: NDArray[Any]
    label: NDArray[Any]
    to_label: NDArray[Any]
    equal: bool
    same_box: bool
    same_unit: bool
    same_voxels: bool
    inside: float

    @property
    def rank(self) -> tuple[bool, bool, bool, bool, float]:
        """Sort key; the best fit has the least."""
        return not self.equal, not self.same_box, not self.same_unit, not self.same_voxels, -self.inside

    def __str__(self) -> str:
        ours, theirs = (np.round(affine[:3], 3).tolist() for affine in (self.image, self.label))
        return f"its affine is {theirs}, the image's {ours}"


def _fits(stored: Stored, grid: Grid, path: Path) -> list[_Fit]:
    """Fits for all pairs of affines, those of equal readers first: ITK's, nibabel's, the others of both headers."""
    ours, theirs = [grid.itk_affine, grid.affine, *grid.others], [stored.itk_affine, stored.affine, *stored.others]
    if stored.nifti is not None and not int(stored.nifti["qform_code"]):  # ITK always sets it, nibabel never by itself.
        ours[:2], theirs[:2] = ours[1::-1], theirs[1::-1]
    if not all(map(has_inverse, theirs)):
        raise UserError(f"{path}: its geometry cannot be used, its affine has no inverse: {stored.affine.tolist()}")
    pairs = [*zip(ours, theirs, strict=False), *product(ours, theirs)]
    return [_fit(image, label, stored.shape, grid) for image, label in pairs]


def _fit(image: NDArray[Any], label: NDArray[Any], shape: tuple[int, ...], grid: Grid) -> _Fit:
    to_label: NDArray[Any] = np.linalg.inv(label) @ image
    same_shape = _same_shape(shape, grid)
    centres = _corners(grid.shape)
    lengths = np.linalg.norm(image[:3, :3], axis=0)[::-1][-len(grid.shape) :]
    spacing = min(length for length, size in zip(lengths, grid.shape, strict=True) if size > 1 or max(grid.shape) == 1)
    apart = (
        np.linalg.norm(((centres @ image.T)[:, None] - (_corners(shape) @ label.T)[None])[..., :3], axis=2) / spacing
    )
    box = _corners(shape, edge=0.5) @ np.linalg.inv(to_label).T[:, :3]
    low, high = box.min(axis=0), box.max(axis=0)
    common = np.minimum(high, np.array(_three(grid.shape)[::-1]) - 0.5) - np.maximum(low, -0.5)
    inside = float(np.prod(np.clip(common, 0, None)) / np.prod(high - low))
    found = (centres @ to_label.T)[:, :3]
    turned = np.round(to_label[:3, :3])
    on_voxels = np.abs(found - np.round(found)).max() < _SAME and (np.abs(turned).sum(axis=0) == 1).all()
    return _Fit(
        image,
        label,
        to_label,
        equal=bool(same_shape and apart.diagonal().max() < _SAME),
        same_box=bool(apart.min(axis=1).max() <= _SAME),
        same_unit=bool(abs(np.log10(abs(np.linalg.det(to_label[:3, :3])))) < 4.5),
        same_voxels=bool(on_voxels and abs(np.linalg.det(turned)) == 1 and inside > 0),
        inside=round(inside, 2),
    )


def _same_shape(shape: tuple[int, ...], grid: Grid) -> bool:
    """Whether the arrays have the same axes, but for the slice axis of a 2D case."""
    return shape == grid.shape or (
        grid.dimension == 2 and [n for n in shape if n > 1] == [n for n in grid.spatial_shape if n > 1]
    )


def _is_coded(grid: Grid) -> bool:
    """Whether the affine is defined; NIfTI without codes only has an assumed one."""
    return grid.nifti is None or bool(int(grid.nifti["sform_code"]) or int(grid.nifti["qform_code"]))


def _has_place(stored: Stored, grid: Grid, best: _Fit) -> bool:
    """Whether the label's geometry defines its place on the image.

    For images without geometry clients assume ITK's default, so a label with an offset, or with the image's voxels, is
    a part of the image; a label with the default itself may have its size for any reason.
    """
    if not stored.has_geometry:
        return False
    if not _is_coded(grid):
        return best.same_voxels
    default = any(np.allclose(stored.affine, affine) for affine in (LPS_TO_RAS, np.eye(4)))
    return not (default and len(grid.shape) == 2)


def _nearest(layers: NDArray[Any], to_label: NDArray[Any], shape: tuple[int, ...], grid: Grid) -> NDArray[Any]:
    """(layers, *grid.shape) by nearest neighbour, 0 beyond half a pixel outside of the label of this shape."""
    # Arrays are k, j, i; affines i, j, k. Rounded, so that a flip of the same grid lands on indices.
    matrix = np.round(to_label[:3, :3][::-1, ::-1], 9)
    offset = np.round(to_label[:3, 3][::-1], 6)
    moved = [
        ndimage.affine_transform(
            layer, matrix, offset, output_shape=_three(grid.shape), order=0, mode="grid-constant", cval=0
        )
        for layer in layers.reshape(len(layers), *_three(shape))
    ]
    result: NDArray[Any] = np.stack(moved).reshape(len(layers), *grid.shape)
    return result


def _three(shape: tuple[int, ...]) -> tuple[int, ...]:
    return (1,) * (3 - len(shape)) + shape


def _corners(shape: tuple[int, ...], edge: float = 0.0) -> NDArray[Any]:
    """(8, 4), homogeneous indices (i, j, k, 1) of the outermost pixel centres, or with ``edge`` 0.5 of their edges."""
    ends = [(-edge, size - 1 + edge) for size in _three(shape)]
    return np.array([(*corner[::-1], 1.0) for corner in product(*ends)])
