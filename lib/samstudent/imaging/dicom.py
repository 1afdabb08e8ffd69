"""DICOM: one file, a frame of it, or the slices of one series in a folder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from samstudent.errors import UserError
from samstudent.imaging.dicom_header import numbers, sop_class
from samstudent.imaging.dicom_pixels import DicomImages
from samstudent.imaging.dicom_series import Series, Slice, open_series
from samstudent.imaging.formats import Stored, decoding
from samstudent.imaging.grid import LPS_TO_RAS
from samstudent.imaging.perpendicular import is_tilted, tilt_angle

#: SOP classes for which ITK, and with it 3D Slicer, takes the pixel spacing at the detector; for other classes it takes
#: PixelSpacing. Masks for clients must have the geometry by which clients place the image.
_PROJECTIONS = (
    "1.2.840.10008.5.1.4.1.1.1",  # CR, and as its parts DX, mammography, intra-oral
    "1.2.840.10008.5.1.4.1.1.12.1",  # angiography
    "1.2.840.10008.5.1.4.1.1.12.2",  # fluoroscopy
)
_RT_IMAGE = "1.2.840.10008.5.1.4.1.1.481.1"
_SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
#: SOP classes whose slice distance ITK does not read: ultrasound, photographs.
_WITHOUT_DEPTH = ("1.2.840.10008.5.1.4.1.1.6.1", "1.2.840.10008.5.1.4.1.1.77.1")


def read_dicom(path: Path) -> Stored:
    """Pixels in the units of the rescale (Hounsfield for CT), MONOCHROME1 inverted, so that larger values are brighter.

    A window outside of the pixels' range is left out. This, a tilted gantry, and skipped files of a folder are recorded
    as notes.

    Raises:
        UserError: no or several series in the folder, a clip, slices of different sizes, missing slices, no image at
            all, nothing that can be decoded.
    """
    with decoding(path, "DICOM"):
        return _read(open_series(path), path)


def geometry_of(path: Path) -> tuple[tuple[int, int, int], NDArray[np.float64]]:
    """(k, j, i) and affine as ``read_dicom`` gives them, from the headers only. Raises as ``read_dicom``."""
    with decoding(path, "DICOM"):
        series = open_series(path)
        header = series.slices[0].header
        return (len(series.slices), int(header.Rows), int(header.Columns)), _affine(series)


def _read(series: Series, path: Path) -> Stored:
    values: NDArray[np.float32] | None = None
    windows, padding = [], {}
    file: DicomImages | None = None
    for k, one in enumerate(series.slices):
        try:
            with decoding(one.path, "DICOM"):
                if file is None or file.path != one.path:
                    file = DicomImages(one.path)
                image = file.pixels(one.frame)
        except UserError as error:
            if path.is_file() or one.path == path.parent:
                raise
            reason = str(error).removeprefix(f"{one.path}: ")
            raise UserError(f"{one.path}: no image of this folder's series, or corrupt: {reason}") from error
        if values is None:
            values = np.empty((len(series.slices), *image.values.shape), np.float32)
        if image.values.shape != values.shape[1:]:
            shapes = f"{image.values.shape}, other slices have {values.shape[1:]}"
            raise UserError(f"{one.path.parent / one.name}: pixels of shape {shapes}")
        values[k] = image.values
        if image.window:
            windows.append(image.window)
        if image.padding is not None:
            padding[k] = image.padding
    assert values is not None  # a series has slices
    window, notes = _window(windows, values)
    padded = None
    if padding:
        padded = np.zeros(values.shape[:3], bool)
        for k, where in padding.items():
            padded[k] = where
    affine = _affine(series)
    if is_tilted(values.shape[:3], affine):
        angle = f"{tilt_angle(affine):.0f} degrees"
        notes.append(f"tilted gantry, {angle}: used as it is; 3D Slicer gets a copy with perpendicular axes")
    return Stored(values, values.shape[:3], affine, window=window, padding=padded, notes=(*series.notes, *notes))


def _window(
    windows: list[tuple[float, float]], values: NDArray[np.float32]
) -> tuple[tuple[float, float] | None, list[str]]:
    """Window of all slices if the pixels have values in it, else None and a note."""
    if not windows:
        return None, []
    # Scanners may set a window for each slice; the median ignores unusual first and last slices.
    low, high = (float(end) for end in np.median(windows, axis=0))
    darkest, brightest = float(values.min()), float(values.max())
    if darkest < brightest and (high <= darkest or low >= brightest):
        return None, [
            f"its window, {low:g} to {high:g}, does not meet its pixels, {darkest:g} to {brightest:g};"
            " percentiles are taken instead"
        ]
    return (low, high), []


def _affine(series: Series) -> NDArray[np.float64]:
    """(4, 4) index (i, j, k) -> RAS mm."""
    first = series.slices[0]
    between_rows, between_columns, between_slices = _distances(first)
    affine = np.eye(4)
    affine[:3, 0] = first.orientation[:3] * between_columns
    affine[:3, 1] = first.orientation[3:] * between_rows
    # A tilted gantry shears the volume: the step is not along the normal.
    affine[:3, 2] = first.normal * between_slices if series.step is None else series.step
    if first.position is not None:
        affine[:3, 3] = first.position
    return np.asarray(LPS_TO_RAS @ affine)


def _distances(one: Slice) -> tuple[float, float, float]:
    """Distances of rows, columns and slices in mm, as ITK reads them from a single file; 1 where none is stored."""
    header, uid = one.header, sop_class(one.header)
    if _is_one_of(uid, _PROJECTIONS):
        keywords = ["ImagerPixelSpacing"]
    elif uid == _RT_IMAGE:
        keywords = ["ImagePlanePixelSpacing"]
    else:
        keywords = ["PixelSpacing"]
        if _is_one_of(uid, (_SECONDARY_CAPTURE,)):
            keywords.append("NominalScannedPixelSpacing")
    spacing = next(
        (found for key in keywords if len(found := numbers(header, key)) == 2 and min(found) > 0), [1.0, 1.0]
    )
    depth = numbers(header, "SpacingBetweenSlices")
    known = depth and depth[0] and not _is_one_of(uid, _WITHOUT_DEPTH)
    return spacing[0], spacing[1], abs(depth[0]) if known else 1.0


def _is_one_of(uid: str, roots: tuple[str, ...]) -> bool:
    return any(uid == root or uid.startswith(root + ".") for root in roots)
