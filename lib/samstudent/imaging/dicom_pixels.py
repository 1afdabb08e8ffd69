"""Pixels of one DICOM image: decoded, in their units, larger values brighter; colours as RGB.

DICOM PS3.3: C.7.6.3 (image pixels, palettes), C.11.1 (Modality LUT), C.11.2 (VOI LUT and window), C.7.5.1 (padding).
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom import uid
from pydicom.dataset import Dataset

from samstudent.errors import UserError
from samstudent.imaging.dicom_decoding import PLUGINS, decoded_values
from samstudent.imaging.dicom_header import frames_of, item_of, no_image, number, numbers, text, transfer_syntax
from samstudent.imaging.dicom_size_checks import check_dicom, check_pixels
from samstudent.imaging.size_checks import check_size

_NATIVE = (
    uid.ImplicitVRLittleEndian,
    uid.ExplicitVRLittleEndian,
    uid.ExplicitVRBigEndian,
    uid.DeflatedExplicitVRLittleEndian,
)
_READ = (
    "uncompressed, deflated, RLE, JPEG (baseline, extended, lossless), JPEG-LS, JPEG 2000 and High-Throughput JPEG 2000"
)
#: Divisor of the colours of a 16-bit palette, so that they range from 0 to 255: 255 * 257 = 65535.
_TO_8_BITS = 257.0
#: Largest number of values in a lookup table (PS3.3 C.7.6.3.1.5).
_LONGEST_TABLE = 1 << 16
#: Last group of elements of a plain image's header; functional groups and pixels come later.
_LAST_GROUP = 0x2050
#: Elements of the file that those of a frame replace.
_OF_FRAME = ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing")
#: Rows of an image that are processed at once.
_ROWS = 128


@dataclass(frozen=True, eq=False)
class Pixels:
    """One image.

    Attributes:
        values: float32 (y, x) of grey values, larger is brighter; or (y, x, 3): red, green and blue, 0 to 255.
        window: (low, high): values that become black and white; None: no usable window.
        padding: bool (y, x), True where the scanner measured nothing; None: no such pixels.
    """

    values: NDArray[np.float32]
    window: tuple[float, float] | None = None
    padding: NDArray[np.bool_] | None = None


def check_image(path: Path, header: Dataset) -> None:
    """Refuse a file that is no image, or announces more pixels than it can hold, before anything is decoded.

    Raises:
        UserError: not an image, too large, truncated, or compressed in an unsupported way.
    """
    if reason := no_image(header):
        raise UserError(f"{path}: {reason}")
    rows, columns, frames = int(number(header, "Rows", 0)), int(number(header, "Columns", 0)), frames_of(header)
    samples = int(number(header, "SamplesPerPixel", 1))
    if rows < 1 or columns < 1 or samples not in (1, 3, 4):
        raise UserError(f"{path}: {columns} x {rows} pixels of {samples} values; expected an image of 1 or 3 values")
    bits = int(number(header, "BitsAllocated", 16))
    if bits not in (1, 8, 16, 32, 64):
        raise UserError(f"{path}: {bits} bits allocated for a value; expected 1, 8, 16, 32 or 64")
    check_size(path, (columns, rows, frames), samples, bytes_each=max(1, bits // 8))
    syntax = transfer_syntax(header)
    if syntax is not None and syntax not in _NATIVE and syntax not in PLUGINS:
        raise UserError(f"{path}: transfer syntax {syntax.name} ({syntax}) cannot be read; expected {_READ}")
    # Of colours in YBR_FULL_422 two of three values are stored.
    check_pixels(path, syntax, frames * rows * columns * min(samples, 2) * bits // 8)


class DicomImages:
    """The images of one DICOM file: one, or the frames of a multi-frame file.

    Raises:
        UserError: as ``check_image``.
    """

    def __init__(self, path: Path) -> None:
        check_dicom(path)
        self.path = path
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self._dataset = pydicom.dcmread(path, force=True)
            check_image(path, self._dataset)

    def pixels(self, frame: int | None = None) -> Pixels:
        """Decode one image; see ``read_pixels``. ``frame``: index of the frame; None: of the only one."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            array, photometric = decoded_values(self.path, self._dataset, frame or 0)
            header = frame_header(self.path, self._dataset, frame or 0)
        if array.ndim == 3:
            return Pixels(array[..., :3].astype(np.float32))
        if photometric == "PALETTE COLOR":
            return Pixels(_colours(self.path, self._dataset, array))
        return _grey(self.path, self._dataset, header, array, photometric)


