"""Image of a case: the reader, and its intensities as input of student and SAM."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from samstudent import task
from samstudent.errors import NotFound, UserError
from samstudent.imaging.dicom import read_dicom
from samstudent.imaging.formats import EXTENSIONS, Stored, kind_of, read_nrrd
from samstudent.imaging.grid import Grid
from samstudent.imaging.image_paths import ImagePath
from samstudent.imaging.nifti import read_nifti
from samstudent.imaging.perpendicular import is_tilted, upright_geometry
from samstudent.imaging.raster import read_raster_image
from samstudent.imaging.registered import is_same_grid, on_grid, require_registered
from samstudent.util.places import require_readable

logger = logging.getLogger(__name__)

__all__ = ["CaseImage", "Grid", "for_sam", "for_student", "image_extensions", "read_image"]

#: Luminance of red, green and blue, ITU-R BT.601.
_LUMINANCE = np.array([0.299, 0.587, 0.114], dtype=np.float32)
#: Percentiles of larger images are taken from an evenly spaced part of about this many pixels.
_PERCENTILE_SAMPLE = 1 << 22


@dataclass(frozen=True, eq=False)
class CaseImage:
    """Image of one case.

    Attributes:
        pixels: float32 (C, *spatial) in canonical orientation, C = 1, 3 (red, green, blue) or the number of the task's
            named channels, in the file's own units.
        grid: grid of the file.
        window: (low, high) of the VOI window of a DICOM file; None: no window.
        path: the file or folder.
        padding: bool (*spatial), canonical: pixels of a DICOM file without a measured value; percentiles ignore them.
        notes: parts of the file that were left out or not read as stored, one sentence each, for users.
        windows: window of each of several channels in files; (): none.
    """

    pixels: NDArray[Any]
    grid: Grid
    window: tuple[float, float] | None = None
    path: Path | None = None
    padding: NDArray[np.bool_] | None = None
    notes: tuple[str, ...] = ()
    windows: tuple[tuple[float, float] | None, ...] = ()


def image_extensions() -> list[str]:
    """Extensions of image files, lower case with the dot; a DICOM series may also be a folder."""
    return list(EXTENSIONS)


def read_image(path: str | Path, dimension: int | None = None) -> CaseImage:
    """Read a file, a folder with the files of one DICOM series, or several channels (``image_paths``).

    Alpha is left out. An image with an orientation (EXIF or TIFF tag) is turned upright. In floating-point images NaN
    and -infinity become the smallest finite value, +infinity the largest: tools write NaN outside of the measured
    region, where an image is black.

    Args:
        path: PNG, JPEG, TIFF, DICOM, NIfTI or NRRD.
        dimension: the task's, 2 or 3; None: either. A volume of one slice is 2D.

    Raises:
        NotFound: the file does not exist.
        Unusable: it cannot be opened.
        UserError: empty, corrupt, truncated, too large, no finite value, several frames, or of the other dimension.
    """
    path = Path(path)
    if members := ImagePath.of(path).channels:
        return join_channels(path, [read_image(member, dimension) for member in members])
    stored, count = read_stored(path), ImagePath.of(path).count
    grid = Grid.of(stored.shape, stored.affine, stored.nifti, path, itk=stored.itk, others=stored.others)
    grid = replace(grid, orientation=stored.orientation)
    log_notes(path, stored.notes)
    if dimension is not None and grid.dimension != dimension:
        found = "a 2D image" if grid.dimension == 2 else f"a volume of {min(grid.spatial_shape)} or more slices"
        raise UserError(f"{path}: {found} (shape {grid.shape}), but the task's dimension is {dimension}")
    pixels = stored.pixels if stored.pixels.ndim > len(stored.shape) else stored.pixels[..., None]
    if count is not None and pixels.shape[-1] != count:
        raise UserError(f"{path.parent}: has {pixels.shape[-1]} channels, but the task's image.channels names {count}")
    if count is None and pixels.shape[-1] not in (1, 2, 3, 4):
        raise UserError(f"{path}: has {pixels.shape[-1]} channels; expected grey, RGB or RGBA")
    if count is None:
        pixels = pixels[..., : 1 if pixels.shape[-1] < 3 else 3]
    canonical = grid.from_file(np.moveaxis(pixels, -1, 0))
    padding = None if stored.padding is None else grid.from_file(stored.padding)
    return CaseImage(_finite_float32(canonical, path), grid, stored.window, path, padding, stored.notes)


def join_channels(path: Path, channels: Sequence[CaseImage]) -> CaseImage:
    """Images of one space as the channels of an image, on the grid of the first.

    If the first is tilted (gantry), the grid has perpendicular axes instead: clients load one channel on this grid.

    Raises:
        UserError: one of them has several channels itself, or lies elsewhere.
    """
    first, pixels, notes = channels[0], [], []
    grid = _upright_grid(first.grid, path)
    goal = f"the voxels of {first.path}" if grid is first.grid else "perpendicular axes, because of a tilted gantry"
    for one in channels:
        if len(one.pixels) != 1:
            raise UserError(f"{one.path}: has {len(one.pixels)} channels itself; expected one")
        require_registered(one.grid, first.grid, one.path or path)
        pixels.append(on_grid(one.pixels, one.grid, grid))
        if one.grid.dimension == 3 and not is_same_grid(one.grid, grid):
            notes.append(f"{one.path} is resampled to {goal}")
        notes += [f"{one.path}: {note}" for note in one.notes]
    windows = tuple(one.window for one in channels)
    return CaseImage(np.concatenate(pixels), grid, None, path, None, tuple(notes), windows)


def _upright_grid(grid: Grid, path: Path) -> Grid:
    """The grid itself; of a tilted volume that of its upright copy."""
    if grid.dimension == 2 or not is_tilted(grid.shape, grid.itk_affine):
        return grid
    return Grid.of(*upright_geometry(grid.shape, grid.itk_affine), path=path)


@lru_cache(maxsize=1 << 16)
def log_notes(path: Path, notes: tuple[str, ...]) -> None:
    """Log the notes of an image, once for each image, although it is read many times."""
    for note in notes:
        logger.warning("%s: %s", path, note)


def read_stored(path: Path) -> Stored:
    """File or folder as stored, by its format."""
    require_readable(path)
    image = ImagePath.of(path)
    if not image.place.exists():
        raise NotFound(f"{path}: no such file")
    if image.place.is_dir() or image.frame is not None:
        return read_dicom(path)
    kind, place = kind_of(image.place), image.place
    if kind == "dicom":
        return read_dicom(place)
    if kind == "nifti":
        return read_nifti(place, several=image.count is not None)
    return read_nrrd(place) if kind == "nrrd" else read_raster_image(place, kind)


def _finite_float32(pixels: NDArray[Any], path: Path) -> NDArray[Any]:
    """Contiguous float32 copy without NaN and infinities, by the rule of ``read_image``."""
    if pixels.dtype.kind != "f":
        return np.ascontiguousarray(pixels, dtype=np.float32)
    finite = np.isfinite(pixels)
    if not finite.any():
        raise UserError(f"{path}: no pixel has a finite value (all are NaN or infinite)")
    largest = float(np.finfo(np.float32).max)
    low = max(float(pixels.min(where=finite, initial=np.inf)), -largest)
    high = min(float(pixels.max(where=finite, initial=-np.inf)), largest)
    filled = np.where(np.isnan(pixels), low, np.clip(pixels, low, high))
    return np.ascontiguousarray(filled, dtype=np.float32)


def for_student(image: CaseImage, section: task.ImageSection) -> NDArray[Any]:
    """Input of the student.

    Returns:
        float32 (section.count, *spatial) in [0, 1]. A constant image is 0 everywhere.

    Raises:
        UserError: ``low`` and ``high`` are not percentiles although the section's intensity needs percentiles; another
            number of channels than the section names.
    """
    if section.sequences:
        return np.concatenate([_range_of_section(channel, section) for channel in _channels(image, section)])
    grey = luminance(image.pixels)
    low, high = intensity_bounds(grey, image, section)
    if section.channels == 1:
        return _scaled(grey, low, high)
    scaled = _scaled(image.pixels, low, high)
    return np.ascontiguousarray(np.broadcast_to(scaled, (3, *scaled.shape[1:])))


def for_sam(image: CaseImage, section: task.ImageSection) -> NDArray[Any]:
    """Input of SAM: uint8 (*spatial, 3), red, green, blue, with the student's intensity bounds.

    Of named channels it is the one of ``section.sam_channel``, or the first three as colours.

    Raises: as ``for_student``.
    """
    if section.sequences:
        channels = _channels(image, section)
        seen = channels[:3] if section.sam_channel == task.COMPOSITE else [displayed(image, section)]
        parts = [_range_of_section(channel, section) for channel in seen]
        scaled = np.concatenate([*parts, *parts[-1:] * (3 - len(parts))])
    else:
        low, high = intensity_bounds(luminance(image.pixels), image, section)
        scaled = _scaled(image.pixels, low, high)
    values = np.rint(scaled * 255).astype(np.uint8)
    return np.ascontiguousarray(np.moveaxis(np.broadcast_to(values, (3, *values.shape[1:])), 0, -1))


def displayed(image: CaseImage, section: task.ImageSection) -> CaseImage:
    """Image that viewers show: of named channels the one that SAM sees, with a composite the first. Raises as
    ``for_student``."""
    if not section.sequences:
        return image
    return _channels(image, section)[displayed_index(section)]


def displayed_index(section: task.ImageSection) -> int:
    """Index of the channel that viewers show."""
    names = list(section.sequences)
    return names.index(section.sam_channel) if section.sam_channel in names else 0


def _channels(image: CaseImage, section: task.ImageSection) -> list[CaseImage]:
    """One image for each named channel."""
    if len(image.pixels) != section.count:
        raise UserError(
            f"{image.path}: has {len(image.pixels)} channels, but the task's image.channels names {section.count}:"
            f" {', '.join(section.sequences)}"
        )
    windows = image.windows or (image.window,) * section.count
    return [
        replace(image, pixels=image.pixels[index : index + 1], window=windows[index], windows=())
        for index in range(section.count)
    ]


def _range_of_section(channel: CaseImage, section: task.ImageSection) -> NDArray[Any]:
    """(1, *spatial) of an image with one channel, in [0, 1]."""
    return _scaled(channel.pixels, *intensity_bounds(channel.pixels, channel, section))


def luminance(pixels: NDArray[Any]) -> NDArray[Any]:
    """(1, *spatial) of (1 or 3, *spatial)."""
    return pixels if len(pixels) == 1 else np.tensordot(_LUMINANCE, pixels, axes=1)[None]


def _scaled(pixels: NDArray[Any], low: float, high: float) -> NDArray[Any]:
    """[low, high] to [0, 1], clipped; all 0 where there is no range."""
    if not low < high:
        return np.zeros_like(pixels)
    # Halves: the range of values near float32's largest number must not overflow.
    scaled = (np.clip(pixels, low, high) / 2 - np.float32(low / 2)) / np.float32(high / 2 - low / 2)
    return np.clip(scaled, 0, 1).astype(np.float32)


def intensity_bounds(grey: NDArray[Any], image: CaseImage, section: task.ImageSection) -> tuple[float, float]:
    """Values that become black and white; for a colour image those of its luminance, so that hues are kept."""
    if section.intensity == "window":
        return section.low, section.high
    if section.intensity == "auto" and image.window:
        return image.window
    if not 0 <= section.low < section.high <= 100:
        raise UserError(
            f"image.low and image.high must be percentiles from 0 to 100, not {section.low} and {section.high},"
            f" where image.intensity is {section.intensity} and {image.path} has no window"
        )
    measured = grey.ravel() if image.padding is None else grey[~image.padding[None]]
    values = measured[:: max(1, measured.size // _PERCENTILE_SAMPLE)]
    low, high = (float(v) for v in np.percentile(values, [section.low, section.high]))
    if low < high:
        return low, high
    # A constant image with a structure smaller than the share that the percentiles exclude.
    return float(measured.min()), float(measured.max())
