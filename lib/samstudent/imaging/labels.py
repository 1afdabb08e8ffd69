"""Label files: stacks of masks of a task's structures, read from and written to what Slicer, OHIF and others use."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from samstudent.errors import UserError
from samstudent.imaging import dicom_seg, resampling, seg_nrrd
from samstudent.imaging.case import read_stored
from samstudent.imaging.formats import Stored, kind_of, read_nrrd
from samstudent.imaging.grid import Grid
from samstudent.imaging.nifti import read_nifti
from samstudent.imaging.raster import read_raster_label
from samstudent.imaging.structure_names import find_structure, marked_structure
from samstudent.task import Task
from samstudent.util.files import atomic_path
from samstudent.util.places import require_readable

#: Segments whose name starts so mark where a structure is unknown; the rest of the name is the structure's. In a
#: human's label an empty one says that the structure is not annotated at all (``imaging.annotations.read_label``).
IGNORE = "ignore:"
#: Segments of masks that were not good enough to train on, kept for people to look at.
REJECTED = "rejected:"
_NIFTI_GEOMETRY = (
    "pixdim", "xyzt_units", "qform_code", "quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z",
    "sform_code", "srow_x", "srow_y", "srow_z",
)  # fmt: skip
_LABEL_EXTENSIONS = ".seg.nrrd, .nrrd, .nii.gz, .nii, .png, .tif or .tiff"
#: Label values this near to a whole number are that number: 0.001, and what float32 rounds off.
_NEARLY = 1.001e-3
#: Whole numbers beyond this are not exact as float64.
_EXACT = 2.0**53


def read_masks(
    path: str | Path, task: Task, grid: Grid, *, names: Sequence[str] | None = None, bits: bool = False
) -> NDArray[Any]:
    """The structures of a label file, on the image's grid.

    A file that names its segments (.seg.nrrd, DICOM SEG) is read by these names, whatever the other arguments say. Any
    other is a label map. Names need not have a structure's case, spaces and Unicode form (``find_structure``); what
    has the same name in this sense is one structure. A label on another grid of the same space is resampled to the
    nearest pixel.

    Args:
        path: .seg.nrrd, .nrrd, .nii.gz, .nii, .png, .tif or .dcm.
        task: whose structures to look for.
        grid: the image's.
        names: ``names[v - 1]`` is what value v of a label map means (``imaging.value_lookup.names_for_reading``), ""
            where v means nothing; names that the task does not have are left out. None: the task's own values.
        bits: bit v - 1 of a label map's pixel says whether structure v is there, for structures that overlap.

    Returns:
        bool (S, *spatial), canonical.

    Raises:
        NotFound: there is no such file.
        UserError: cannot be read; a value that is no structure; names without any of the task's; a grid that does not
            fit.
    """
    path = Path(path)
    require_readable(path)
    if _is_dicom_seg(path):
        return dicom_seg.read_seg(path, task, grid)
    stored = _read(path)
    segments = seg_nrrd.segments_of(stored, path)
    masks = np.zeros((len(task.names), *grid.spatial_shape), dtype=bool)
    if segments:
        layers = _on_grid(stored, grid, path)
        _require_known([s.name for s in segments], task, path, bool(layers.any()))
        for segment in segments:
            if name := find_structure(segment.name, task.names):
                masks[task.structures[name] - 1] |= layers[segment.layer] == segment.value
        return masks
    values = _on_grid(stored, grid, path)
    if len(values) > 1:
        raise UserError(f"{path}: has {len(values)} channels without names; expected a label map of one")
    if names is not None and not any(names) and values.any() and not bits:
        raise UserError(f"{path}: has pixels, but label_info names no segment that they could belong to")
    highest = 2 ** len(task.names) - 1 if bits else len(task.names if names is None else names)
    _check_values(values, highest, path)
    if bits:
        if len(masks) > 62:
            raise UserError(f"{path}: bits of one number cannot hold {len(masks)} structures; use .seg.nrrd")
        for value in range(1, len(masks) + 1):
            masks[value - 1] = values[0].astype(np.int64) >> (value - 1) & 1
        return masks
    meaning = list(task.names if names is None else names)
    _require_known([name for name in meaning if name], task, path, bool(values.any()))
    for value, name in enumerate(meaning, 1):
        if structure := find_structure(name, task.names):
            masks[task.structures[structure] - 1] |= values[0] == value
        elif not name and (values[0] == value).any():
            raise UserError(f"{path}: value {value} has no name; named are {[*filter(None, meaning)]}")
    return masks


def read_ignore(path: str | Path, task: Task, grid: Grid) -> NDArray[Any]:
    """Where structures are unknown: the segments ``ignore:<structure>`` of a .seg.nrrd or DICOM SEG.

    Returns:
        bool (S, *spatial), canonical; all False for files that have no such segments.
    """
    return _read_marked(Path(path), task, grid, IGNORE)


def read_rejected(path: str | Path, task: Task, grid: Grid) -> NDArray[Any]:
    """Refined masks that the gate rejected: the segments ``rejected:<structure>``, as ``read_ignore`` returns its."""
    return _read_marked(Path(path), task, grid, REJECTED)


def write_masks(
    path: str | Path,
    masks: NDArray[Any],
    task: Task,
    grid: Grid,
    *,
    ignore: NDArray[Any] | None = None,
    rejected: NDArray[Any] | None = None,
    compress: bool = True,
) -> None:
    """Write masks on the file grid of their image, in the format that the path's extension says.

    A 2D case becomes one slice in NRRD and NIfTI, the form in which Slicer and OHIF hold it. NRRD lies where ITK sees
    the image; NIfTI has all transforms of a NIfTI source.

    Args:
        path: .seg.nrrd keeps overlaps; .nrrd, .nii.gz, .nii, .png and .tif hold ``label_map``; written atomically.
        masks: bool (S, *spatial), canonical.
        task: names and values.
        grid: the image's.
        ignore, rejected: bool (S, *spatial), only for .seg.nrrd; see ``read_ignore`` and ``read_rejected``.
        compress: False: raw NRRD, as OHIF needs it. The other formats follow their extension.

    Raises:
        UserError: another extension, a stack of another shape, a volume as PNG or TIFF, ``ignore`` or ``rejected``
            where they have no place.
    """
    path, masks = Path(path), np.asarray(masks, dtype=bool)
    expected = (len(task.names), *grid.spatial_shape)
    further = {prefix: stack for prefix, stack in ((IGNORE, ignore), (REJECTED, rejected)) if stack is not None}
    for stack in (masks, *further.values()):
        if stack.shape != expected:
            raise UserError(f"{path}: masks of shape {stack.shape}, but task and image need {expected}")
    extension = _extension(path)
    if further and extension != ".seg.nrrd":
        raise UserError(f"{path}: only .seg.nrrd can hold regions to ignore or rejected masks")
    with atomic_path(path) as temporary:
        if extension == ".seg.nrrd":
            _write_segments(temporary, masks, task, grid, further, compress)
        elif extension == ".nrrd":
            seg_nrrd.write_nrrd(temporary, _volume(label_map(masks), grid), grid.itk_affine, {}, compress)
        elif extension in (".nii", ".nii.gz"):
            _write_nifti(temporary, label_map(masks), grid)
        elif grid.dimension == 3:
            raise UserError(f"{path}: a volume needs .seg.nrrd, .nrrd or .nii.gz")
        else:
            Image.fromarray(label_map(masks)).save(temporary, format="PNG" if extension == ".png" else "TIFF")


def stored_values(path: str | Path) -> tuple[NDArray[np.int64], list[str] | None]:
    """The different values of a label file, sorted, and their names where it names its segments.

    Raises:
        NotFound, UserError: as ``read_masks``; a value that is no whole number.
    """
    path = Path(path)
    stored = _read(path)
    if segments := seg_nrrd.segments_of(stored, path):
        named = sorted({segment.name: segment for segment in segments}.values(), key=lambda s: (s.layer, s.value))
        return np.arange(1, len(named) + 1), [segment.name for segment in named]
    return np.unique(stored.pixels).astype(np.int64), None


def other_names(path: str | Path, task: Task, names: Sequence[str] | None = None) -> set[str]:
    """Names in a label file that are none of the task's: what ``read_masks``, with the same ``names``, leaves out.

    Raises:
        NotFound, UserError: as ``read_masks``.
    """
    path = Path(path)
    if _is_dicom_seg(path):
        return dicom_seg.other_labels(path, task)
    # Of the others only NRRD names its segments.
    segments = seg_nrrd.segments_of(_read(path), path) if kind_of(path) == "nrrd" else []
    found = [segment.name for segment in segments] or [name for name in names or () if name]
    return {name for name in found if not means_structure(name, task)}


def label_map(masks: NDArray[Any]) -> NDArray[Any]:
    """One image of all structures: uint8 (*spatial), 0 background, i + 1 for ``masks[i]``.

    Where structures overlap the smaller one lies on top, so that a small bone before a large one does not vanish.
    """
    values = np.zeros(masks.shape[1:], dtype=np.uint8)
    sizes = masks.reshape(len(masks), -1).sum(axis=1)
    for index in np.argsort(-sizes, kind="stable"):
        values[masks[index]] = index + 1
    return values


def _read_marked(path: Path, task: Task, grid: Grid, prefix: str) -> NDArray[Any]:
    """bool (S, *spatial): the segments whose name is a structure's with this prefix."""
    if _is_dicom_seg(path):
        return dicom_seg.read_seg(path, task, grid, marked=prefix)
    found = np.zeros((len(task.names), *grid.spatial_shape), dtype=bool)
    stored = _read(path)
    named = [(s, marked_structure(s.name, prefix, task.structures)) for s in seg_nrrd.segments_of(stored, path)]
    if any(name for _, name in named):
        layers = _on_grid(stored, grid, path)
        for segment, name in named:
            if name:
                found[task.structures[name] - 1] |= layers[segment.layer] == segment.value
    return found


