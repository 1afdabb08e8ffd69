"""DICOM: one file, or a folder with the slices of one series."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from samstudent.errors import UserError
from samstudent.formats import Stored, check_size, from_itk
from samstudent.geometry import LPS_TO_RAS

#: Slices may lie this share of their distance beside where even spacing would put them.
_POSITION_TOLERANCE = 0.1


def read_dicom(path: Path) -> Stored:
    """Pixels in the units of the rescale (Hounsfield for CT), MONOCHROME1 inverted, so that more is always brighter.

    Raises:
        UserError: no or several series in the folder, several frames in a file, slices of different sizes, missing slices.
    """
    if path.is_file():
        return _read_file(path)
    series = sitk.ImageSeriesReader.GetGDCMSeriesIDs(str(path))
    if len(series) != 1:
        found = f"{len(series)} series" if series else "no DICOM image"
        raise UserError(f"{path}: {found} in this folder; expected the files of one series")
    files = [Path(name) for name in sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(path), series[0])]
    return _read_file(files[0]) if len(files) == 1 else _read_series(path, files)


def _read_file(path: Path) -> Stored:
    reader = _header(path)
    check_size(path, tuple(reader.GetSize()))
    reader.SetOutputPixelType(_float_type(reader))
    return _finish(_execute(path, reader), path, [_fields(reader)])


def _read_series(folder: Path, files: list[Path]) -> Stored:
    headers = [_header(file) for file in files]
    fields = [_fields(header) for header in headers]
    sizes = {header.GetSize()[:2] for header in headers}
    if len(sizes) > 1:
        raise UserError(f"{folder}: slices of different sizes {sorted(sizes)}; expected the files of one volume")
    check_size(folder, (*sizes.pop(), len(files)))
    step = _slice_step(folder, files, fields)
    reader = sitk.ImageSeriesReader()
    reader.SetImageIO("GDCMImageIO")
    reader.SetFileNames([str(file) for file in files])
    # Each slice may have its own rescale (PET); integers would cut it.
    reader.SetOutputPixelType(_float_type(headers[0]))
    stored = _finish(_execute(folder, reader), folder, fields)
    # A tilted gantry shears the volume; ITK only knows the normal of the slices.
    stored.affine[:, 2] = LPS_TO_RAS @ np.append(step, 0.0)
    return stored


def _header(path: Path) -> Any:
    reader = sitk.ImageFileReader()
    reader.SetImageIO("GDCMImageIO")
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
    except RuntimeError as error:
        raise UserError(f"{path}: not a DICOM image, or corrupt") from error
    if len(reader.GetSize()) > 2 and reader.GetSize()[2] > 1:
        raise UserError(f"{path}: holds {reader.GetSize()[2]} frames; expected one image per DICOM file")
    return reader


def _execute(path: Path, reader: Any) -> Any:
    try:
        return reader.Execute()
    except RuntimeError as error:
        last = str(error).strip().splitlines()[-1]
        raise UserError(f"{path}: its pixels cannot be decoded, perhaps truncated or corrupt: {last}") from error


def _fields(reader: Any) -> dict[str, str]:
    return {key: reader.GetMetaData(key).strip() for key in reader.GetMetaDataKeys()}


def _float_type(reader: Any) -> int:
    return int(sitk.sitkFloat32 if reader.GetNumberOfComponents() == 1 else sitk.sitkVectorFloat32)


def _slice_step(folder: Path, files: list[Path], fields: list[dict[str, str]]) -> np.ndarray:
    """The vector from slice to slice in LPS mm.

    Raises:
        UserError: slices have no position, or do not lie at even distances.
    """
    positions = np.array([_numbers(f.get("0020|0032", "")) for f in fields if len(_numbers(f.get("0020|0032", ""))) == 3])
    if len(positions) < len(files):
        raise UserError(f"{folder}: {len(files)} images without positions in space; give each one as a file")
    step: np.ndarray = (positions[-1] - positions[0]) / (len(files) - 1)
    expected = positions[0] + np.arange(len(files))[:, None] * step
    off = np.linalg.norm(positions - expected, axis=1)
    if not off.max() <= _POSITION_TOLERANCE * np.linalg.norm(step) or not step.any():
        worst = files[int(off.argmax())].name
        raise UserError(f"{folder}: slices are missing, doubled or unevenly spaced; the worst is {worst}")
    return step


def _finish(image: Any, path: Path, fields: list[dict[str, str]]) -> Stored:
    stored = from_itk(image, path, {})
    windows = [window for f in fields if (window := _window(f))]
    # Scanners may set each slice's own window; the median keeps odd end slices out.
    window = tuple(float(v) for v in np.median(windows, axis=0)) if windows else None
    pixels = stored.pixels
    if fields[0].get("0028|0004") == "MONOCHROME1":
        total = sum(_stored_range(fields[0]))
        pixels = total - pixels
        window = (total - window[1], total - window[0]) if window else None
    return Stored(pixels, stored.shape, stored.affine, True, window=window)  # type: ignore[arg-type]


def _window(fields: dict[str, str]) -> tuple[float, float] | None:
    """First VOI window as (low, high), DICOM PS3.3 C.11.2.1.2: the linear function."""
    center, width = _numbers(fields.get("0028|1050", "")), _numbers(fields.get("0028|1051", ""))
    if not center or not width or width[0] <= 1:
        return None
    low = center[0] - 0.5 - (width[0] - 1) / 2
    return low, low + width[0] - 1


def _stored_range(fields: dict[str, str]) -> tuple[float, float]:
    """Lowest and highest value that a pixel of this file can have, after the rescale."""
    bits, signed = int(_numbers(fields.get("0028|0101", "16"))[0]), fields.get("0028|0103") == "1"
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    slope = (_numbers(fields.get("0028|1053", "")) or [1.0])[0]
    intercept = (_numbers(fields.get("0028|1052", "")) or [0.0])[0]
    return low * slope + intercept, high * slope + intercept


def _numbers(text: str) -> list[float]:
    try:
        return [float(part) for part in text.split("\\") if part.strip()]
    except ValueError:
        return []
