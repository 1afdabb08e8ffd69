"""Writer of label files: masks of a task's structures in the formats of Slicer, OHIF and others."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image

from samstudent.errors import UserError
from samstudent.imaging import seg_nrrd
from samstudent.imaging.grid import Grid
from samstudent.imaging.structure_names import LABEL_EXTENSIONS
from samstudent.task import Task
from samstudent.util.files import atomic_path

_NIFTI_GEOMETRY = (
    "pixdim", "xyzt_units", "qform_code", "quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z",
    "sform_code", "srow_x", "srow_y", "srow_z",
)  # fmt: skip


def write_masks(
    path: str | Path,
    masks: NDArray[Any],
    task: Task,
    grid: Grid,
    *,
    marked: Mapping[str, NDArray[Any]] | None = None,
    compress: bool = True,
) -> None:
    """Write masks on the file grid of their image, in the format of the path's extension.

    A 2D case becomes one slice in NRRD and NIfTI, as in Slicer and OHIF. NRRD has the geometry by which ITK places the
    image; NIfTI has all transforms of a NIfTI source.

    Args:
        path: .seg.nrrd keeps overlaps; .nrrd, .nii.gz, .nii, .png and .tif hold ``label_map``; written atomically.
        masks: bool (S, *spatial), canonical.
        task: names and values of the structures.
        grid: grid of the image.
        marked: prefix (``structure_names.IGNORE``, ``REJECTED``) -> bool (S, *spatial), further segments whose names
            have this prefix, as ``labels.read_ignore`` and ``read_rejected`` return them; only for .seg.nrrd.
        compress: False: raw NRRD, as OHIF needs it. The other formats follow their extension.

    Raises:
        UserError: another extension, a stack of another shape, a volume as PNG or TIFF, ``marked`` in a format without
            segment names.
    """
    path, masks = Path(path), np.asarray(masks, dtype=bool)
    expected = (len(task.names), *grid.spatial_shape)
    marked = marked or {}
    for stack in (masks, *marked.values()):
        if stack.shape != expected:
            raise UserError(f"{path}: masks of shape {stack.shape}, but task and image need {expected}")
    extension = _extension(path)
    if marked and extension != ".seg.nrrd":
        raise UserError(f"{path}: only .seg.nrrd can hold regions to ignore or rejected masks")
    if extension == ".seg.nrrd":
        with atomic_path(path) as temporary:
            _write_segments(temporary, masks, task, grid, marked, compress)
    else:
        write_values(path, label_map(masks), grid, compress=compress)


def write_values(path: str | Path, values: NDArray[Any], grid: Grid, *, compress: bool = True) -> None:
    """Write values of pixels on the file grid of their image: a label map, or intensities of one channel.

    Args:
        path: .nrrd, .nii.gz, .nii, .png or .tif; written atomically.
        values: (*spatial), canonical, of a type that the format has: PNG uint8 and uint16, TIFF also uint32.
        grid: grid of the image; places the values as ``write_masks`` does.
        compress: as in ``write_masks``.

    Raises:
        UserError: another extension, or a volume as PNG or TIFF.
    """
    path = Path(path)
    extension = _extension(path)
    with atomic_path(path) as temporary:
        if extension in (".nii", ".nii.gz"):
            _write_nifti(temporary, values, grid)
        elif extension == ".nrrd":
            seg_nrrd.write_nrrd(temporary, _volume(values, grid), grid.itk_affine, {}, compress)
        elif extension == ".seg.nrrd" or grid.dimension == 3:
            raise UserError(f"{path}: a volume needs .seg.nrrd, .nrrd or .nii.gz")
        elif extension == ".png":
            Image.fromarray(values).save(temporary, format="PNG")
        else:
            tifffile.imwrite(temporary, values, compression="zlib")


def label_map(masks: NDArray[Any]) -> NDArray[Any]:
    """Label map of all structures: uint8 (*spatial), 0 background, i + 1 for ``masks[i]``.

    Where structures overlap the smaller one has the pixel, so that a small bone in front of a large one is kept.
    """
    values = np.zeros(masks.shape[1:], dtype=np.uint8)
    sizes = masks.reshape(len(masks), -1).sum(axis=1)
    for index in np.argsort(-sizes, kind="stable"):
        values[masks[index]] = index + 1
    return values


def _extension(path: Path) -> str:
    name = path.name.lower()
    for extension in (".seg.nrrd", ".nrrd", ".nii.gz", ".nii", ".png", ".tiff", ".tif"):
        if name.endswith(extension):
            return extension
    raise UserError(f"{path}: labels are written as {LABEL_EXTENSIONS}")


def _volume(array: NDArray[Any], grid: Grid) -> NDArray[Any]:
    """(*lead, *spatial) on the file's grid, always with three axes (k, j, i)."""
    array = grid.to_file(array)
    return np.expand_dims(array, -3) if len(grid.shape) == 2 else array


def _write_segments(
    path: Path, masks: NDArray[Any], task: Task, grid: Grid, marked: Mapping[str, NDArray[Any]], compress: bool
) -> None:
    """Write .seg.nrrd. Arguments are those of ``write_masks``."""
    layers = seg_nrrd.into_layers(list(masks))
    segments = [seg_nrrd.Segment(n, layer, v) for (n, v), layer in zip(task.structures.items(), layers, strict=True)]
    for prefix, extra in marked.items():
        # In layers of their own, so that programs without this convention find the structures in the same layers.
        drawn = [index for index in range(len(extra)) if extra[index].any()]
        first = max(segment.layer for segment in segments) + 1
        segments += [
            seg_nrrd.Segment(prefix + task.names[index], first + layer, index + 1)
            for index, layer in zip(drawn, seg_nrrd.into_layers([extra[index] for index in drawn]), strict=True)
        ]
        masks = np.concatenate([masks, extra[drawn]])
    stack = np.zeros((max(s.layer for s in segments) + 1, *grid.spatial_shape), dtype=np.uint8)
    for segment, mask in zip(segments, masks, strict=True):
        stack[segment.layer][mask] = segment.value
    array = _volume(stack, grid)
    fields = seg_nrrd.fields_of(segments, [s.value - 1 for s in segments], array.shape[1:])
    layered = array[0] if len(array) == 1 else np.moveaxis(array, 0, -1)
    seg_nrrd.write_nrrd(path, layered, grid.itk_affine, fields, compress)


def _write_nifti(path: Path, values: NDArray[Any], grid: Grid) -> None:
    data = _volume(values, grid).transpose(2, 1, 0)
    if grid.nifti is None:
        affine = grid.itk_affine
        image: Any = nibabel.Nifti1Image(data, affine)  # type: ignore[no-untyped-call]
        image.header.set_xyzt_units("mm")
        image.set_sform(affine, 1)
        # A quaternion cannot hold shear; code 0 marks it as not to be used.
        sheared = not np.allclose(image.header.get_qform(), affine, atol=1e-3)
        image.set_qform(affine, 0 if sheared else 1)
    else:
        # Field by field: both transforms, their codes and unit stay to the bit, also where one of them is unusable.
        # Without an affine: nibabel would replace the sform by an affine in mm that differs from the header's.
        image = nibabel.Nifti1Image(data, None)  # type: ignore[no-untyped-call]
        for field in _NIFTI_GEOMETRY:
            image.header[field] = grid.nifti[field]
        pixdim = image.header["pixdim"]
        pixdim[1:4][pixdim[1:4] == 0] = 1  # A 2D source need not have a third spacing.
    nibabel.save(image, path)
