"""TIFF files: the samples of their pages exactly as stored, turned upright.

tifffile decodes lossless compressions, in all pixel types, and never allocates more than the header announces, which is
checked first. Other compressions, of 1 or 8 bits, are decoded by Pillow (libtiff).
"""

from __future__ import annotations

import math
import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image

from samstudent.errors import UserError
from samstudent.imaging.orientation import orientation_of, upright
from samstudent.imaging.size_checks import DEFLATE_RATIO, check_holds, check_size

#: Compression tag -> largest expansion factor; None: no bound below ``check_size``. LZW: each code
#: of 9 to 12 bits adds one byte to a string, and the table has 4096. Deflate has two numbers.
_LOSSLESS: dict[int, int | None] = {1: 1, 5: 4096, 8: DEFLATE_RATIO, 32946: DEFLATE_RATIO, 32773: 64, 50000: None}
#: CCITT RLE, T.4 and T.6 (1 bit), JPEG and WebP (8 bits): Pillow's libtiff checks a strip's size against the header.
_BY_PILLOW = frozenset({2, 3, 4, 7, 50001})
#: PhotometricInterpretation.
_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB, _PALETTE, _MASK, _CMYK, _YCBCR = 0, 1, 2, 3, 4, 5, 6
#: Colour spaces that are converted to RGB, by Pillow's names.
_CONVERTED = {_CMYK: "CMYK", _YCBCR: "YCbCr"}
#: Largest number of pages; each takes a fraction of a millisecond before its size is known.
_MOST_PAGES = 10_000
#: Bits of NewSubfileType: a smaller copy of another page, a mask of another page.
_NO_PAGE = 0b101


@dataclass(frozen=True, eq=False)
class Tiff:
    """Samples of a TIFF file.

    Attributes:
        pages: one array (y, x) or (y, x, channels) for each page, all of one shape and type, upright, 0 is black.
        palette: uint8 (colours, 3) where the samples are its indices, else None.
        bits: bits of a sample.
        orientation: Orientation tag of the first page, 1 to 8.
        spacing: (x, y) in mm of the pixels as stored, by ITK's rule: 1 where a resolution or its unit is missing.
    """

    pages: list[NDArray[Any]]
    palette: NDArray[Any] | None
    bits: int
    orientation: int
    spacing: tuple[float, float]


def read_tiff(path: Path) -> Tiff:
    """All pages but thumbnails and masks.

    Raises:
        UserError: truncated, too large, pages that differ, or of a kind that is not supported.
        Exception: any exception of tifffile or Pillow on a damaged file.
    """
    _check_chain(path)
    with tifffile.TiffFile(path) as file:
        file.pages.useframes = False  # each page with its own tags
        numbered: list[tuple[int, Any]] = list(enumerate(file.pages))
        numbered = [(n, page) for n, page in numbered if not page.subfiletype & _NO_PAGE] or numbered[:1]
        if not numbered:
            raise UserError(f"{path}: a TIFF without a page")
        first = numbered[0][1]
        kinds = {(p.shaped, p.dtype, p.photometric, p.compression, _orientation(p)) for _, p in numbered}
        if len(kinds) > 1:
            count = len(numbered)
            raise UserError(f"{path}: has {count} pages of different sizes, types or orientations; expected one")
        _check_supported(path, first)
        sizes = (first.imagewidth, first.imagelength, len(numbered))
        check_size(path, sizes[: 2 if len(numbered) == 1 else 3], first.samplesperpixel, first.dtype.itemsize)
        if first.compression in _BY_PILLOW:
            pages = _read_with_pillow(path, first, [number for number, _ in numbered])
        else:
            pages = [_read_page(path, page) for _, page in numbered]
        return Tiff(pages, _palette(path, first), _bits(first), _orientation(first), _spacing(first))


def tiff_orientation(path: Path) -> int:
    """The Orientation tag of a TIFF's first page, 1 to 8."""
    with tifffile.TiffFile(path) as file:
        return _orientation(file.pages[0])


def _check_chain(path: Path) -> None:
    """Refuse a circular or too long chain of pages, which tifffile would follow without end."""
    with path.open("rb") as file:
        head = file.read(16)
        order = "<" if head.startswith(b"II") else ">"
        big = head[2:4] in (b"+\0", b"\0+")
        # Offsets, number of tags of a page, bytes of a tag: BigTIFF has wider ones.
        offset_format, count_format, tag_bytes = (
            (order + "Q", order + "Q", 20) if big else (order + "I", order + "H", 12)
        )
        (offset,) = struct.unpack_from(offset_format, head, 8 if big else 4)
        seen: set[int] = set()
        while offset:
            if offset in seen or len(seen) == _MOST_PAGES:
                raise UserError(f"{path}: its chain of pages is circular, or longer than {_MOST_PAGES}")
            seen.add(offset)
            file.seek(offset)
            if len(count := file.read(struct.calcsize(count_format))) < struct.calcsize(count_format):
                return  # tifffile reports the damage
            file.seek(struct.unpack(count_format, count)[0] * tag_bytes, os.SEEK_CUR)
            if len(following := file.read(struct.calcsize(offset_format))) < struct.calcsize(offset_format):
                return
            (offset,) = struct.unpack(offset_format, following)


def _orientation(page: Any) -> int:
    return orientation_of(page.tags.valueof(274, 1))


def _spacing(page: Any) -> tuple[float, float]:
    unit = {2: 25.4, 3: 10.0}.get(page.tags.valueof(296, 1))  # ResolutionUnit: inch, centimetre
    resolutions = [page.tags.valueof(tag, None) for tag in (282, 283)]
    if unit is None or any(not pair or 0 in pair for pair in resolutions):
        return 1.0, 1.0
    x, y = (unit * below / above for above, below in resolutions)
    return x, y


