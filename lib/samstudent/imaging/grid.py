"""Grid of a file: geometry of its pixels, and conversion between file arrays and canonical arrays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from numpy.typing import NDArray

from samstudent.errors import UserError

#: From the patient coordinates of DICOM, NRRD and ITK (LPS) to those of NIfTI (RAS), and back.
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


def has_inverse(affine: NDArray[Any]) -> bool:
    """Whether a (4, 4) affine can be inverted, in any unit: finite, and no axis degenerate."""
    lengths = np.linalg.norm(affine[:3, :3], axis=0)
    if not np.isfinite(affine).all() or not lengths.all():
        return False
    return bool(abs(np.linalg.det(affine[:3, :3] / lengths)) > 1e-6)


@dataclass(frozen=True, eq=False)
class Grid:
    """Geometry of a file's pixels.

    Attributes:
        shape: the file's array shape, slowest axis first, as (j, i) or (k, j, i); singleton axes are kept.
        affine: float64 (4, 4), file index (i, j, k) -> patient coordinates RAS in mm. Files without geometry (PNG,
            JPEG) have the default of ITK and 3D Slicer: spacing 1, axes to the left and to the back.
        dropped: the axis of ``shape`` that the canonical 2D array does not have; None: no such axis.
        nifti: header of a NIfTI source, so that written files keep both its transforms and their codes.
        orientation: orientation tag of a PNG, JPEG or TIFF, 1 to 8; this is the grid of the upright image.
        itk: affine by which ITK, and with it 3D Slicer, places the file; None: the same.
        others: further affines by which some reader places the file (the other one of a NIfTI header; without
            conversion to mm). A label may have the geometry of any reader.
    """

    shape: tuple[int, ...]
    affine: NDArray[Any]
    dropped: int | None = None
    nifti: Any = field(default=None, repr=False)
    orientation: int = 1
    itk: NDArray[Any] | None = field(default=None, repr=False)
    others: tuple[NDArray[Any], ...] = field(default=(), repr=False)

    @classmethod
    def of(
        cls,
        shape: Sequence[int],
        affine: NDArray[Any],
        nifti: Any = None,
        path: Path | None = None,
        *,
        itk: NDArray[Any] | None = None,
        others: tuple[NDArray[Any], ...] = (),
    ) -> Grid:
        """Grid of a file's array; an array with a singleton axis counts as 2D.

        Args:
            shape: two or three axes, slowest first.
            affine: (4, 4), file index (i, j, k) -> RAS mm.
            nifti: header of a NIfTI source.
            path: for the error.
            itk: (4, 4), affine by which ITK places the file; None: the same.
            others: further affines of the file.

        Raises:
            UserError: the number of axes is neither 2 nor 3, an axis is empty, or the affine cannot be inverted.
        """
        shape = tuple(int(n) for n in shape)
        if len(shape) not in (2, 3) or 0 in shape:
            raise UserError(f"{path}: a case is an image or a volume, not an array of shape {shape}")
        affine = np.array(affine, dtype=np.float64)
        if not has_inverse(affine):
            raise UserError(f"{path}: its geometry cannot be used, the affine has no inverse: {affine.tolist()}")
        singletons = [axis for axis, size in enumerate(shape) if size == 1]
        # The slowest singleton: (1, 1, W) is one slice with one row.
        dropped = singletons[0] if len(shape) == 3 and singletons else None
        return cls(shape, affine, dropped, nifti, itk=itk, others=others)

    @property
    def itk_affine(self) -> NDArray[Any]:
        """(4, 4), index (i, j, k) -> RAS mm, for files that ITK reads."""
        return self.affine if self.itk is None else self.itk

    @property
    def dimension(self) -> int:
        """2 or 3."""
        return len(self._axes)

    @property
    def spatial_shape(self) -> tuple[int, ...]:
        """Shape of canonical arrays: (y, x) or (z, y, x)."""
        return tuple(self.shape[axis] for axis in self._axes)

    @property
    def spacing(self) -> tuple[float, ...]:
        """Distance between pixel centres in mm, in the order of canonical arrays."""
        lengths = np.linalg.norm(self.affine[:3, :3], axis=0)
        return tuple(float(lengths[len(self.shape) - 1 - axis]) for axis in self._axes)

    @cached_property
    def _orientation(self) -> NDArray[Any]:
        """(3, 2): for file axis i, j, k its canonical axis x, y, z, and 1 or -1 for its direction."""
        orientations: Any = nibabel.orientations
        return np.asarray(orientations.io_orientation(self.affine)).astype(int)

    @cached_property
    def _axes(self) -> tuple[int, ...]:
        """For each axis of canonical arrays its axis in file arrays."""
        if len(self.shape) == 2 or self.dropped is not None:
            # Radiographs and photographs have no canonical orientation: they keep the one in which they are displayed.
            return tuple(axis for axis in range(len(self.shape)) if axis != self.dropped)
        file_axis_of = np.argsort(self._orientation[:, 0])
        return tuple(2 - int(file_axis_of[2 - axis]) for axis in range(3))

    @cached_property
    def _flipped(self) -> tuple[bool, ...]:
        """For each axis of canonical arrays whether its direction is opposite to the file axis."""
        if self.dimension == 2:
            return (False, False)
        return tuple(bool(self._orientation[2 - axis, 1] < 0) for axis in self._axes)

    def from_file(self, array: NDArray[Any]) -> NDArray[Any]:
        """File array to canonical array, contiguous: torch accepts no negative strides.

        Args:
            array: (*lead, *shape), any number of leading axes.

        Raises:
            UserError: the trailing axes are not this grid's ``shape``.
        """
        self._check(array, self.shape)
        lead = array.ndim - len(self.shape)
        if self.dropped is not None:
            array = np.squeeze(array, axis=lead + self.dropped)
        axes = sorted(self._axes)
        order = [lead + axes.index(axis) for axis in self._axes]
        return np.ascontiguousarray(self._flip(array.transpose([*range(lead), *order])))

    def to_file(self, array: NDArray[Any]) -> NDArray[Any]:
        """Canonical array to file array, the reverse of ``from_file``, as a view.

        Args:
            array: (*lead, *spatial_shape), any number of leading axes.

        Raises:
            UserError: the trailing axes are not this grid's ``spatial_shape``.
        """
        self._check(array, self.spatial_shape)
        lead = array.ndim - self.dimension
        order = [lead + int(position) for position in np.argsort(self._axes)]
        array = self._flip(array).transpose([*range(lead), *order])
        return array if self.dropped is None else np.expand_dims(array, lead + self.dropped)

    def index_from_file(self, ijk: Sequence[float]) -> tuple[float, ...]:
        """A client's point as canonical array index.

        Args:
            ijk: index base 0, in the file's own axes (i is the fastest); for a 2D case i, j or, as Slicer sends it,
                i, j, k.

        Returns:
            (y, x) or (z, y, x), pixel centres at integers.

        Raises:
            UserError: a wrong number of coordinates.
        """
        point = [float(value) for value in ijk]
        if self.dimension == 2 and len(point) == 2:
            return point[1], point[0]
        if len(point) != 3:
            raise UserError(f"point {list(ijk)}: expected {'i, j or ' if self.dimension == 2 else ''}i, j, k")
        by_axis = point[: len(self.shape)][::-1]
        return tuple(
            self.shape[axis] - 1 - by_axis[axis] if flipped else by_axis[axis]
            for axis, flipped in zip(self._axes, self._flipped, strict=True)
        )

    def _flip(self, array: NDArray[Any]) -> NDArray[Any]:
        axes = [axis for axis, flipped in enumerate(self._flipped, -self.dimension) if flipped]
        return np.flip(array, axes)

    def _check(self, array: NDArray[Any], shape: tuple[int, ...]) -> None:
        if array.shape[max(array.ndim - len(shape), 0) :] != shape:
            raise UserError(f"an array of shape {array.shape} does not end with this grid's {shape}")