def _is_dicom_seg(path: Path) -> bool:
    return kind_of(path) == "dicom" and dicom_seg.is_seg(path)


def _read(path: Path) -> Stored:
    """A label file with its values, whole numbers in any data type; no JPEG is taken."""
    kind = kind_of(path)
    if kind == "jpeg":
        raise UserError(f"{path}: JPEG changes label values; expected {_LABEL_EXTENSIONS}")
    if kind in ("png", "tiff"):
        stored = read_raster_label(path, kind)
    elif kind == "nifti":
        stored = read_nifti(path)
    else:
        stored = read_nrrd(path) if kind == "nrrd" else read_stored(path)
    return replace(stored, pixels=_whole(stored.pixels, path))


def _whole(values: NDArray[Any], path: Path) -> NDArray[Any]:
    """Values that are nearly whole, as interpolation and scaling leave them, as whole numbers of the same data type.

    Raises:
        UserError: a value further than ``_NEARLY`` from a whole number, NaN or infinite.
    """
    if values.dtype.kind != "f":
        return values
    whole = np.rint(values)
    with np.errstate(invalid="ignore"):  # infinity less infinity
        wrong = values[~(np.abs(values - whole) <= _NEARLY) | (np.abs(values) > _EXACT)]
    if wrong.size:
        raise UserError(f"{path}: value {wrong.flat[0]} is no structure; the values of a label map are whole numbers")
    return whole


