"""DICOM: one file, or a folder with the slices of one series."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import SimpleITK as sitk
from numpy.typing import NDArray

from samstudent.bounds import check_size
from samstudent.bounds_dicom import check_dicom, check_pixels
from samstudent.errors import UserError
from samstudent.formats import Stored, decoding, from_itk, itk_reader
from samstudent.geometry import LPS_TO_RAS

#: Slices may lie this share of their distance beside where even spacing would put them.
_POSITION_TOLERANCE = 0.1
_PHOTOMETRIC = "0028|0004"


def read_dicom(path: Path) -> Stored:
    """Pixels in the units of the rescale (Hounsfield for CT), MONOCHROME1 inverted, so that more is always brighter.

    Raises:
        UserError: no or several series in the folder, several frames in a file, slices of different sizes, missing
            slices, nothing that can be decoded.
    """
    with decoding(path, "DICOM"):
        return _read_file(path) if path.is_file() else _read_folder(path)


def _read_folder(path: Path) -> Stored:
    finder: Any = sitk.ImageSeriesReader
    series = finder.GetGDCMSeriesIDs(str(path))
    if len(series) != 1:
        found = f"{len(series)} series" if series else "no DICOM image"
        raise UserError(f"{path}: {found} in this folder; expected the files of one series")
    files = [Path(name) for name in finder.GetGDCMSeriesFileNames(str(path), series[0])]
    _require_all(path, files)
    return _read_file(files[0]) if len(files) == 1 else _read_series(path, files)


def _read_file(path: Path) -> Stored:
    reader = _header(path)
    fields = [_fields(reader)]
    reader.SetOutputPixelType(_float_type(reader))
    with _never_inverted([path], fields) as (same,):
        reader.SetFileName(str(same))
        return _finish(reader.Execute(), path, fields)


def _read_series(folder: Path, files: list[Path]) -> Stored:
    headers = [_header(file) for file in files]
    fields = [_fields(header) for header in headers]
    sizes = {header.GetSize()[:2] for header in headers}
    if len(sizes) > 1:
        raise UserError(f"{folder}: slices of different sizes {sorted(sizes)}; expected the files of one volume")
    check_size(folder, (*sizes.pop(), len(files)))
    step = _slice_step(folder, files, fields)
    reader: Any = sitk.ImageSeriesReader()  # type: ignore[no-untyped-call]
    reader.SetImageIO("GDCMImageIO")
    # Each slice may have its own rescale (PET); integers would cut it.
    reader.SetOutputPixelType(_float_type(headers[0]))
    with _never_inverted(files, fields) as same:
        reader.SetFileNames([str(file) for file in same])
        stored = _finish(reader.Execute(), folder, fields)
    # A tilted gantry shears the volume; ITK only knows the normal of the slices.
    stored.affine[:, 2] = LPS_TO_RAS @ np.append(step, 0.0)
    return stored


def _require_all(folder: Path, files: list[Path]) -> None:
    """GDCM leaves out what it cannot read without a word; a volume that lacks its middle slice must not pass."""
    listed = {file.name for file in files} | {"DICOMDIR"}
    for file in sorted(folder.iterdir()):
        if file.name not in listed and file.is_file():
            with file.open("rb") as content:
                if content.read(132).endswith(b"DICM"):
                    raise UserError(f"{file}: no image of this folder's series, or corrupt")


@contextmanager
def _never_inverted(files: list[Path], fields: list[dict[str, str]]) -> Iterator[list[Path]]:
    """The files, those of MONOCHROME1 as copies that say MONOCHROME2.

    Whether GDCM inverts MONOCHROME1 depends on its version, and it refuses signed pixels: it is not to know of it.
    """
    with tempfile.TemporaryDirectory() as folder:
        same = []
        for i, (file, its) in enumerate(zip(files, fields, strict=True)):
            if its.get(_PHOTOMETRIC) == "MONOCHROME1":
                dataset = pydicom.dcmread(file)
                dataset.PhotometricInterpretation = "MONOCHROME2"
                file = Path(folder) / f"{i}.dcm"
                dataset.save_as(file)
            same.append(file)
        yield same


def _header(path: Path) -> Any:
    reader = itk_reader(path, "GDCMImageIO")
    with decoding(path, "a DICOM image"):
        syntax = check_dicom(path)  # GDCM unpacks a deflated file whole, to read its header
        reader.ReadImageInformation()
    if len(reader.GetSize()) > 2 and reader.GetSize()[2] > 1:
        raise UserError(f"{path}: holds {reader.GetSize()[2]} frames; expected one image per DICOM file")
    components = reader.GetNumberOfComponents()
    check_size(path, tuple(reader.GetSize()), components)
    bits = _numbers(_fields(reader).get("0028|0100", "")) or [8.0]
    with decoding(path, "a DICOM image"):
        # Of colours in YBR_FULL_422 two of three values are stored.
        check_pixels(path, syntax, math.prod(reader.GetSize()) * min(components, 2) * int(bits[0]) // 8)
    return reader


def _fields(reader: Any) -> dict[str, str]:
    return {key: reader.GetMetaData(key).strip() for key in reader.GetMetaDataKeys()}


def _float_type(reader: Any) -> int:
    return int(sitk.sitkFloat32 if reader.GetNumberOfComponents() == 1 else sitk.sitkVectorFloat32)


def _slice_step(folder: Path, files: list[Path], fields: list[dict[str, str]]) -> NDArray[Any]:
    """The vector from slice to slice in LPS mm.

    Raises:
        UserError: slices have no position, or do not lie at even distances.
    """
    found = [_numbers(f.get("0020|0032", "")) for f in fields]
    if any(len(position) != 3 for position in found):
        raise UserError(f"{folder}: {len(files)} images without positions in space; give each one as a file")
    positions = np.array(found)
    step: NDArray[Any] = (positions[-1] - positions[0]) / (len(files) - 1)
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
    low, high = np.median(windows, axis=0).tolist() if windows else (0.0, 0.0)
    pixels = stored.pixels
    if fields[0].get(_PHOTOMETRIC) == "MONOCHROME1":
        total = sum(_stored_range(fields[0]))
        pixels, low, high = total - pixels, total - high, total - low
    return Stored(pixels, stored.shape, stored.affine, window=(low, high) if windows else None)


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
