"""Reader of label files: masks of a task's structures from the formats of Slicer, OHIF and others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from samstudent.errors import UserError
from samstudent.imaging import dicom_seg, dicom_seg_frames, resampling, seg_nrrd
from samstudent.imaging.case import read_stored
from samstudent.imaging.formats import Stored, kind_of, read_nrrd
from samstudent.imaging.grid import Grid
from samstudent.imaging.nifti import read_nifti
from samstudent.imaging.raster import read_raster_label
from samstudent.imaging.structure_names import IGNORE, LABEL_EXTENSIONS, REJECTED, find_structure, marked_structure
from samstudent.task import Task
from samstudent.util.places import require_readable

#: Largest distance of a label value from a whole number: 0.001, and the rounding error of float32.
_NEARLY = 1.001e-3
#: Whole numbers beyond this are not exact as float64.
_EXACT = 2.0**53


def read_masks(
    path: str | Path, task: Task, grid: Grid, *, names: Sequence[str] | None = None, bits: bool = False
) -> NDArray[Any]:
    """Masks of a task's structures from a label file, on the image's grid.

    A file with segment names (.seg.nrrd, DICOM SEG) is read by these names; ``names`` and ``bits`` are ignored. Any
    other file is a label map. Names may differ from a structure's in case, spaces and Unicode form
    (``find_structure``); segments with equal names in this sense are one structure. A label on another grid of the same
    space is resampled to the nearest pixel.

    Args:
        path: .seg.nrrd, .nrrd, .nii.gz, .nii, .png, .tif or .dcm.
        task: the structures.
        grid: grid of the image.
        names: ``names[v - 1]`` is the name of value v of a label map (``imaging.value_lookup.names_for_reading``), ""
            for no name; names that the task does not have are left out. None: the task's own values.
        bits: bit v - 1 of a label map's pixel is set if structure v covers it, for structures that overlap.

    Returns:
        bool (S, *spatial), canonical.

    Raises:
        NotFound: the file does not exist.
        UserError: cannot be read; a value that is no structure; no name is one of the task's; the grid does not fit.
    """
    path = Path(path)
    require_readable(path)
    if _is_dicom_seg(path):
        return dicom_seg_frames.read_seg(path, task, grid)
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
    values = _one_layer(stored, grid, path)
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


def read_values(path: str | Path, grid: Grid) -> NDArray[Any]:
    """Values of a label map without segment names, on the image's grid: whole numbers (*spatial), canonical.

    Raises:
        NotFound, UserError: as ``read_masks``; the file has segment names.
    """
    path = Path(path)
    require_readable(path)
    if has_segments(path):
        raise UserError(f"{path}: has segments with names; expected a label map of values")
    return np.asarray(_one_layer(_read(path), grid, path)[0])


def has_segments(path: Path) -> bool:
    """Whether a label file has segments with names, so that its values need no names."""
    if _is_dicom_seg(path):
        return True
    return kind_of(path) == "nrrd" and bool(seg_nrrd.segments_of(_read(path), path))


def read_ignore(path: str | Path, task: Task, grid: Grid) -> NDArray[Any]:
    """Regions where structures are unknown: the segments ``ignore:<structure>`` of a .seg.nrrd or DICOM SEG.

    Returns:
        bool (S, *spatial), canonical; all False for files without such segments.
    """
    return _read_marked(Path(path), task, grid, IGNORE)


def read_rejected(path: str | Path, task: Task, grid: Grid) -> NDArray[Any]:
    """Refined masks that the quality filter rejected: the segments ``rejected:<structure>``, as in ``read_ignore``."""
    return _read_marked(Path(path), task, grid, REJECTED)


def stored_values(path: str | Path) -> tuple[NDArray[np.int64], list[str] | None]:
    """Distinct values of a label file, sorted, and their names if the file has segment names.

    Raises:
        NotFound, UserError: as ``read_masks``; a value that is not a whole number.
    """
    path = Path(path)
    stored = _read(path)
    if segments := seg_nrrd.segments_of(stored, path):
        named = sorted({segment.name: segment for segment in segments}.values(), key=lambda s: (s.layer, s.value))
        return np.arange(1, len(named) + 1), [segment.name for segment in named]
    return np.unique(stored.pixels).astype(np.int64), None


def other_names(path: str | Path, task: Task, names: Sequence[str] | None = None) -> set[str]:
    """Names in a label file that are no structure of the task: those that ``read_masks`` leaves out.

    Raises:
        NotFound, UserError: as ``read_masks``.
    """
    path = Path(path)
    if _is_dicom_seg(path):
        return dicom_seg.other_labels(path, task)
    # Of the other formats only NRRD has segment names.
    segments = seg_nrrd.segments_of(_read(path), path) if kind_of(path) == "nrrd" else []
    found = [segment.name for segment in segments] or [name for name in names or () if name]
    return {name for name in found if not means_structure(name, task)}


def _read_marked(path: Path, task: Task, grid: Grid, prefix: str) -> NDArray[Any]:
    """bool (S, *spatial): the segments named by this prefix and a structure."""
    if _is_dicom_seg(path):
        return dicom_seg_frames.read_seg(path, task, grid, marked=prefix)
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
    """A label file as stored, with whole numbers in any data type; JPEG is refused."""
    kind = kind_of(path)
    if kind == "jpeg":
        raise UserError(f"{path}: JPEG changes label values; expected {LABEL_EXTENSIONS}")
    if kind in ("png", "tiff"):
        stored = read_raster_label(path, kind)
    elif kind == "nifti":
        stored = read_nifti(path)
    else:
        stored = read_nrrd(path) if kind == "nrrd" else read_stored(path)
    return replace(stored, pixels=_integers(stored.pixels, path))


def _integers(values: NDArray[Any], path: Path) -> NDArray[Any]:
    """Values rounded to integers, in the same data type; interpolation and scaling make them only nearly integer.

    Raises:
        UserError: a value further than ``_NEARLY`` from a whole number, NaN or infinite.
    """
    if values.dtype.kind != "f":
        return values
    rounded = np.rint(values)
    with np.errstate(invalid="ignore"):  # infinity less infinity
        wrong = values[~(np.abs(values - rounded) <= _NEARLY) | (np.abs(values) > _EXACT)]
    if wrong.size:
        raise UserError(f"{path}: value {wrong.flat[0]} is no structure; the values of a label map are whole numbers")
    return rounded


def _on_grid(stored: Stored, grid: Grid, path: Path) -> NDArray[Any]:
    """Layers of the file, (layers, *spatial), canonical."""
    layers = stored.pixels if stored.pixels.ndim > len(stored.shape) else stored.pixels[..., None]
    return resampling.to_grid(np.moveaxis(layers, -1, 0), stored, grid, path)


def _one_layer(stored: Stored, grid: Grid, path: Path) -> NDArray[Any]:
    """Label map without segment names, (1, *spatial), canonical."""
    values = _on_grid(stored, grid, path)
    if len(values) > 1:
        raise UserError(f"{path}: has {len(values)} channels without names; expected a label map of one")
    return values


def _check_values(values: NDArray[Any], highest: int, path: Path) -> None:
    wrong = values[(values < 0) | (values > highest)]
    if wrong.size:
        raise UserError(f"{path}: value {wrong.flat[0]} is no structure; allowed are whole numbers from 0 to {highest}")


def means_structure(name: str, task: Task) -> bool:
    """Whether a name is that of a structure, or marks a structure as not annotated."""
    return (find_structure(name, task.names) or marked_structure(name, IGNORE, task.names)) is not None


def _require_known(names: Sequence[str], task: Task, path: Path, marked: bool) -> None:
    """Refuse a file with pixels and no name of the task; further names of other structures are allowed."""
    if marked and not any(means_structure(name, task) for name in names):
        raise UserError(f"{path}: none of its structures {list(names)} is in the task, which has {task.names}")