def _on_grid(stored: Stored, grid: Grid, path: Path) -> NDArray[Any]:
    """(layers, *spatial), canonical, of what the file holds."""
    layers = stored.pixels if stored.pixels.ndim > len(stored.shape) else stored.pixels[..., None]
    return resampling.to_grid(np.moveaxis(layers, -1, 0), stored, grid, path)


def _check_values(values: NDArray[Any], highest: int, path: Path) -> None:
    wrong = values[(values < 0) | (values > highest)]
    if wrong.size:
        raise UserError(f"{path}: value {wrong.flat[0]} is no structure; allowed are whole numbers from 0 to {highest}")


def means_structure(name: str, task: Task) -> bool:
    """Whether a name is a structure's, or marks one as not annotated."""
    return (find_structure(name, task.names) or marked_structure(name, IGNORE, task.names)) is not None


def _require_known(names: Sequence[str], task: Task, path: Path, marked: bool) -> None:
    """Some names may be others', but a file with pixels and none of the task's names is a mistake."""
    if marked and not any(means_structure(name, task) for name in names):
        raise UserError(f"{path}: none of its structures {list(names)} is in the task, which has {task.names}")


def _extension(path: Path) -> str:
    name = path.name.lower()
    for extension in (".seg.nrrd", ".nrrd", ".nii.gz", ".nii", ".png", ".tiff", ".tif"):
        if name.endswith(extension):
            return extension
    raise UserError(f"{path}: labels are written as {_LABEL_EXTENSIONS}")


def _volume(array: NDArray[Any], grid: Grid) -> NDArray[Any]:
    """(*lead, *spatial) on the file's grid, always with three axes (k, j, i)."""
    array = grid.to_file(array)
    return np.expand_dims(array, -3) if len(grid.shape) == 2 else array


def _write_segments(
    path: Path, masks: NDArray[Any], task: Task, grid: Grid, further: dict[str, NDArray[Any]], compress: bool
) -> None:
    layers = seg_nrrd.into_layers(list(masks))
    segments = [seg_nrrd.Segment(n, layer, v) for (n, v), layer in zip(task.structures.items(), layers, strict=True)]
    for prefix, extra in further.items():
        # In layers of their own: readers that know nothing of them find the structures where they always are.
        marked = [index for index in range(len(extra)) if extra[index].any()]
        first = max(segment.layer for segment in segments) + 1
        segments += [
            seg_nrrd.Segment(prefix + task.names[index], first + layer, index + 1)
            for index, layer in zip(marked, seg_nrrd.into_layers([extra[index] for index in marked]), strict=True)
        ]
        masks = np.concatenate([masks, extra[marked]])
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
        # A quaternion has no shear; code 0 says that it is not to be used.
        sheared = not np.allclose(image.header.get_qform(), affine, atol=1e-3)
        image.set_qform(affine, 0 if sheared else 1)
    else:
        # Field by field: both transforms, their codes and unit stay to the bit, also where one of them is broken.
        # Without an affine: nibabel would write one that it does not find in the header, in mm, over the sform.
        image = nibabel.Nifti1Image(data, None)  # type: ignore[no-untyped-call]
        for field in _NIFTI_GEOMETRY:
            image.header[field] = grid.nifti[field]
        pixdim = image.header["pixdim"]
        pixdim[1:4][pixdim[1:4] == 0] = 1  # A 2D source need not have a third spacing.
    nibabel.save(image, path)