def read_pixels(path: Path, frame: int | None = None) -> Pixels:
    """Decode one image of a file and bring its values into their units.

    Grey values go through the Modality LUT or the rescale, then through the first VOI LUT where there is one; a first
    window is not applied but returned. MONOCHROME1 (and a presentation LUT shape INVERSE, which is equivalent) is
    inverted. Palettes are resolved, YCbCr is converted.

    Raises:
        UserError: as ``check_image``; a compressed image of another size than the header's; a palette or lookup
            table that cannot be used.
    """
    return DicomImages(path).pixels(frame)


def frame_header(path: Path, dataset: Dataset, frame: int) -> Dataset:
    """Header of one frame: the elements of its functional groups (PS3.3 C.7.6.16) where a plain image has them.

    Raises:
        UserError: the file has no functional groups of this frame.
    """
    groups: list[Dataset] = []
    if shared := item_of(dataset, "SharedFunctionalGroupsSequence"):
        groups.append(shared)
    per_frame = dataset.get("PerFrameFunctionalGroupsSequence") or []
    if len(per_frame) > frame:
        groups.append(per_frame[frame])
    elif per_frame:
        raise UserError(f"{path}: corrupt, describes {len(per_frame)} of its {frames_of(dataset)} frames")
    if not groups:
        return dataset
    header = Dataset()
    header.update({tag: element for tag, element in dataset.items() if tag.group <= _LAST_GROUP})
    for group in groups:
        for sequence in group:
            if sequence.VR == "SQ" and len(sequence.value):
                for element in sequence.value[0]:
                    if element.keyword and (element.keyword not in dataset or element.keyword in _OF_FRAME):
                        header[element.tag] = element
    return header


def _colours(path: Path, dataset: Dataset, array: NDArray[Any]) -> NDArray[np.float32]:
    """(y, x, 3) of indices (y, x), by the dataset's palette."""
    tables = []
    for colour in ("Red", "Green", "Blue"):
        keyword = f"{colour}PaletteColorLookupTable"
        segmented = f"Segmented{keyword}Data" in dataset
        values, first, bits = _table(path, dataset, dataset, keyword, ("Segmented" if segmented else "") + keyword)
        tables.append(_looked_up(array, values, first) / (_TO_8_BITS if bits > 8 else 1.0))
    return np.stack(tables, axis=-1).astype(np.float32)


def _grey(path: Path, dataset: Dataset, header: Dataset, array: NDArray[Any], photometric: str) -> Pixels:
    """Grey values of stored values (y, x).

    Args:
        path: for errors.
        dataset: the file, for the byte order of its tables.
        header: elements of the frame.
        array: stored values.
        photometric: their photometric interpretation.
    """
    padding = _padding(header, array)
    values: NDArray[Any] = array
    bits, signed = int(number(header, "BitsStored", 16)), number(header, "PixelRepresentation", 0) == 1
    lowest, highest = (-(2.0 ** (bits - 1)), 2.0 ** (bits - 1) - 1) if signed else (0.0, 2.0**bits - 1)
    if modality := item_of(header, "ModalityLUTSequence"):
        table, first, depth = _table(path, dataset, modality, "LUT", "LUT")
        values, lowest, highest = _looked_up(values, table, first), 0.0, 2.0**depth - 1
    elif array.dtype.kind in "iu":
        slope, intercept = number(header, "RescaleSlope", 1) or 1.0, number(header, "RescaleIntercept", 0)
        if (slope, intercept) != (1.0, 0.0):
            values = _scaled(values, slope, intercept)
            lowest, highest = sorted((lowest * slope + intercept, highest * slope + intercept))
    window = _window(header)
    if voi := item_of(header, "VOILUTSequence"):
        table, first, _ = _table(path, dataset, voi, "LUT", "LUT")
        values = _looked_up(values, table, first)
        lowest, highest = float(table.min()), float(table.max())
        window = (lowest, highest) if lowest < highest else None
    if photometric == "MONOCHROME1" or text(header, "PresentationLUTShape").upper() == "INVERSE":
        total = lowest + highest
        values = _scaled(values, -1.0, total)
        window = window and (total - window[1], total - window[0])
    return Pixels(values.astype(np.float32), window, padding)


def _scaled(values: NDArray[Any], slope: float, intercept: float) -> NDArray[np.float32]:
    """``values * slope + intercept``, in float64 some rows at a time: a float64 copy of the whole image is large."""
    scaled = np.empty(values.shape, np.float32)
    for first in range(0, len(values), _ROWS):
        scaled[first : first + _ROWS] = values[first : first + _ROWS].astype(np.float64) * slope + intercept
    return scaled


