"""TIFF in all pixel types and layouts, written by tifffile and Pillow; named refusals."""

from __future__ import annotations

import contextlib
import struct
import tracemalloc
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from samstudent.errors import UserError
from samstudent.imaging.case import read_image
from samstudent.imaging.labels import read_masks
from samstudent.imaging.orientation import upright
from samstudent.imaging.raster import read_raster_image, read_raster_label
from samstudent.task import Task

INTEGERS = ["u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8"]
FLOATS = ["f2", "f4", "f8"]
GREY = (np.arange(20 * 30).reshape(20, 30) % 251).astype(np.uint8)
ORIENTATION = 274


def tag(orientation: int) -> list[tuple[int, str, int, int, bool]]:
    return [(ORIENTATION, "H", 1, orientation, False)]


def write(path: Path, array: NDArray[Any], **options: Any) -> Path:
    tifffile.imwrite(path, array, metadata=None, **options)
    return path


def spread(dtype: str, shape: tuple[int, ...] = (20, 30)) -> NDArray[Any]:
    """Different values over the range of the type."""
    kind, count = np.dtype(dtype), int(np.prod(shape))
    if kind.kind == "f":
        return np.linspace(-1e4, 1e4, count).astype(kind).reshape(shape)
    low, high = int(np.iinfo(kind).min), int(np.iinfo(kind).max)
    values = [low + (high - low) * i // (count - 1) for i in range(count)]
    return np.array(values, dtype=kind).reshape(shape)


@pytest.mark.parametrize("dtype", INTEGERS + FLOATS)
@pytest.mark.parametrize("orientation", [1, 3, 6])
def test_pixel_types_are_read(tmp_path: Path, dtype: str, orientation: int) -> None:
    array = spread(dtype)
    path = write(tmp_path / "a.tif", array, extratags=tag(orientation))
    stored = read_raster_image(path, "tiff")
    assert stored.pixels.dtype == array.dtype
    assert (stored.pixels == upright(array, orientation)).all()
    shown = read_image(path).pixels[0].ravel()
    order = np.argsort(upright(array, orientation).ravel(), kind="stable")
    assert (np.diff(shown[order]) >= 0).all()


LAYOUTS: dict[str, dict[str, Any]] = {
    "big-endian": {"byteorder": ">"},
    "BigTIFF": {"bigtiff": True},
    "tiles": {"tile": (16, 16)},
    "strips": {"rowsperstrip": 7},
    "LZW": {"compression": "lzw"},
    "LZW with predictor": {"compression": "lzw", "predictor": True},
    "deflate": {"compression": "zlib"},
    "deflate with predictor": {"compression": "adobe_deflate", "predictor": True, "tile": (16, 32)},
    "packbits": {"compression": "packbits"},
    "zstd": {"compression": "zstd"},
    "big-endian tiles of LZW": {"byteorder": ">", "compression": "lzw", "tile": (16, 16), "predictor": True},
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", ["u1", "u2", "i4", "f4", "f8"])
@pytest.mark.parametrize("orientation", [1, 8])
def test_layouts_with_orientation_are_read(tmp_path: Path, layout: str, dtype: str, orientation: int) -> None:
    array = spread(dtype)
    path = write(tmp_path / "a.tif", array, extratags=tag(orientation), **LAYOUTS[layout])
    assert (read_raster_image(path, "tiff").pixels == upright(array, orientation)).all()


@pytest.mark.parametrize("planar", ["contig", "separate"])
@pytest.mark.parametrize("dtype", ["u1", "u2"])
@pytest.mark.parametrize("tile", [None, (16, 16)])
def test_colours_in_both_planar_configurations_are_read(tmp_path: Path, planar: str, dtype: str, tile: Any) -> None:
    array = spread(dtype, (20, 30, 3))
    given = array if planar == "contig" else np.moveaxis(array, -1, 0)
    path = write(tmp_path / "a.tif", given, photometric="rgb", planarconfig=planar, tile=tile, extratags=tag(5))
    assert (read_raster_image(path, "tiff").pixels == upright(array, 5)).all()


@pytest.mark.parametrize("dtype", INTEGERS + ["f4"])
def test_white_is_zero_is_inverted(tmp_path: Path, dtype: str) -> None:
    array = spread(dtype)
    path = write(tmp_path / "a.tif", array, photometric="miniswhite")
    shown = read_raster_image(path, "tiff").pixels
    order = np.argsort(array.ravel(), kind="stable")
    assert (np.diff(shown.ravel()[order].astype(object)) <= 0).all() and shown.dtype == array.dtype
    if np.dtype(dtype).kind == "u":
        assert shown.min() == 0 and shown.max() == np.iinfo(dtype).max


@pytest.mark.parametrize("compression", [None, "group3", "group4", "tiff_ccitt", "packbits", "tiff_lzw"])
def test_one_bit_image_of_pillow_is_read(tmp_path: Path, compression: str | None) -> None:
    bits = GREY % 3 == 0
    Image.fromarray(bits).save(tmp_path / "a.tif", compression=compression)
    assert (read_raster_image(tmp_path / "a.tif", "tiff").pixels == bits).all()
    assert (read_raster_label(tmp_path / "a.tif", "tiff").pixels == bits).all()


@pytest.mark.parametrize("bits", [2, 4, 12])
def test_partial_bytes_are_read(tmp_path: Path, bits: int) -> None:
    array = np.arange(20 * 32).reshape(20, 32) % (1 << bits)
    packed = np.packbits((array[..., None] >> np.arange(bits)[::-1]) & 1).reshape(20, -1)
    path = write(tmp_path / "a.tif", packed)
    edit(path, 258, bits)
    edit(path, 256, 32)
    assert (read_raster_image(path, "tiff").pixels == array).all()
    assert (read_raster_label(path, "tiff").pixels == array).all()


def test_jpeg_compression_is_read(tmp_path: Path) -> None:
    smooth = np.full((32, 48, 3), (200, 100, 50), np.uint8)
    smooth[:, 24:] = 30
    image = Image.fromarray(smooth)
    image.save(tmp_path / "a.tif", compression="jpeg", quality=95, tiffinfo={ORIENTATION: 6})
    pixels = read_raster_image(tmp_path / "a.tif", "tiff").pixels
    assert pixels.shape == (48, 32, 3)
    assert np.abs(pixels.astype(int) - upright(smooth, 6)).max() < 30
    assert (np.abs(pixels[4, 4].astype(int) - [200, 100, 50]) < 5).all()


@pytest.mark.parametrize("compression", [None, "tiff_lzw", "jpeg"])
@pytest.mark.parametrize("mode", ["CMYK", "YCbCr"])
def test_other_colour_spaces_become_rgb(tmp_path: Path, mode: str, compression: str | None) -> None:
    colours = np.full((16, 24, 3), (200, 100, 50), np.uint8)
    colours[:, 12:] = (20, 90, 180)
    Image.fromarray(colours).convert(mode).save(tmp_path / "a.tif", compression=compression, tiffinfo={ORIENTATION: 6})
    pixels = read_raster_image(tmp_path / "a.tif", "tiff").pixels
    assert pixels.shape == (24, 16, 3)
    for y, x in ((3, 5), (20, 12)):
        assert np.abs(pixels[y, x].astype(int) - upright(colours, 6)[y, x]).max() <= 6


def test_thumbnails_and_masks_are_ignored(tmp_path: Path) -> None:
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        file.write(GREY, metadata=None, subfiletype=0)
        file.write(GREY[::2, ::2], metadata=None, subfiletype=1)
        file.write(GREY > 9, metadata=None, subfiletype=4, photometric="mask")
    assert (read_image(tmp_path / "a.tif", 2).pixels == GREY).all()
    assert (read_raster_label(tmp_path / "a.tif", "tiff").pixels == GREY).all()


def test_pages_are_slices(tmp_path: Path) -> None:
    volume = np.stack([GREY + i for i in range(3)]).astype(np.uint16) * 257
    path = write(tmp_path / "a.tif", volume, photometric="minisblack", extratags=tag(6))
    assert (read_raster_image(path, "tiff").pixels == np.stack([upright(page, 6) for page in volume])).all()
    with pytest.raises(UserError, match=r"a\.tif: has 3 pages; expected one"):
        read_raster_label(path, "tiff")
    with pytest.raises(UserError, match="task's dimension is 2"):
        read_image(path, 2)
    with tifffile.TiffWriter(tmp_path / "b.tif") as file:
        file.write(GREY, metadata=None)
        file.write(GREY[:10], metadata=None)
    with pytest.raises(UserError, match="2 pages of different sizes"):
        read_image(tmp_path / "b.tif")


@pytest.mark.parametrize(("unit", "expected"), [(2, (0.508, 0.254)), (3, (0.2, 0.1)), (1, (1, 1))])
@pytest.mark.parametrize("orientation", [1, 6])
def test_spacing_is_that_of_itk(tmp_path: Path, unit: int, expected: tuple[float, float], orientation: int) -> None:
    path = write(tmp_path / "a.tif", GREY, resolution=(100, 50), resolutionunit=unit, extratags=tag(orientation))
    assert read_image(path).grid.spacing == pytest.approx(expected if orientation == 1 else expected[::-1])


# Refused by name


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"compression": "lzma"}, "TIFF compression LZMA is not supported"),
        ({"compression": "jpeg2000"}, "TIFF compression .*JPEG_?2000.* is not supported"),
        ({"photometric": "cfa"}, "TIFF colours CFA are not supported"),
    ],
)
def test_unsupported_features_are_named(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    path = write(tmp_path / "a.tif", GREY, **options)
    with pytest.raises(UserError, match=rf"a\.tif: {message}") as error:
        read_image(path)
    assert "corrupt" not in str(error.value) and "truncated" not in str(error.value)


def test_complex_numbers_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="complex numbers"):
        read_image(write(tmp_path / "a.tif", GREY.astype(np.complex64)))


