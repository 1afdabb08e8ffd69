"""Size checks of files before they are decoded, against small files that announce or decompress to huge images.

A few hundred bytes can announce gigabytes, or hold them compressed. Each library allocates by the header, and some
decompress without a limit; so the header is read here first, with little memory, and impossible sizes are refused.
"""

from __future__ import annotations

import gzip
import io
import os
import struct
import zlib
from pathlib import Path

from samstudent.errors import UserError
from samstudent.util.environment import whole_number

#: Deflate compresses at most 1032 bytes to one (zlib, "Maximum Expansion Factor").
DEFLATE_RATIO = 1032
#: Largest plane without ``SAMSTUDENT_MAX_PIXELS``: 8192 x 8192 pixels; a radiograph has a third of it.
MAX_PLANE = 1 << 26
#: Largest size in bytes of NIfTI extensions (DICOM headers, comments), which precede the pixels.
MAX_NIFTI_EXTENSIONS = 16 << 20


def max_pixels() -> int:
    """Largest image that is decoded, in values: environment variable ``SAMSTUDENT_MAX_PIXELS``, else 2^28."""
    return whole_number("SAMSTUDENT_MAX_PIXELS", 1 << 28, "pixels")


def check_size(path: Path, sizes: tuple[int, ...], components: int = 1, bytes_each: int = 1) -> None:
    """Refuse an image of more than ``max_pixels`` values, or with a plane of more than ``MAX_PLANE`` pixels.

    Args:
        path: for the error.
        sizes: sizes of all axes, in any order. Python's integers do not overflow.
        components: values of a pixel.
        bytes_each: bytes of a value; those of more than 8 count as several.
    """
    count = components * max(1, -(-bytes_each // 8))
    for size in sizes:
        count *= int(size)
    plane = 1
    for size in sorted(map(int, sizes))[-2:]:
        plane *= size
    own = "SAMSTUDENT_MAX_PIXELS" in os.environ
    limit = MAX_PLANE if plane > MAX_PLANE and not own else max_pixels()
    if count > max_pixels() or limit < plane:
        many = f" of {components} values each" if components > 4 else ""
        raise UserError(
            f"{path}: {' x '.join(map(str, sizes))} pixels{many} are more than the limit of {limit};"
            " set SAMSTUDENT_MAX_PIXELS to allow more"
        )


def check_holds(path: Path, needed: int, packed: bool = False, ratio: int | None = None) -> None:
    """Refuse a file that is too short for its pixels.

    Args:
        path: the file.
        needed: bytes of pixels that its header announces.
        packed: compressed by deflate (gzip, zlib).
        ratio: largest expansion factor of another compression.
    """
    size = path.stat().st_size
    if needed > size * (ratio or (DEFLATE_RATIO if packed else 1)):
        raise UserError(
            f"{path}: truncated, its {size} bytes cannot hold the {needed} bytes of pixels that its header announces"
        )


def is_gzip(path: Path) -> bool:
    """Whether a file is compressed by gzip, by its first bytes: extensions may be wrong."""
    with path.open("rb") as file:
        return file.read(2) == b"\x1f\x8b"


def unpacked(path: Path) -> io.BufferedIOBase:
    """File opened for reading, decompressed if it is gzip."""
    return gzip.open(path) if is_gzip(path) else path.open("rb")


def check_nifti_header(path: Path) -> None:
    """Refuse anything but NIfTI in one file, and extensions larger than ``MAX_NIFTI_EXTENSIONS`` or without an end.

    nibabel reads them completely, and to the end of the file if the header has no offset of the pixels.
    """
    try:
        with unpacked(path) as file:
            head = file.read(544)
    except (OSError, EOFError, zlib.error):
        return  # nibabel reports the damage
    first = int.from_bytes(head[:4], "little")
    order = "<" if first in (348, 540) else ">"
    version2 = int.from_bytes(head[:4], "little" if order == "<" else "big") == 540
    length, magic = (540, head[4:8]) if version2 else (348, head[344:348])
    if len(head) < length:
        return
    if magic[:2] == b"ni" and magic[2:3] in (b"1", b"2"):
        raise UserError(f"{path}: its pixels are in another file; save it as one .nii or .nii.gz")
    if magic[:2] != b"n+":
        raise UserError(f"{path}: has no NIfTI header (Analyze, or something else); save it as NIfTI")
    if len(head) < length + 4:
        return
    offset: float = struct.unpack_from(*((order + "q", head, 168) if version2 else (order + "f", head, 108)))[0]
    extended = head[length] != 0
    if not offset <= MAX_NIFTI_EXTENSIONS or (extended and offset < length + 4):
        raise UserError(
            f"{path}: corrupt, or its extensions are too long: pixels from byte {offset:.0f} on, where 352 to"
            f" {MAX_NIFTI_EXTENSIONS} was expected"
        )