def _padding(dataset: Dataset, array: NDArray[Any]) -> NDArray[np.bool_] | None:
    """Pixels with a padding value, PS3.3 C.7.5.1.1.2: a single value or a range."""
    ends = numbers(dataset, "PixelPaddingValue")[:1]
    if not ends or array.dtype.kind not in "iu":
        return None
    ends += numbers(dataset, "PixelPaddingRangeLimit")[:1]
    bits = 8 * array.dtype.itemsize
    # The value may be written signed although pixels are unsigned, or the other way round.
    signed = [end - 2**bits if array.dtype.kind == "i" and end >= 2 ** (bits - 1) else end for end in ends]
    ends = [end + 2**bits if array.dtype.kind == "u" and end < 0 else end for end in signed]
    found = (array >= min(ends)) & (array <= max(ends))
    return found if found.any() and not found.all() else None


def _window(dataset: Dataset) -> tuple[float, float] | None:
    """First VOI window as (low, high), DICOM PS3.3 C.11.2.1.2 and C.11.2.1.3.

    A sigmoid has no ends; these are the values where it reaches 2 and 98 percent.
    """
    centers, widths = numbers(dataset, "WindowCenter"), numbers(dataset, "WindowWidth")
    if not centers or not widths:
        return None
    center, width = centers[0], widths[0]
    function = text(dataset, "VOILUTFunction").upper()
    if function == "SIGMOID":
        low, high = center - width, center + width
    elif function == "LINEAR_EXACT":
        low, high = center - width / 2, center + width / 2
    else:
        low = center - 0.5 - (width - 1) / 2
        high = low + width - 1
    return (low, high) if low < high else None


def _table(
    path: Path, dataset: Dataset, item: Dataset, descriptor: str, data: str
) -> tuple[NDArray[np.uint16], int, int]:
    """A lookup table: its values, the pixel value of its first entry, and the bits of a value.

    Args:
        path: for errors.
        dataset: the file, for its byte order.
        item: dataset or sequence item with the table.
        descriptor, data: keywords without "Descriptor" and "Data".
    """
    described = numbers(item, f"{descriptor}Descriptor")
    if len(described) != 3 or item.get(f"{data}Data") is None:
        raise UserError(f"{path}: {data}: expected a descriptor of three numbers and its data")
    # Each may have been written with a sign.
    count, bits = (int(described[0]) & 0xFFFF) or _LONGEST_TABLE, int(described[2]) & 0xFFFF
    if not 1 <= bits <= 16:
        raise UserError(f"{path}: {descriptor}Descriptor announces values of {bits} bits; expected 8 to 16")
    value = item[f"{data}Data"].value
    if isinstance(value, bytes):
        order = "<" if dataset.original_encoding[1] is not False else ">"
        segmented = data.startswith("Segmented")
        # Values of 8 bits may take 8 or 16.
        wide = bits > 8 if segmented else len(value) >= 2 * count
        values = np.frombuffer(value[: len(value) // 2 * 2] if wide else value, order + "u2" if wide else "u1")
        if segmented:
            values = _expanded(path, values.tolist(), wide)
    else:
        values = np.asarray(value if isinstance(value, Sequence) else [value]).reshape(-1)
    values = values[:count].astype(np.uint16)
    if not len(values):
        raise UserError(f"{path}: {data}Data contains no values")
    return values, int(described[1]), bits


def _looked_up(array: NDArray[Any], table: NDArray[np.uint16], first: int) -> NDArray[np.uint16]:
    """The table's value for each value of the array; values outside of the table get its first or last value."""
    if first >= 1 << 15 and array.size and array.min() < 0:
        first -= 1 << 16  # written without its sign
    found = np.empty(array.shape, np.uint16)
    for row in range(0, len(array), _ROWS):
        index = np.floor(array[row : row + _ROWS]).astype(np.int64) - first
        found[row : row + _ROWS] = table[np.clip(index, 0, len(table) - 1)]
    return found


def _expanded(path: Path, data: list[int], wide: bool) -> NDArray[np.uint16]:
    """A segmented palette, PS3.3 C.7.9.2: runs of values, lines, and repetitions of earlier segments."""
    values: list[int] = []

    def expand(at: int, segments: int | None, depth: int) -> None:
        while at + 1 < len(data) and segments != 0 and len(values) < _LONGEST_TABLE:
            kind, length = data[at : at + 2]
            at += 2
            if kind == 0:
                values.extend(data[at : at + length])
                at += length
            elif kind == 1 and values and at < len(data):
                values.extend(int(v) for v in np.around(np.linspace(values[-1], data[at], length + 1)[1:]))
                at += 1
            elif kind == 2 and depth == 0:
                parts = data[at : at + (2 if wide else 4)]
                offset = sum(part << ((16 if wide else 8) * place) for place, part in enumerate(parts))
                expand(offset, length, 1)  # counted in values, as GDCM and pydicom have it
                at += len(parts)
            else:
                raise UserError(f"{path}: its segmented palette cannot be read: segment {kind} at {at - 2}")
            segments = None if segments is None else segments - 1

    expand(0, None, 0)
    return np.array(values[:_LONGEST_TABLE], np.uint16)
