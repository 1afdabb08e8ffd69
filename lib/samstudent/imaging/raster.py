"""PNG, JPEG and TIFF as images and as labels: one reader that keeps every value and turns images upright."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from samstudent.errors import UserError
from samstudent.imaging.formats import Stored, decoding, itk_reader
from samstudent.imaging.grid import LPS_TO_RAS
from samstudent.imaging.orientation import orientation_note, orientation_of, swaps_axes, upright
from samstudent.imaging.size_checks import check_size
from samstudent.imaging.tiff import read_tiff, tiff_orientation

#: ITK's readers, whose spacing clients use.
_ITK = {"png": "PNGImageIO", "jpeg": "JPEGImageIO"}
#: Starts of the PNG chunks in which Pillow finds an orientation.
_PNG_ORIENTED = (b"eXIf", b"Raw profile type exif", b"XML:com.adobe.xmp")
#: Unsupported kinds of JPEG, by the marker of their frame.
_JPEG_FRAMES = {0xC3: "lossless JPEG", 0xC9: "arithmetic JPEG", 0xF7: "JPEG-LS"}


@dataclass(frozen=True, eq=False)
class Raster:
    """Samples of a file, upright.

    Attributes:
        samples: (y, x) or (y, x, channels), or with a first axis for the pages of a TIFF. Integers as stored, also of
            less than 8 bits; with a palette its indices.
        shape: (y, x) or (page, y, x).
        palette: uint8 (colours, 3), or None.
        bits: of a sample.
        orientation: the file's, 1 to 8.
        spacing: (x, y) in mm.
    """

    samples: NDArray[Any]
    shape: tuple[int, ...]
    palette: NDArray[Any] | None
    bits: int
    orientation: int
    spacing: tuple[float, float]


def read_raster_image(path: Path, kind: str) -> Stored:
    """PNG, JPEG or TIFF as an image: palettes are resolved to colours.

    Args:
        path: the file.
        kind: png, jpeg or tiff, as ``kind_of`` returns it.

    Raises:
        UserError: truncated, too large, or of a variant that is not supported.
    """
    raster = _read(path, kind)
    pixels = raster.samples
    if raster.palette is not None:
        if (highest := int(pixels.max())) >= len(raster.palette):
            raise UserError(f"{path}: index {highest} is not in its palette of {len(raster.palette)} colours")
        pixels = raster.palette[pixels]
    return _stored(pixels, raster)


def read_raster_label(path: Path, kind: str) -> Stored:
    """PNG or TIFF as a label map: grey values, also saved as colours or by a palette of greys; indices of a palette of
    colours if its index 0 is black. Opacity is ignored.

    Args:
        path: the file.
        kind: png or tiff, as ``kind_of`` returns it.

    Raises:
        UserError: as ``read_raster_image``; several pages; colours that define no label values.
    """
    raster = _read(path, kind)
    if len(raster.shape) > 2:
        raise UserError(f"{path}: has {raster.shape[0]} pages; expected one")
    values = raster.samples
    if raster.palette is not None:
        values = _by_palette(raster, path)
    elif values.ndim > 2:
        values = _grey_of(values, path)
    return _stored(values, raster)


def raster_orientation(path: Path, kind: str) -> int:
    """The orientation, 1 to 8, of a PNG, JPEG or TIFF, from its header alone.

    Raises:
        UserError: the file is damaged.
    """
    with decoding(path, kind.upper()):
        if kind == "tiff":
            return tiff_orientation(path)
        if kind == "png" and not _has_exif(path):
            return 1
        if kind == "jpeg":
            _check_jpeg(path)
        with _opened(path) as image:
            check_size(path, image.size, len(image.getbands()))
            return _exif_orientation(image)


def _exif_orientation(image: Image.Image) -> int:
    """Orientation from the EXIF data; decodes a PNG with EXIF data after the pixels or in a text chunk."""
    return orientation_of(image.getexif().get(274, 1))


def _read(path: Path, kind: str) -> Raster:
    with decoding(path, kind.upper()):
        if kind == "tiff":
            tiff = read_tiff(path)
            orientation = tiff.orientation
            pages = tiff.pages
            samples = pages[0] if len(pages) == 1 else np.stack(pages)
            shape = pages[0].shape[:2] if len(pages) == 1 else (len(pages), *pages[0].shape[:2])
            palette, bits, spacing = tiff.palette, tiff.bits, tiff.spacing
        else:
            samples, palette, bits, orientation = _read_png(path) if kind == "png" else _read_jpeg(path)
            samples = upright(samples, orientation)
            shape, spacing = samples.shape[:2], _itk_spacing(path, kind)
    if not all(1e-6 < step < 1e6 for step in spacing):  # not of a scanner
        spacing = (1.0, 1.0)
    if swaps_axes(orientation):
        spacing = spacing[::-1]
    return Raster(samples, shape, palette, bits, orientation, spacing)


def _opened(path: Path) -> Image.Image:
    """Image opened by Pillow, with our limit of pixels in place of Pillow's."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        try:
            return Image.open(path)
        except Image.DecompressionBombError as error:
            raise UserError(f"{path}: more than the limit of pixels: {error}") from error


