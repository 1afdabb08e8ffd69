"""Decoder of the stored values of a DICOM image, for all supported compressions."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

from numpy.typing import NDArray
from pydicom import uid
from pydicom.dataset import Dataset
from pydicom.encaps import get_frame
from pydicom.pixels.decoders.base import get_decoder

from samstudent.errors import UserError
from samstudent.imaging.dicom_header import frames_of, number, text, transfer_syntax

#: Decoder plugin of pydicom by transfer syntax: one each, so that pixels do not depend on other installed packages.
_JPEG = {uid.JPEGBaseline8Bit: "pillow", uid.JPEGExtended12Bit: "pillow"}
_JPEG_LOSSLESS = {uid.JPEGLossless: "gdcm", uid.JPEGLosslessSV1: "gdcm"}
_JPEG_LS = {uid.JPEGLSLossless: "pyjpegls", uid.JPEGLSNearLossless: "pyjpegls"}
_JPEG_2000 = dict.fromkeys(
    (uid.JPEG2000Lossless, uid.JPEG2000, uid.HTJ2KLossless, uid.HTJ2KLosslessRPCL, uid.HTJ2K), "pylibjpeg"
)
PLUGINS = {**_JPEG, **_JPEG_LOSSLESS, **_JPEG_LS, **_JPEG_2000, uid.RLELossless: "pydicom"}
_PHOTOMETRIC = (
    "MONOCHROME1", "MONOCHROME2", "PALETTE COLOR", "RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT"
)  # fmt: skip
_JP2 = b"\0\0\0\x0cjP  "


def decoded_values(path: Path, dataset: Dataset, frame: int = 0) -> tuple[NDArray[Any], str]:
    """Stored values (y, x) or (y, x, 3) of a frame without overlay bits, and their photometric interpretation."""
    syntax = transfer_syntax(dataset)
    if syntax is None:
        raise UserError(
            f"{path}: has compressed pixels but names no transfer syntax; expected (0002,0010) in its header"
        )
    if "PixelData" in dataset and not syntax.is_encapsulated and dataset["PixelData"].is_undefined_length:
        raise UserError(f"{path}: its pixels are compressed, but its transfer syntax is {syntax.name}")
    dataset.file_meta.TransferSyntaxUID = syntax
    if not any(keyword in dataset for keyword in ("PixelData", "FloatPixelData", "DoubleFloatPixelData")):
        raise UserError(f"{path}: contains no pixels: only the header of an image, or truncated after it")
    photometric = text(dataset, "PhotometricInterpretation").upper() or "MONOCHROME2"
    if photometric not in _PHOTOMETRIC:
        raise UserError(
            f"{path}: photometric interpretation {photometric} cannot be read; expected {', '.join(_PHOTOMETRIC)}"
        )
    dataset.PhotometricInterpretation = photometric
    allocated = int(number(dataset, "BitsAllocated", 16))
    stored = min(int(number(dataset, "BitsStored", allocated)) or allocated, allocated)
    high = int(number(dataset, "HighBit", stored - 1))
    surplus = high + 1 - stored if stored <= high + 1 <= allocated else 0
    dataset.BitsAllocated = allocated
    dataset.BitsStored = stored + surplus  # overlays may be stored in the bits below and above the pixel's
    if syntax.is_encapsulated:
        _check_packed(path, dataset, _packed(dataset, frame))
        plugin = PLUGINS[syntax]
        if syntax == uid.JPEGExtended12Bit and stored > 8:
            # GDCM decodes it, but pydicom offers GDCM only for another transfer syntax; Pillow supports 8 bits only.
            syntax, plugin = uid.JPEGLosslessSV1, "gdcm"
            dataset.file_meta.TransferSyntaxUID = syntax
        array, facts = get_decoder(syntax).as_array(dataset, index=frame, decoding_plugin=plugin)
    else:
        array, facts = get_decoder(syntax).as_array(dataset, index=frame)
    if surplus and array.dtype.kind in "iu":
        array = array >> surplus
    dataset.BitsStored = stored
    return array, str(facts.get("photometric_interpretation") or photometric)


def _packed(dataset: Dataset, frame: int) -> bytes:
    """Compressed bytes of a frame."""
    table = [dataset.get(f"ExtendedOffsetTable{part}") for part in ("", "Lengths")]
    return get_frame(
        dataset.PixelData,
        frame,
        number_of_frames=frames_of(dataset),
        extended_offsets=None if None in table else (table[0], table[1]),
    )


def _check_packed(path: Path, dataset: Dataset, packed: bytes) -> None:
    """Refuse a compressed image whose own size differs from the header's: decoders allocate by the former."""
    found = _jpeg_2000_size(packed) or _jpeg_size(packed)
    expected = int(dataset.Columns), int(dataset.Rows), int(number(dataset, "SamplesPerPixel", 1))
    if found and found != expected:
        raise UserError(
            f"{path}: its header announces {expected[0]} x {expected[1]} pixels of {expected[2]} values, its compressed"
            f" image is {found[0]} x {found[1]} of {found[2]}"
        )
    if found is None and dataset.file_meta.TransferSyntaxUID != uid.RLELossless:
        raise UserError(f"{path}: truncated or corrupt, its compressed image has no header")


def _jpeg_2000_size(packed: bytes) -> tuple[int, int, int] | None:
    """(columns, rows, values of a pixel) of a JPEG 2000 codestream, PS 15444-1 A.5.1; None: not such a codestream."""
    at = 0
    if packed.startswith(_JP2):
        at = len(_JP2) + 4
        while packed[at + 4 : at + 8] != b"jp2c":
            length = int.from_bytes(packed[at : at + 4], "big")
            if length < 8 or at + length >= len(packed):
                return None
            at += length
        at += 8
    if packed[at : at + 4] != b"\xff\x4f\xff\x51" or len(packed) < at + 42:
        return None
    right, bottom, left, top = struct.unpack_from(">4I", packed, at + 8)
    return right - left, bottom - top, struct.unpack_from(">H", packed, at + 40)[0]


def _jpeg_size(packed: bytes) -> tuple[int, int, int] | None:
    """(columns, rows, values of a pixel) of a JPEG or JPEG-LS codestream; None: not such a codestream."""
    at = 2
    while packed[:2] == b"\xff\xd8" and at + 10 <= len(packed) and packed[at] == 0xFF:
        marker, length = packed[at + 1], struct.unpack_from(">H", packed, at + 2)[0]
        if marker == 0xFF:
            at += 1  # fill bytes
            continue
        if marker == 0xF7 or (0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC)):
            rows, columns, values = struct.unpack_from(">HHB", packed, at + 5)
            return columns, rows, values
        at += 2 + length
    return None
