"""PNG and JPEG as images and labels: pixel types, palettes, opacity, orientation, named refusals."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, ImageOps, PngImagePlugin

from samstudent.cli.doctor import doctor
from samstudent.cli.refine_folder import refine_folder
from samstudent.errors import UserError
from samstudent.imaging.case import read_image
from samstudent.imaging.labels import read_masks
from samstudent.imaging.orientation import swaps_axes, upright
from samstudent.imaging.raster import raster_orientation, read_raster_image, read_raster_label
from samstudent.task import Task, load_task

TASK = Task.model_validate({"name": "t", "dimension": 2, "structures": ["a", "b", "c"]})
GREY = (np.arange(20 * 30).reshape(20, 30) % 251).astype(np.uint8)
LABEL = (np.arange(20 * 30).reshape(20, 30) // 7 % 4).astype(np.uint8)
CASES = Path(__file__).resolve().parents[2] / "shared" / "cases"
VOC = [0, 0, 0, 128, 0, 0, 0, 128, 0, 128, 128, 0]


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def write_png(path: Path, values: NDArray[Any], bits: int, colour_type: int, *more: bytes) -> Path:
    """Write a PNG that Pillow cannot write. ``values``: (y, x) or (y, x, channels)."""
    height, width = values.shape[:2]
    rows = values.reshape(height, -1)
    if bits == 16:
        packed = np.ascontiguousarray(rows, ">u2").view(np.uint8)
    else:
        packed = np.packbits(
            (rows.astype(np.uint8)[..., None] >> np.arange(bits)[::-1] & 1).reshape(height, -1), axis=1
        )
    raw = b"".join(b"\0" + row.tobytes() for row in packed)
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour_type, 0, 0, 0))
    body = head + b"".join(more) + chunk(b"IDAT", zlib.compress(raw)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + body)
    return path


def exif(orientation: int) -> bytes:
    return Image.Exif.tobytes(_exif(orientation))


def _exif(orientation: int) -> Image.Exif:
    found = Image.Exif()
    found[274] = orientation
    return found


def labels(path: Path) -> NDArray[Any]:
    return read_raster_label(path, "png").pixels


# Pixel types


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_sixteen_bits_are_preserved(tmp_path: Path, channels: int) -> None:
    array = np.random.default_rng(0).integers(0, 65536, (20, 30, channels), dtype=np.uint16).squeeze()
    (tmp_path / "a.png").write_bytes(imagecodecs.png_encode(array))
    stored = read_raster_image(tmp_path / "a.png", "png")
    assert stored.shape == (20, 30) and stored.pixels.dtype == np.uint16 and (stored.pixels == array).all()
    expected = array[None] if channels == 1 else np.moveaxis(array, -1, 0)[: 1 if channels == 2 else 3]
    assert (read_image(tmp_path / "a.png").pixels == expected).all()


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
@pytest.mark.parametrize("transparent", [False, True])
def test_grey_images_of_any_bit_depth_are_read(tmp_path: Path, bits: int, transparent: bool) -> None:
    values = np.arange(20 * 32).reshape(20, 32) * 97 % (1 << bits)
    more = [chunk(b"tRNS", b"\0\1")] if transparent else []
    path = write_png(tmp_path / "a.png", values, bits, 0, *more)
    assert (labels(path) == values).all()
    assert (read_image(path).pixels[0] == values).all()


@pytest.mark.parametrize("bits", [8, 16])
def test_transparent_colour_is_ignored(tmp_path: Path, bits: int) -> None:
    values = np.arange(20 * 30 * 3).reshape(20, 30, 3) * 97 % (1 << bits)
    path = write_png(tmp_path / "a.png", values, bits, 2, chunk(b"tRNS", b"\0\1\0\2\0\3"))
    assert (read_image(path).pixels == np.moveaxis(values, -1, 0)).all()


def test_interlaced_images_are_read(tmp_path: Path) -> None:
    content = imagecodecs.png_encode(GREY)
    rows = [(slice(y, None, dy), slice(x, None, dx)) for x, y, dx, dy in (
        (0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)
    )]  # fmt: skip
    raw = b"".join(b"\0" + row.tobytes() for where in rows for row in GREY[where] if row.size)
    head = chunk(b"IHDR", content[16:28] + b"\1")
    (tmp_path / "a.png").write_bytes(content[:8] + head + chunk(b"IDAT", zlib.compress(raw)) + chunk(b"IEND", b""))
    assert (labels(tmp_path / "a.png") == GREY).all()
    assert (read_image(tmp_path / "a.png").pixels == GREY).all()


# Palettes


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
@pytest.mark.parametrize("transparent", [False, True])
def test_grey_palette_in_any_order(tmp_path: Path, bits: int, transparent: bool) -> None:
    """As optimisers write a grey image of few values."""
    greys = np.array([1, 0] if bits == 1 else [2, 0, 3, 1])
    order = np.argsort(greys)
    values = LABEL % len(greys)
    more = [chunk(b"PLTE", bytes(np.repeat(greys, 3).astype(np.uint8)))]
    if transparent:
        more.append(chunk(b"tRNS", b"\x80\x40"))
    path = write_png(tmp_path / "a.png", order[values], bits, 3, *more)
    assert (labels(path) == values).all()
    assert (read_image(path).pixels == values).all() and len(read_image(path).pixels) == 3


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_palette_of_colours_after_black(tmp_path: Path, bits: int) -> None:
    path = write_png(tmp_path / "a.png", LABEL, bits, 3, chunk(b"PLTE", bytes(VOC)), chunk(b"tRNS", b"\0\xff"))
    assert (labels(path) == LABEL).all()
    assert (np.moveaxis(read_image(path).pixels, 0, -1) == np.reshape(VOC, (4, 3))[LABEL]).all()


@pytest.mark.parametrize("extension", [".png", ".tif"])
def test_palettes_by_pillow(tmp_path: Path, extension: str) -> None:
    path, kind = tmp_path / f"a{extension}", "png" if extension == ".png" else "tiff"
    image = Image.fromarray(LABEL, mode="P")
    image.putpalette([value for index in range(256) for value in [255 - index] * 3])
    image.save(path)
    assert (read_raster_label(path, kind).pixels == 255 - LABEL).all()
    image.putpalette([0, 255, 0, 255, 0, 0, 0, 0, 0, 9, 9, 9])
    image.save(path)
    with pytest.raises(UserError, match="neither one of greys nor one of colours with black as index 0"):
        read_raster_label(path, kind)
    image.putpalette(VOC)
    image.save(path)
    assert (read_raster_label(path, kind).pixels == LABEL).all()
    if extension == ".tif":  # without a palette; as PNG Pillow cuts the values of such an image to one bit
        Image.fromarray(LABEL, mode="P").save(path)
        assert (read_raster_label(path, kind).pixels == LABEL).all()


def test_palette_of_black_and_white_is_one_bit(tmp_path: Path) -> None:
    path = write_png(tmp_path / "a.png", 1 - LABEL % 2, 1, 3, chunk(b"PLTE", b"\xff\xff\xff\0\0\0"))
    assert (labels(path) == LABEL % 2).all()


def test_incomplete_palette_is_accepted_in_labels(tmp_path: Path) -> None:
    path = write_png(tmp_path / "a.png", LABEL, 8, 3, chunk(b"PLTE", bytes(3)))
    assert (labels(path) == LABEL).all()
    with pytest.raises(UserError, match="index 3 is not in its palette of 1 colours"):
        read_image(path)
    path = write_png(tmp_path / "a.png", LABEL, 8, 3, chunk(b"PLTE", bytes(12)))
    assert (labels(path) == LABEL).all()
    path = write_png(tmp_path / "a.png", LABEL, 8, 3, chunk(b"PLTE", b"\xff" * 12))
    with pytest.raises(UserError, match="neither one of greys"):
        labels(path)


# Colours and opacity of labels


@pytest.mark.parametrize("mode", ["LA", "RGB", "RGBA"])
def test_grey_saved_as_colour_is_read(tmp_path: Path, mode: str) -> None:
    Image.fromarray(LABEL).convert(mode).save(tmp_path / "a.png")
    assert (labels(tmp_path / "a.png") == LABEL).all()


def test_labels_in_colours_or_opacity_are_refused(tmp_path: Path) -> None:
    Image.fromarray(np.dstack([LABEL, LABEL * 0, LABEL])).save(tmp_path / "a.png")
    with pytest.raises(UserError, match="3 channels of different values; expected grey values or a palette"):
        labels(tmp_path / "a.png")
    Image.fromarray(np.dstack([LABEL * 0, LABEL]), mode="LA").save(tmp_path / "a.png")
    with pytest.raises(UserError, match="only its opacity differs"):
        labels(tmp_path / "a.png")


# Orientation


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("extension", [".jpg", ".png", ".tif"])
def test_image_and_label_are_rotated_as_by_pillow(tmp_path: Path, orientation: int, extension: str) -> None:
    path = tmp_path / f"a{extension}"
    options = {"tiffinfo": {274: orientation}} if extension == ".tif" else {"exif": exif(orientation)}
    Image.fromarray(GREY).save(path, **options)
    kind = {".jpg": "jpeg", ".png": "png", ".tif": "tiff"}[extension]
    assert raster_orientation(path, kind) == orientation
    with Image.open(path) as image:
        # Pillow 13 reads raw TIFF of orientation 5 to 8 as another shape.
        expected = upright(GREY, orientation) if extension == ".tif" else np.asarray(ImageOps.exif_transpose(image))
    image = read_image(path)
    assert (image.pixels[0] == expected).all() and image.grid.orientation == orientation
    if extension != ".jpg":
        Image.fromarray(LABEL).save(path, **options)
        masks = read_masks(path, TASK, image.grid)
        assert all((masks[v - 1] == (upright(LABEL, orientation) == v)).all() for v in (1, 2, 3))
    label = tmp_path / "label.png"
    Image.fromarray(LABEL).save(label)
    if swaps_axes(orientation):
        with pytest.raises(UserError, match=rf"label.png: .*orientation {orientation} .*must be drawn on it upright"):
            read_masks(label, TASK, image.grid)
    else:
        assert (read_masks(label, TASK, image.grid)[0] == (LABEL == 1)).all()


def test_label_of_slicer_on_the_unrotated_image_is_refused(tmp_path: Path) -> None:
    Image.fromarray(GREY).save(tmp_path / "a.jpg", exif=exif(6), dpi=(300, 300))
    label = sitk.GetImageFromArray(LABEL[None])
    label.SetSpacing((25.4 / 300, 25.4 / 300, 1))
    sitk.WriteImage(label, str(tmp_path / "label.nrrd"))
    with pytest.raises(UserError, match="must be drawn on it upright"):
        read_masks(tmp_path / "label.nrrd", TASK, read_image(tmp_path / "a.jpg").grid)


def test_orientation_after_the_pixels_and_in_text_is_read(tmp_path: Path) -> None:
    Image.fromarray(GREY).save(tmp_path / "a.png", exif=exif(8))
    content = (tmp_path / "a.png").read_bytes()
    start = content.index(b"eXIf") - 4
    length = struct.unpack(">I", content[start : start + 4])[0] + 12
    block, rest = content[start : start + length], content[:start] + content[start + length :]
    (tmp_path / "a.png").write_bytes(rest[:-12] + block + rest[-12:])
    assert (read_image(tmp_path / "a.png").pixels[0] == upright(GREY, 8)).all()


def test_rotation_is_logged_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    Image.fromarray(GREY).save(tmp_path / "a.jpg", exif=exif(6))
    for _ in range(3):
        read_image(tmp_path / "a.jpg")
    assert [r.getMessage() for r in caplog.records] == [
        f"{tmp_path / 'a.jpg'}: has orientation 6 (EXIF or TIFF tag): it is shown upright, and labels must be upright"
    ]


@pytest.mark.parametrize("extension", [".png", ".jpg", ".tif"])
@pytest.mark.parametrize("orientation", [1, 6])
def test_spacing_is_that_of_itk(tmp_path: Path, extension: str, orientation: int) -> None:
    path = tmp_path / f"a{extension}"
    options = {"tiffinfo": {274: orientation}} if extension == ".tif" else {"exif": exif(orientation)}
    Image.fromarray(GREY).save(path, dpi=(300, 150), **options)
    spacing = sitk.ReadImage(str(path)).GetSpacing()
    assert read_image(path).grid.spacing == pytest.approx(spacing if orientation == 6 else spacing[::-1])


# What is not read


def test_unsupported_jpeg_kinds_are_named(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(imagecodecs.jpegls_encode(GREY))
    with pytest.raises(UserError, match=r"a\.jpg: JPEG-LS is not supported"):
        read_image(tmp_path / "a.jpg")
    (tmp_path / "a.jpg").write_bytes(imagecodecs.ljpeg_encode(GREY))
    with pytest.raises(UserError, match=r"a\.jpg: lossless JPEG is not supported"):
        read_image(tmp_path / "a.jpg")
    Image.fromarray(GREY).save(tmp_path / "a.jpg")
    content = bytearray((tmp_path / "a.jpg").read_bytes())
    content[content.index(b"\xff\xc0") + 4] = 12
    (tmp_path / "a.jpg").write_bytes(content)
    with pytest.raises(UserError, match=r"a\.jpg: JPEG of 12 bits is not supported"):
        read_image(tmp_path / "a.jpg")


def test_embedded_preview_is_ignored(tmp_path: Path) -> None:
    image = Image.fromarray(np.full((20, 30), 90, np.uint8))
    image.save(tmp_path / "a.jpg", format="MPO", save_all=True, append_images=[image.resize((9, 6))])
    assert read_image(tmp_path / "a.jpg").pixels.shape == (1, 20, 30)


def test_animations_are_refused(tmp_path: Path) -> None:
    Image.fromarray(GREY).save(
        tmp_path / "a.png", save_all=True, append_images=[Image.fromarray(GREY.T.reshape(20, 30))]
    )
    for read in (read_raster_image, read_raster_label):
        with pytest.raises(UserError, match="has 2 pages; expected one"):
            read(tmp_path / "a.png", "png")


@pytest.mark.parametrize("bits", [8, 16])
def test_false_sizes_are_refused_before_decoding(tmp_path: Path, bits: int) -> None:
    path = write_png(tmp_path / "a.png", np.zeros((4, 4, 3)), bits, 2)
    content = path.read_bytes()
    path.write_bytes(content[:8] + chunk(b"IHDR", struct.pack(">II", 60000, 60000) + content[24:29]) + content[33:])
    with pytest.raises(UserError, match="more than the limit"):
        read_image(path)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_truncated_16_bit_image_is_refused(tmp_path: Path, channels: int) -> None:
    noise = np.random.default_rng(0).integers(0, 65536, (20, 30, channels), dtype=np.uint16).squeeze()
    content = imagecodecs.png_encode(noise)
    (tmp_path / "a.png").write_bytes(content[: len(content) * 3 // 4])
    with pytest.raises(UserError, match=r"a\.png"):
        read_image(tmp_path / "a.png")


# Drawn by the dozen


@settings(max_examples=60, deadline=None)
@given(
    bits=st.sampled_from([1, 2, 4, 8, 16]),
    colour_type=st.sampled_from([0, 2, 3, 4, 6]),
    orientation=st.integers(1, 8),
    size=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    seed=st.integers(0, 1000),
)
def test_png_label_round_trip_is_lossless(
    tmp_path_factory: pytest.TempPathFactory,
    bits: int, colour_type: int, orientation: int, size: tuple[int, int], seed: int,
) -> None:  # fmt: skip
    rng = np.random.default_rng(seed)
    if colour_type in (2, 4, 6):
        bits = max(bits, 8)
    if colour_type == 3:
        bits = min(bits, 8)
    values = rng.integers(0, min(4, 1 << bits), size)
    more = [chunk(b"eXIf", exif(orientation).removeprefix(b"Exif\0\0"))] if orientation > 1 else []
    written = values
    if colour_type == 3:
        greys = rng.permutation(min(256, 1 << bits)).astype(np.uint8)
        more.append(chunk(b"PLTE", bytes(np.repeat(greys, 3))))
        written = np.argsort(greys)[values]
    elif colour_type != 0:
        channels = {2: 3, 4: 2, 6: 4}[colour_type]
        written = np.repeat(values[..., None], channels, axis=-1)
        if channels != 3:
            written[..., -1] = rng.integers(0, 1 << bits)
    folder = tmp_path_factory.mktemp("label")
    path = write_png(folder / "label.png", written, bits, colour_type, *more)
    expected = upright(values, orientation)
    Image.fromarray(expected.astype(np.uint8)).save(folder / "image.png")
    masks = read_masks(path, TASK, read_image(folder / "image.png").grid)
    assert all((masks[v - 1] == (expected == v)).all() for v in (1, 2, 3))


# The situations of issue 18


@pytest.mark.skipif(not CASES.is_dir(), reason=f"inputs of issue 18 are not here: {CASES}")
def test_shared_cases_are_read() -> None:
    task = load_task(str(CASES / "two.yaml"))
    tried = 0
    for folder in sorted(CASES.glob("p_*")):
        expected = np.load(folder / "expected.npz")
        image = read_image(next(folder.glob("a.*")), 2)
        shown = expected["image"][None] if expected["image"].ndim == 2 else np.moveaxis(expected["image"], -1, 0)
        assert image.pixels.shape == shown.shape and (image.pixels == shown).all(), folder.name
        label = next((folder / "labels" / "final").iterdir())
        tried += 1
        if folder.name == "p_palette_quantized":
            with pytest.raises(UserError, match="neither one of greys"):
                read_masks(label, task, image.grid)
            continue
        masks = read_masks(label, task, image.grid)
        assert all((masks[v - 1] == (expected["label"] == v)).all() for v in (1, 2)), folder.name
    assert tried >= 9


@pytest.mark.skipif(not CASES.is_dir(), reason=f"inputs of issue 18 are not here: {CASES}")
def test_shared_cases_pass_doctor_and_refine(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    task = str(CASES / "two.yaml")
    for name in ("p_tiff16_orient6", "p_palette_grey_swapped12"):
        folder = CASES / name
        refine_folder(folder, folder / "labels" / "final", task, tmp_path / name, ".png")
        with Image.open(tmp_path / name / "a.png") as refined:
            assert (np.asarray(refined) == np.load(folder / "expected.npz")["label"]).all(), name
    assert doctor(str(CASES / "p_exif6_upright_label"), task)
    assert "has orientation 6" in " ".join(capsys.readouterr().out.split())
    assert not doctor(str(CASES / "p_palette_quantized"), task)
    assert "its palette is neither one of greys" in " ".join(capsys.readouterr().out.split())


def test_the_pixels_of_a_png_with_exif_are_decoded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.fromarray(GREY).save(tmp_path / "a.png", exif=exif(6))
    content = (tmp_path / "a.png").read_bytes()
    start = content.index(b"eXIf") - 4
    moved = content[start : start + 12 + int.from_bytes(content[start : start + 4], "big")]
    end = content.index(b"IEND") - 4
    # Behind the pixels, where Pillow decodes them to find it.
    (tmp_path / "a.png").write_bytes(content[:start] + content[start + len(moved) : end] + moved + content[end:])
    decoded = []
    load = PngImagePlugin.PngImageFile.load_end
    monkeypatch.setattr(PngImagePlugin.PngImageFile, "load_end", lambda image: (decoded.append(1), load(image))[1])
    stored = read_raster_image(tmp_path / "a.png", "png")
    np.testing.assert_array_equal(stored.pixels, upright(GREY, 6))
    assert stored.orientation == 6 and len(decoded) == 1