@pytest.mark.parametrize("layout", [*LAYOUTS, "plain"])
@pytest.mark.parametrize("share", [0.3, 0.7, 0.97])
def test_truncated_file_is_refused(tmp_path: Path, layout: str, share: float) -> None:
    noise = np.random.default_rng(0).integers(0, 60000, (60, 80), dtype=np.uint16)
    path = write(tmp_path / "a.tif", noise, **LAYOUTS.get(layout, {}))
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(UserError, match=r"a\.tif"):
        read_image(path)


def edit(path: Path, number: int, value: int, kind: str = "<I") -> None:
    """Overwrite the value of a tag of type SHORT or LONG that lies in its entry."""
    content = bytearray(path.read_bytes())
    entry = next(
        content.index(struct.pack("<HHI", number, type, 1))
        for type in (3, 4)
        if struct.pack("<HHI", number, type, 1) in content
    )
    content[entry + 2 : entry + 4] = struct.pack("<H", 4)
    content[entry + 8 : entry + 12] = struct.pack(kind, value)
    path.write_bytes(content)


@pytest.mark.parametrize("compression", [None, "zlib", "lzw", "packbits"])
def test_more_pixels_than_the_file_can_hold_are_refused(tmp_path: Path, compression: str | None) -> None:
    path = write(tmp_path / "a.tif", np.zeros((16, 16), np.uint8), compression=compression)
    for number in (256, 257, 278):
        edit(path, number, 8000)
    with pytest.raises(UserError, match=r"a\.tif: truncated"):
        read_image(path)


