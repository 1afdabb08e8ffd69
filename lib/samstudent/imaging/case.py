"""Image of a case: the reader, and its intensities as input of student and SAM."""

from __future__ import annotations

import logging
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
from samstudent.imaging.raster import read_raster_image
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
        pixels: float32 (C, *spatial) in canonical orientation, C = 1 or 3 (red, green, blue), in the file's own units.
        grid: grid of the file.
        window: (low, high) of the VOI window of a DICOM file; None: no window.
        path: the file or folder.
        padding: bool (*spatial), canonical: pixels of a DICOM file without a measured value; percentiles ignore them.
        notes: parts of the file that were left out or not read as stored, one sentence each, for users.
    """

    pixels: NDArray[Any]
    grid: Grid
    window: tuple[float, float] | None = None
    path: Path | None = None
    padding: NDArray[np.bool_] | None = None
    notes: tuple[str, ...] = ()


def image_extensions() -> list[str]:
    """Extensions of image files, lower case with the dot; a DICOM series may also be a folder."""
    return list(EXTENSIONS)


def read_image(path: str | Path, dimension: int | None = None) -> CaseImage:
    """Read a file, or a folder with the files of one DICOM series.

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
    stored = read_stored(path)
    grid = Grid.of(stored.shape, stored.affine, stored.nifti, path, itk=stored.itk, others=stored.others)
    grid = replace(grid, orientation=stored.orientation)
    log_notes(path, stored.notes)
    if dimension is not None and grid.dimension != dimension:
        found = "a 2D image" if grid.dimension == 2 else f"a volume of {min(grid.spatial_shape)} or more slices"
        raise UserError(f"{path}: {found} (shape {grid.shape}), but the task's dimension is {dimension}")
    pixels = stored.pixels if stored.pixels.ndim > len(stored.shape) else stored.pixels[..., None]
    if pixels.shape[-1] not in (1, 2, 3, 4):
        raise UserError(f"{path}: has {pixels.shape[-1]} channels; expected grey, RGB or RGBA")
    pixels = pixels[..., : 1 if pixels.shape[-1] < 3 else 3]
    canonical = grid.from_file(np.moveaxis(pixels, -1, 0))
    padding = None if stored.padding is None else grid.from_file(stored.padding)
    return CaseImage(_finite_float32(canonical, path), grid, stored.window, path, padding, stored.notes)


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
    kind = kind_of(path)
    if kind == "dicom":
        return read_dicom(path)
    if kind == "nifti":
        return read_nifti(path)
    return read_nrrd(path) if kind == "nrrd" else read_raster_image(path, kind)


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
        float32 (section.channels, *spatial) in [0, 1]. A constant image is 0 everywhere.

    Raises:
        UserError: ``low`` and ``high`` are not percentiles although the section's intensity needs percentiles.
    """
    grey = luminance(image.pixels)
    low, high = intensity_bounds(grey, image, section)
    if section.channels == 1:
        return _scaled(grey, low, high)
    scaled = _scaled(image.pixels, low, high)
    return np.ascontiguousarray(np.broadcast_to(scaled, (3, *scaled.shape[1:])))


def for_sam(image: CaseImage, section: task.ImageSection) -> NDArray[Any]:
    """Input of SAM: uint8 (*spatial, 3), red, green, blue, with the student's intensity bounds."""
    low, high = intensity_bounds(luminance(image.pixels), image, section)
    scaled = np.rint(_scaled(image.pixels, low, high) * 255).astype(np.uint8)
    return np.ascontiguousarray(np.moveaxis(np.broadcast_to(scaled, (3, *scaled.shape[1:])), 0, -1))


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
