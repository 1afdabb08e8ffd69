"""NIfTI files: pixels, units, and the transforms by which different readers place them.

A NIfTI header can hold two transforms, sform and qform, and need not hold the same place in both. nibabel takes the
sform where its code is set, and counts in the file's own unit. ITK, and with it 3D Slicer, converts to mm and takes the
qform where its code is set, unless the sform's code is 1 and the sform is a rotation with the spacing of ``pixdim``.
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
#: Of an image with two transforms, for people.
_ELSEWHERE = (
    "its sform and qform differ: ITK and 3D Slicer see it at another place than nibabel; labels are taken at either,"
    " and what is written as NRRD lies where ITK sees it"
)


def read_nifti(path: Path) -> Stored:
    """NIfTI-1 or NIfTI-2 in one file, packed with gzip or not, whatever its name says.

    nibabel reads the pixels: it keeps sheared transforms and refuses truncated files. ``Stored.affine`` is where it
    sees the file, in mm; a transform that has no inverse is passed over for the other one.

    Raises:
        UserError: cannot be read; Analyze, or pixels in another file; complex; more than three axes; all of its coded
            transforms are unusable, or without any its voxel sizes.
    """
    check_nifti_header(path)
    with decoding(path, "NIfTI"), unpacked(path) as file:
        image = _open(path, file)
        shape = tuple(int(n) for n in image.shape)
        stored = image.get_data_dtype()
        if stored.kind == "c":
            raise UserError(f"{path}: holds complex numbers; expected their magnitude")
        check_size(path, shape, bytes_each=stored.itemsize)
        check_holds(path, math.prod(shape) * stored.itemsize, packed=is_gzip(path))
        pixels = np.asanyarray(image.dataobj)
    if pixels.dtype.names:  # RGB24 and RGBA32 are structured types.
        pixels = np.stack([pixels[name] for name in pixels.dtype.names], axis=-1)
        spatial, channels = shape, pixels.shape[-1:]
    elif len(shape) == 5 and shape[3] == 1 and shape[4] in (3, 4):  # How ITK stores colour as a vector.
        spatial, channels = shape[:3], shape[4:]
    else:
        spatial, channels = shape, ()
    while len(spatial) > 3 and spatial[-1] == 1:
        spatial = spatial[:-1]
    if len(spatial) not in (2, 3):
        raise UserError(f"{path}: has {len(spatial)} axes {spatial}; expected one image or one volume")
    pixels = pixels.reshape(*spatial, *channels)
    axes = list(range(len(spatial)))[::-1] + list(range(len(spatial), pixels.ndim))
    header: Any = image.header
    affines, itk = _affines(header, path), _seen_by_itk(path, header)
    return Stored(
        pixels.transpose(axes),
        spatial[::-1],
        affines[0],
        has_geometry=_is_coded(header),
        unplaced="its sform and qform codes are 0",
        nifti=header.copy(),
        itk=itk,
        others=affines[1:],
        notes=(_ELSEWHERE,) if itk is not None and _is_coded(header) and _differ(itk, affines[0], spatial) else (),
    )


def _differ(one: NDArray[Any], other: NDArray[Any], shape: tuple[int, ...]) -> bool:
    """Whether a corner lies more than a quarter of a voxel apart. ``shape``: (i, j) or (i, j, k)."""
    ends = np.array([*product(*((0, size - 1) for size in (*shape, 1)[:3]))])
    apart = np.linalg.norm((np.column_stack([ends, np.ones(len(ends))]) @ (one - other).T)[:, :3], axis=1)
    return bool(apart.max() > 0.25 * np.linalg.norm(other[:3, :3], axis=0).min())


def _open(path: Path, file: BufferedIOBase) -> Any:
    """nibabel's image of a file that may have any name."""
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
    """Where readers see the file that follow nibabel, index (i, j, k) -> RAS: the first one in mm is nibabel's.

    Behind it the other transform, and both in the file's own unit where that is not mm.
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


def _seen_by_itk(path: Path, header: Any) -> NDArray[Any] | None:
    """Where ITK sees the file, index (i, j, k) -> RAS mm; None where it refuses to.

    ITK itself is asked, of the header alone: what counts as a rotation, and which codes count, changes with its version
    (5.4: sform where it is coded and a rotation, and either its code is 1 or the qform's is 0; else the qform where it
    is coded; without codes spacing and no more). It refuses NIfTI-2, and a sform with shear and no qform beside it.
    """
    rows = np.stack([header[f"srow_{axis}"] for axis in "xyz"])
    if isinstance(header, nibabel.Nifti2Header) or (int(header["sform_code"]) and not np.isfinite(rows).all()):
        return None  # Refused with noise on standard error; such a sform it would take, and see all voxels nowhere.
    sitk.ProcessObject.SetGlobalWarningDisplay(False)  # type: ignore[no-untyped-call]  # It names scales, and no remedy.
    try:
        reader = itk_reader(path, "NiftiImageIO")
        reader.ReadImageInformation()
    except RuntimeError:
        return None
    affine = itk_affine(reader)
    return affine if has_inverse(affine) else None
