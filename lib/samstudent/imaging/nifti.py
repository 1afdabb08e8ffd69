"""NIfTI files: pixels, units, and the transforms by which different readers place them.

A NIfTI header can hold two transforms, sform and qform, which may differ. nibabel uses the sform if its code is set,
in the file's own unit. ITK, and with it 3D Slicer, converts to mm and uses the qform if its code is set,
unless the sform's code is 1 and the sform is a rotation with the spacing of ``pixdim``.
"""

from __future__ import annotations

import math
from io import BufferedIOBase
from itertools import product
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import SimpleITK as sitk
from nibabel.fileholders import FileHolder
from nibabel.spatialimages import HeaderDataError
from numpy.typing import NDArray

from samstudent.errors import UserError
from samstudent.imaging.formats import Stored, decoding, itk_affine, itk_reader
from samstudent.imaging.grid import has_inverse
from samstudent.imaging.size_checks import check_holds, check_nifti_header, check_size, is_gzip, unpacked

#: mm per unit, by the code of space in ``xyzt_units``: metre, mm, micrometre. Unknown counts as mm.
_UNITS = {1: 1000.0, 2: 1.0, 3: 0.001}
#: Note on an image with two different transforms.
_TWO_PLACES = (
    "its sform and qform differ: ITK and 3D Slicer place it differently than nibabel; labels may have either geometry,"
    " and NRRD is written with ITK's"
)


def read_nifti(path: Path, several: bool = False) -> Stored:
    """Read NIfTI-1 or NIfTI-2 in one file, with or without gzip, independent of its name.

    nibabel reads the pixels: it keeps sheared transforms and refuses truncated files. ``Stored.affine`` is nibabel's,
    in mm; if it has no inverse, the other transform is used.

    Args:
        path: the file.
        several: several volumes (a fourth axis), or vectors of any length, are channels.

    Raises:
        UserError: cannot be read; Analyze, or pixels in another file; complex; more than three axes; no coded transform
            is usable, or without a coded transform the voxel sizes are not.
    """
    check_nifti_header(path)
    with decoding(path, "NIfTI"), unpacked(path) as file:
        image = _open(path, file)
        shape = tuple(int(n) for n in image.shape)
        stored = image.get_data_dtype()
        if stored.kind == "c":
            raise UserError(f"{path}: contains complex numbers; expected their magnitude")
        check_size(path, shape, bytes_each=stored.itemsize)
        check_holds(path, math.prod(shape) * stored.itemsize, packed=is_gzip(path))
        pixels = np.asanyarray(image.dataobj)
    if pixels.dtype.names:  # RGB24 and RGBA32 are structured types.
        pixels = np.stack([pixels[name] for name in pixels.dtype.names], axis=-1)
        spatial, channels = shape, pixels.shape[-1:]
    elif len(shape) == 5 and shape[3] == 1 and (shape[4] in (3, 4) or several):  # How ITK stores vectors, and colours.
        spatial, channels = shape[:3], shape[4:]
    elif several and len(shape) == 4:
        spatial, channels = shape[:3], shape[3:]
    else:
        spatial, channels = shape, ()
    while len(spatial) > 3 and spatial[-1] == 1:
        spatial = spatial[:-1]
    if len(spatial) not in (2, 3):
        raise UserError(f"{path}: has {len(spatial)} axes {spatial}; expected one image or one volume")
    pixels = pixels.reshape(*spatial, *channels)
    axes = list(range(len(spatial)))[::-1] + list(range(len(spatial), pixels.ndim))
    header: Any = image.header
    affines, itk = _affines(header, path), _affine_of_itk(path, header)
    return Stored(
        pixels.transpose(axes),
        spatial[::-1],
        affines[0],
        has_geometry=_is_coded(header),
        unplaced="its sform and qform codes are 0",
        nifti=header.copy(),
        itk=itk,
        others=affines[1:],
        notes=(_TWO_PLACES,) if itk is not None and _is_coded(header) and _differ(itk, affines[0], spatial) else (),
    )


