"""NIfTI files with arbitrary headers, which nibabel cannot write."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from samstudent.imaging.grid import LPS_TO_RAS


def save_raw_nifti(
    path: Path,
    values: NDArray[Any],
    sform: NDArray[Any],
    qform: NDArray[Any],
    *,
    codes: tuple[int, int] = (1, 1),
    unit: int = 2,
    order: str = "<",
    slope: float = 1.0,
    **fields: Any,
) -> Path:
    """One NIfTI-1 file.

    Args:
        path: packed where it ends with .gz.
        values: (k, j, i) or (j, i).
        sform, qform: (4, 4), index (i, j, k) -> RAS in the file's unit; the qform has no shear.
        codes: of sform and qform.
        unit: code of ``xyzt_units``.
        order: of bytes.
        slope: ``scl_slope``.
        fields: further fields of the header, as they are.
    """
    header: Any = nibabel.Nifti1Header(endianness=order)
    header.set_data_shape(values.T.shape)
    header.set_data_dtype(values.dtype.newbyteorder(order))
    header.set_qform(qform, 1)
    header.set_sform(sform, 1)
    header["sform_code"], header["qform_code"] = codes
    header["xyzt_units"], header["vox_offset"], header["magic"] = unit, 352, b"n+1"
    header["scl_slope"], header["scl_inter"] = slope, 0
    for name, value in fields.items():
        header[name] = value
    content = header.binaryblock + bytes(4) + values.astype(values.dtype.newbyteorder(order)).tobytes()
    path.write_bytes(gzip.compress(content) if path.name.lower().endswith(".gz") else content)
    return path


def place_by_itk(path: Path) -> NDArray[Any]:
    """(4, 4), index (i, j, k) -> RAS mm, of a volume as SimpleITK reads it."""
    image = sitk.ReadImage(str(path))
    corners = [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1)]
    origin, *ends = (np.array(image.TransformContinuousIndexToPhysicalPoint(corner)) for corner in corners)
    affine = np.eye(4)
    affine[:3, :3] = np.column_stack([end - origin for end in ends])
    affine[:3, 3] = origin
    return np.asarray(LPS_TO_RAS @ affine)