def test_huge_tiles_of_a_small_image_need_little_memory(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tif", np.zeros((16, 16), np.uint8), compression="zlib", tile=(16, 16))
    for number, value in ((322, 60000), (323, 60000)):
        edit(path, number, value)
    tracemalloc.start()
    with pytest.raises(UserError, match="more than the limit"):
        read_image(path)
    assert tracemalloc.get_traced_memory()[1] < 20 << 20
    tracemalloc.stop()


def test_strip_larger_than_announced_is_refused(tmp_path: Path) -> None:
    """A deflate bomb: 200 MB of zeros in the strip of a small image."""
    path = tmp_path / "a.tif"
    packed = zlib.compress(bytes(200 << 20), 9)
    path = write(path, np.zeros((64, 64), np.uint8), compression="zlib")
    content = path.read_bytes()
    path.write_bytes(content + packed)
    edit(path, 273, len(content))
    edit(path, 279, len(packed))
    tracemalloc.start()
    with contextlib.suppress(UserError):
        assert not read_image(path).pixels.any()
    assert tracemalloc.get_traced_memory()[1] < 20 << 20
    tracemalloc.stop()


@pytest.mark.parametrize("bigtiff", [False, True])
@pytest.mark.parametrize(("pages", "back"), [(1, 0), (3, 0), (300, 120)])
def test_cyclic_pages_are_refused(tmp_path: Path, bigtiff: bool, pages: int, back: int) -> None:
    path = write(tmp_path / "a.tif", np.zeros((pages, 4, 4), np.uint8), photometric="minisblack", bigtiff=bigtiff)
    with tifffile.TiffFile(path) as file:
        places = [page.offset for page in file.pages]
        assert len(places) == pages
        tags = len(file.pages[-1].tags)
    content = bytearray(path.read_bytes())
    end = places[-1] + (8 + tags * 20 if bigtiff else 2 + tags * 12)
    kind = "<Q" if bigtiff else "<I"
    assert struct.unpack_from(kind, content, end) == (0,)
    struct.pack_into(kind, content, end, places[back])
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"a\.tif: its chain of pages is circular"):
        read_image(path)


def test_strips_without_data_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tif", GREY, compression="zlib")
    edit(path, 279, 0)
    with pytest.raises(UserError, match="truncated, some of its strips"):
        read_image(path)


# Labels

TASK = Task.model_validate({"name": "t", "dimension": 2, "structures": ["a", "b", "c"]})


@settings(max_examples=40, deadline=None)
@given(
    dtype=st.sampled_from(INTEGERS + FLOATS),
    layout=st.sampled_from([*LAYOUTS, "plain"]),
    orientation=st.integers(1, 8),
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    seed=st.integers(0, 1000),
)
def test_label_round_trip_is_lossless(
    tmp_path_factory: pytest.TempPathFactory,
    dtype: str,
    layout: str,
    orientation: int,
    height: int,
    width: int,
    seed: int,
) -> None:
    values = np.random.default_rng(seed).integers(0, 4, (height, width))
    options = dict(LAYOUTS.get(layout, {}))
    if np.dtype(dtype).itemsize > 4:
        options.pop("predictor", None)
    folder = tmp_path_factory.mktemp("label")
    path = write(folder / "label.tif", values.astype(dtype), extratags=tag(orientation), **options)
    expected = upright(values, orientation)
    image = write(folder / "image.tif", expected.astype(np.uint8))
    masks = read_masks(path, TASK, read_image(image).grid)
    assert all((masks[v - 1] == (expected == v)).all() for v in (1, 2, 3))