def _read_png(path: Path) -> tuple[NDArray[Any], NDArray[Any] | None, int, int]:
    """Samples as stored, palette, bits of a sample, orientation."""
    with path.open("rb") as file:
        head = file.read(26)
    bits, colour_type = head[24], head[25]
    with _opened(path) as image:
        check_size(path, image.size, len(image.getbands()))
        if (pages := getattr(image, "n_frames", 1)) > 1:
            raise UserError(f"{path}: has {pages} pages; expected one")
        if bits == 16 and colour_type != 0:
            # Pillow reduces colours and grey with alpha to 8 bits.
            orientation = _exif_orientation(image) if _has_exif(path) else 1
            return np.asarray(imagecodecs.png_decode(path.read_bytes())), None, bits, orientation
        samples = np.asarray(image)
        orientation = _exif_orientation(image) if _has_exif(path) else 1
        palette = np.array(image.getpalette("RGB"), np.uint8).reshape(-1, 3) if image.mode == "P" else None
    if bits == 16:
        samples = samples.astype(np.uint16)
    elif bits == 1:
        samples = samples.astype(np.uint8)
    elif bits < 8 and palette is None:
        samples = samples // (255 // ((1 << bits) - 1))  # Pillow stretches them to 0 to 255.
    return samples, palette, bits, orientation


def _read_jpeg(path: Path) -> tuple[NDArray[Any], None, int, int]:
    """Grey or RGB samples, no palette, bits of a sample, orientation."""
    _check_jpeg(path)
    with _opened(path) as image:
        check_size(path, image.size, len(image.getbands()))
        orientation = _exif_orientation(image)
        # A phone's file may hold smaller copies; the first image is the photograph.
        return np.asarray(image if image.mode in ("L", "RGB") else image.convert("RGB")), None, 8, orientation


def _check_jpeg(path: Path) -> None:
    """Refuse unsupported kinds of JPEG by name; Pillow's error is only that it cannot identify the file."""
    with path.open("rb") as file:
        file.seek(2)
        while len(head := file.read(5)) == 5 and head[0] == 0xFF:
            marker, length, bits = head[1], int.from_bytes(head[2:4], "big"), head[4]
            if marker in _JPEG_FRAMES:
                raise UserError(f"{path}: {_JPEG_FRAMES[marker]} is not supported; save it as PNG or TIFF")
            if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
                if bits != 8:
                    raise UserError(f"{path}: JPEG of {bits} bits is not supported; save it as PNG or TIFF")
                return
            if marker == 0xFF:  # fill
                file.seek(-4, 1)
                continue
            file.seek(length - 3, 1)


def _has_exif(path: Path) -> bool:
    """Whether a PNG has a chunk that may hold an orientation; without one the pixels need not be decoded for it."""
    with path.open("rb") as file:
        file.seek(8)
        while len(head := file.read(8)) == 8:
            length, name = int.from_bytes(head[:4], "big"), head[4:]
            start = name + file.read(min(length, 24))
            if start.startswith(_PNG_ORIENTED[0]) or start[4:].startswith(_PNG_ORIENTED[1:]):
                return True
            file.seek(length - len(start) + 8, 1)  # with the checksum
    return False


def _by_palette(raster: Raster, path: Path) -> NDArray[Any]:
    """Label values of palette indices."""
    palette, used = raster.palette, np.unique(raster.samples)
    assert palette is not None
    # A palette that is too short or constant was not set by its program.
    if used[-1] < len(palette) and (palette == palette[:, :1]).all():
        greys = palette[:, 0]
        if raster.bits == 1 and set(greys.tolist()) == {0, 255}:
            greys = greys // 255  # black and white, as in a file of one bit without palette
        if used.size == 1 or len(set(greys[used].tolist())) > 1:
            return greys[raster.samples]
    if palette[0].any():
        raise UserError(
            f"{path}: its palette is neither one of greys nor one of colours with black as index 0, so the"
            " structure of a pixel is not defined; save the label as grey values"
        )
    return raster.samples


def _grey_of(values: NDArray[Any], path: Path) -> NDArray[Any]:
    """(y, x) from (y, x, channels) of equal colour channels, without opacity."""
    channels = values.shape[-1]
    colours, opacity = (values[..., :-1], values[..., -1]) if channels in (2, 4) else (values, None)
    grey = colours[..., 0]
    if channels > 4 or (colours != grey[..., None]).any():
        raise UserError(f"{path}: has {channels} channels of different values; expected grey values or a palette")
    if opacity is not None and (grey == grey.flat[0]).all() and (opacity != opacity.flat[0]).any():
        raise UserError(f"{path}: only its opacity differs from pixel to pixel; expected grey values or a palette")
    return grey


def _stored(pixels: NDArray[Any], raster: Raster) -> Stored:
    affine = LPS_TO_RAS @ np.diag([*raster.spacing, 1.0, 1.0])
    notes = () if raster.orientation == 1 else (orientation_note(raster.orientation),)
    return Stored(pixels, raster.shape, affine, has_geometry=False, notes=notes, orientation=raster.orientation)


def _itk_spacing(path: Path, kind: str) -> tuple[float, float]:
    """(x, y) in mm of the pixels as stored: as read from the header by ITK, and with it Slicer."""
    reader = itk_reader(path, _ITK[kind])
    try:
        reader.ReadImageInformation()
    except RuntimeError:  # ITK, and so the clients, cannot read a grey PNG with transparency
        return 1.0, 1.0
    x, y = reader.GetSpacing()[:2]
    return float(x), float(y)