def _differ(one: NDArray[Any], other: NDArray[Any], shape: tuple[int, ...]) -> bool:
    """Whether two affines move a corner by more than a quarter of a voxel. ``shape``: (i, j) or (i, j, k)."""
    ends = np.array([*product(*((0, size - 1) for size in (*shape, 1)[:3]))])
    apart = np.linalg.norm((np.column_stack([ends, np.ones(len(ends))]) @ (one - other).T)[:, :3], axis=1)
    return bool(apart.max() > 0.25 * np.linalg.norm(other[:3, :3], axis=0).min())


def _open(path: Path, file: BufferedIOBase) -> Any:
    """Image of nibabel for a file with any name."""
    try:
        version2 = int.from_bytes(head := file.read(4), "little") == 540 or int.from_bytes(head, "big") == 540
        file.seek(0)
        kind: Any = nibabel.Nifti2Image if version2 else nibabel.Nifti1Image
        return kind.from_file_map({"image": FileHolder(fileobj=file)})
    except (HeaderDataError, ValueError) as error:
        raise UserError(f"{path}: its NIfTI header cannot be used: {error}") from error


def _is_coded(header: Any) -> bool:
    return bool(int(header["sform_code"]) or int(header["qform_code"]))


def _affines(header: Any, path: Path) -> tuple[NDArray[Any], ...]:
    """Affines, index (i, j, k) -> RAS, of readers like nibabel: first nibabel's in mm.

    Then the other transform, and both in the file's own unit if that is not mm.
    """
    scale = np.diag([*[_UNITS.get(int(header["xyzt_units"]) & 7, 1.0)] * 3, 1.0])
    if not _is_coded(header):
        base = scale @ np.asarray(header.get_base_affine())
        if not has_inverse(base):
            raise UserError(f"{path}: its voxel sizes (pixdim) cannot be used: {header['pixdim'][1:4].tolist()}")
        return (base,)
    found = []
    for code, transform in (("sform_code", header.get_sform), ("qform_code", header.get_qform)):
        try:
            affine = scale @ np.asarray(transform(), dtype=np.float64)
        except (HeaderDataError, ValueError):  # A quaternion that is no rotation.
            continue
        if int(header[code]) and has_inverse(affine):
            found.append(affine)
    if not found:
        codes = f"sform_code {int(header['sform_code'])}, qform_code {int(header['qform_code'])}"
        rows = np.stack([header[f"srow_{axis}"] for axis in "xyz"]).round(3).tolist()
        raise UserError(f"{path}: neither sform nor qform is set and has an inverse ({codes}, sform {rows})")
    own = [np.linalg.inv(scale) @ affine for affine in found] if scale[0, 0] != 1 else []
    return (*found, *own)


def _affine_of_itk(path: Path, header: Any) -> NDArray[Any] | None:
    """Affine by which ITK places the file, index (i, j, k) -> RAS mm; None: ITK cannot read it.

    ITK itself reads the header, because its rules change with its version (5.4: the sform if it is coded and a
    rotation, and either its code is 1 or the qform's is 0; else the qform if it is coded; without codes only spacing).
    It refuses NIfTI-2, and a sform with shear without a qform.
    """
    rows = np.stack([header[f"srow_{axis}"] for axis in "xyz"])
    if isinstance(header, nibabel.Nifti2Header) or (int(header["sform_code"]) and not np.isfinite(rows).all()):
        return None  # Refused with messages on standard error; ITK accepts a non-finite sform, with all voxels at NaN.
    sitk.ProcessObject.SetGlobalWarningDisplay(False)  # type: ignore[no-untyped-call]  # Warnings about scales, without a remedy.
    try:
        reader = itk_reader(path, "NiftiImageIO")
        reader.ReadImageInformation()
    except RuntimeError:
        return None
    affine = itk_affine(reader)
    return affine if has_inverse(affine) else None