def _bits(page: Any) -> int:
    bits = page.bitspersample
    return int(max(bits) if isinstance(bits, tuple) else bits)


def _check_supported(path: Path, page: Any) -> None:
    """Refuse unsupported kinds of TIFF by name, before anything is decoded."""
    compression, photometric, bits = int(page.compression), page.photometric, _bits(page)
    photometric = _BLACK_IS_ZERO if photometric is None else int(photometric)
    if compression not in _LOSSLESS and compression not in _BY_PILLOW:
        raise UserError(
            f"{path}: TIFF compression {_name(page.compression)} is not supported; save it as LZW or deflate"
        )
    if photometric not in (_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB, _PALETTE, _MASK, *_CONVERTED):
        raise UserError(f"{path}: TIFF colours {_name(page.photometric)} are not supported; save it as grey or RGB")
    if page.dtype is None:
        raise UserError(f"{path}: TIFF samples of {bits} bits in format {page.sampleformat} are not supported")
    if page.dtype.kind == "c":
        raise UserError(f"{path}: contains complex numbers; expected their magnitude")
    if page.imagedepth > 1:
        raise UserError(f"{path}: TIFF of depth {page.imagedepth} is not supported; save each slice as a page")
    if photometric == _PALETTE and page.samplesperpixel > 1:
        raise UserError(f"{path}: TIFF palette with {page.samplesperpixel} samples a pixel is not supported")
    if (compression in _BY_PILLOW or photometric in _CONVERTED) and bits > 8:
        kind = f"compression {_name(page.compression)}, colours {_name(page.photometric)}"
        raise UserError(f"{path}: TIFF of {bits} bits with {kind} is not supported; save it as LZW or deflate")


def _name(value: Any) -> str:
    return str(getattr(value, "name", value))


def _read_page(path: Path, page: Any) -> NDArray[Any]:
    """(y, x) or (y, x, channels), upright."""
    _check_segments(path, page)
    planes, _, height, width, contiguous = page.shaped
    samples = page.asarray(squeeze=False, maxworkers=1).reshape(planes, height, width, contiguous)
    # Planar files hold one plane for each channel.
    samples = np.moveaxis(samples[..., 0], 0, -1) if planes > 1 else samples[0]
    samples = samples[..., 0] if samples.shape[-1] == 1 else samples
    if page.photometric == _WHITE_IS_ZERO:
        samples = _inverted(samples, _bits(page))
    if (space := _CONVERTED.get(page.photometric)) is not None:
        channels = np.ascontiguousarray(samples[..., : len(Image.new(space, (1, 1)).getbands())])
        samples = np.asarray(Image.frombytes(space, (width, height), channels.tobytes()).convert("RGB"))
    return upright(samples, _orientation(page))


def _inverted(samples: NDArray[Any], bits: int) -> NDArray[Any]:
    if samples.dtype.kind == "u":
        return samples.dtype.type((1 << bits) - 1) - samples
    return np.invert(samples) if samples.dtype.kind == "i" else -samples


def _check_segments(path: Path, page: Any) -> None:
    """Refuse strips and tiles that are missing or beyond the file's end; tifffile would read them as zeros."""
    size = path.stat().st_size
    ratio = _LOSSLESS[int(page.compression)]
    segments = list(zip(page.dataoffsets, page.databytecounts, strict=False))
    missing = not page.is_contiguous and len(segments) < math.prod(page.chunked)
    beyond = ratio != 1 and any(offset + count > size for offset, count in segments)
    if missing or beyond or any(offset <= 0 or count <= 0 for offset, count in segments):
        raise UserError(f"{path}: truncated, some of its strips or tiles are not in the file")
    width, height = page.imagewidth, page.imagelength
    if page.is_tiled and not page.is_contiguous:
        # A tile is decoded completely, also if the image is smaller.
        width = math.ceil(width / page.tilewidth) * page.tilewidth
        height = math.ceil(height / page.tilelength) * page.tilelength
        check_size(path, (width, height), page.samplesperpixel, page.dtype.itemsize)
    bits = page.bitspersample
    needed = width * height * (sum(bits) if isinstance(bits, tuple) else bits * page.samplesperpixel) // 8
    if ratio is not None:
        check_holds(path, needed, ratio=ratio)


def _palette(path: Path, page: Any) -> NDArray[Any] | None:
    """uint8 (colours, 3) of a page whose samples are indices."""
    if page.photometric != _PALETTE:
        return None
    table = np.asarray(page.tags.valueof(320, ()))
    if table.size != 3 << _bits(page):
        raise UserError(f"{path}: a TIFF palette of {table.size} numbers, where {3 << _bits(page)} were expected")
    table = table.reshape(3, -1).T
    # As libtiff: 16-bit numbers, but some programs write 8-bit ones.
    return (table if table.max() < 256 else table >> 8).astype(np.uint8)


def _read_with_pillow(path: Path, page: Any, numbers: list[int]) -> list[NDArray[Any]]:
    """As ``_read_page``, for pages of 8 bits or less; Pillow turns them upright and inverts white-is-zero itself."""
    pages = []
    with Image.open(path) as image:
        for number in numbers:
            image.seek(number)
            image.load()
            shown = image if image.mode in ("1", "L", "LA", "P", "RGB", "RGBA") else image.convert("RGB")
            samples = np.asarray(shown)
            pages.append(samples.astype(np.uint8))
    return pages
