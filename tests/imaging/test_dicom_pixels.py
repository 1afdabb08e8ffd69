"""DICOM pixels, compared with pydicom's functions, ITK, and known values."""

from __future__ import annotations

import io
import struct
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from pydicom import uid
from pydicom.data.data_manager import DATA_ROOT
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.pixels import apply_color_lut, apply_modality_lut, apply_voi_lut

from samstudent.errors import UserError
from samstudent.imaging.case import for_student, read_image
from samstudent.imaging.dicom import read_dicom
from samstudent.imaging.formats import kind_of
from samstudent.task import ImageSection
from support.dicom_files import PLANE, save

CASES = Path(__file__).resolve().parents[2] / "shared" / "cases"
TESTS = Path(DATA_ROOT) / "test_files"
COLOURS = np.random.default_rng(0).integers(0, 256, (3, 4, 3), dtype=np.uint8)
OF_8_BITS = {"BitsAllocated": 8, "BitsStored": 8, "HighBit": 7}
RGB = {
    **OF_8_BITS,
    "SamplesPerPixel": 3,
    "PlanarConfiguration": 0,
    "PhotometricInterpretation": "RGB",
    "Rows": 3,
    "Columns": 4,
}


def table(values: Sequence[int], first: int = 0, bits: int = 16) -> Dataset:
    """An item of a Modality LUT or VOI LUT sequence."""
    item = Dataset()
    item.add_new("LUTDescriptor", "SS" if first < 0 else "US", [len(values), first, bits])
    item.add_new("LUTData", "US", list(values))
    return item


def pixels_of(path: Path) -> NDArray[Any]:
    """(y, x) or (y, x, 3) as read."""
    pixels = read_image(path).pixels
    return pixels[0] if len(pixels) == 1 else np.moveaxis(pixels, 0, -1)


def reference(path: Path) -> NDArray[Any]:
    """Modality and VOI LUT by pydicom."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        data = pydicom.dcmread(path)
        units = apply_modality_lut(data.pixel_array, data)
        return np.asarray(apply_voi_lut(units, data) if "VOILUTSequence" in data else units)


# Lookup tables


def test_modality_lut_can_invert_values(tmp_path: Path) -> None:
    path = save(tmp_path / "a.dcm", ModalityLUTSequence=[table(range(4095, -1, -1))])
    assert (pixels_of(path) == 4095 - PLANE.astype(float)).all()
    assert (pixels_of(path) == reference(path)).all()


@pytest.mark.parametrize("first", [-50, 0, 120])
def test_values_outside_of_a_modality_lut_are_clipped(tmp_path: Path, first: int) -> None:
    stored = PLANE.astype(np.int16) - 300
    path = save(
        tmp_path / "a.dcm", stored, PixelRepresentation=1, ModalityLUTSequence=[table([7, 5, 3, 1] * 100, first)]
    )
    assert (pixels_of(path) == reference(path)).all()
    assert pixels_of(path)[0, 0] == 7


def test_voi_lut_is_applied_after_rescale_instead_of_a_window(tmp_path: Path) -> None:
    curve = [round(4000 * (1 - (v / 1199) ** 2)) for v in range(1200)]
    path = save(
        tmp_path / "a.dcm", RescaleSlope=1, RescaleIntercept=-100, WindowCenter=500, WindowWidth=100,
        VOILUTSequence=[table(curve, -100, 12), table([0, 1])],
    )  # fmt: skip
    assert (pixels_of(path) == reference(path)).all()
    assert read_image(path).window == (0, 4000)
    seen = for_student(read_image(path), ImageSection())[0]
    assert seen[0, 0] == 1 and seen[-1, -1] == pytest.approx(curve[1100] / 4000)


def test_table_with_an_unsigned_first_value_is_read(tmp_path: Path) -> None:
    item = table([9, 8, 7, 6, 5, 4], 65536 - 2)
    path = save(tmp_path / "a.dcm", (PLANE // 100).astype(np.int16) - 3, PixelRepresentation=1, VOILUTSequence=[item])
    assert pixels_of(path).ravel().tolist() == [9, 9, 8, 7, 6, 5, 4, 4, 4, 4, 4, 4]


@pytest.mark.parametrize(
    ("item", "message"),
    [
        (table([]), "LUT: expected a descriptor|contains no values"),
        (table([1, 2], bits=40), "values of 40 bits; expected 8 to 16"),
    ],
)
def test_invalid_tables_are_refused(tmp_path: Path, item: Dataset, message: str) -> None:
    with pytest.raises(UserError, match=rf"a\.dcm: .*({message})"):
        read_image(save(tmp_path / "a.dcm", ModalityLUTSequence=[item]))


# MONOCHROME1, padding, bits


def test_inverse_presentation_equals_monochrome1(tmp_path: Path) -> None:
    dark = pixels_of(save(tmp_path / "a.dcm", PhotometricInterpretation="MONOCHROME1", PresentationLUTShape="INVERSE"))
    other = pixels_of(save(tmp_path / "b.dcm", PresentationLUTShape="INVERSE"))
    assert (dark == 4095 - PLANE.astype(float)).all() and (other == dark).all()


def test_unused_bits_are_masked(tmp_path: Path) -> None:
    """They contained overlays in earlier versions of DICOM."""
    above = save(tmp_path / "a.dcm", PLANE | 0x9000)
    below = save(tmp_path / "b.dcm", (PLANE << 4) | 0x5, HighBit=15)
    signed = PLANE.astype(np.int16) - 500
    cut = (signed.view(np.uint16) & 0x0FFF) | 0x3000
    for path, expected in (
        (above, PLANE),
        (below, PLANE),
        (save(tmp_path / "c.dcm", cut, PixelRepresentation=1), signed),
    ):
        assert (pixels_of(path) == expected).all(), path.name


def test_wrong_or_missing_bit_counts_are_replaced(tmp_path: Path) -> None:
    path = save(tmp_path / "a.dcm", PLANE << 4, HighBit=15, PhotometricInterpretation="MONOCHROME1")
    assert (pixels_of(path) == 4095 - PLANE.astype(float)).all()
    data = pydicom.dcmread(save(tmp_path / "b.dcm"))
    del data.BitsStored, data.HighBit
    data.save_as(tmp_path / "b.dcm")
    assert (pixels_of(tmp_path / "b.dcm") == PLANE).all()
    assert (pixels_of(save(tmp_path / "c.dcm", BitsStored=99, HighBit=98)) == PLANE).all()


@pytest.mark.parametrize(("padding", "limit"), [(-2000, None), (-2000, -1990), (63536, None)])
def test_padding_does_not_move_percentiles(tmp_path: Path, padding: int, limit: int | None) -> None:
    stored = np.random.default_rng(0).integers(0, 1000, (40, 40)).astype(np.int16)
    fields: dict[str, Any] = {"PixelRepresentation": 1, "BitsStored": 16, "HighBit": 15}
    plain = read_image(save(tmp_path / "a.dcm", stored, **fields))
    padded = np.full((40, 80), -2000, np.int16)
    padded[:, :40] = stored
    path = save(tmp_path / "b.dcm", padded, **fields)
    data = pydicom.dcmread(path)
    data.add_new("PixelPaddingValue", "US" if padding > 0 else "SS", padding)
    if limit is not None:
        data.add_new("PixelPaddingRangeLimit", "SS", limit)
    data.save_as(path)
    section = ImageSection(intensity="percentile")
    assert for_student(read_image(path), section)[0, :, :40] == pytest.approx(for_student(plain, section)[0], abs=1e-6)
    assert not for_student(read_image(path), section)[0, :, 40:].any()


# Windows


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"WindowCenter": 300, "WindowWidth": 101}, (249.5, 349.5)),
        ({"WindowCenter": [300, 9], "WindowWidth": [101, 9]}, (249.5, 349.5)),
        ({"WindowCenter": 300, "WindowWidth": 100, "VOILUTFunction": "LINEAR_EXACT"}, (250, 350)),
        ({"WindowCenter": 300, "WindowWidth": 100, "VOILUTFunction": "SIGMOID"}, (200, 400)),
        ({"WindowCenter": 300, "WindowWidth": 0.5, "VOILUTFunction": "LINEAR_EXACT"}, (299.75, 300.25)),
        ({"WindowCenter": 300, "WindowWidth": -100}, None),
        ({"WindowCenter": 300, "WindowWidth": 1}, None),
        ({"WindowCenter": 0, "WindowWidth": 0}, None),
    ],
)
def test_window_is_read_from_the_header(
    tmp_path: Path, fields: dict[str, Any], expected: tuple[float, float] | None
) -> None:
    assert read_image(save(tmp_path / "a.dcm", **fields)).window == expected


@pytest.mark.parametrize("center", [50_000, -50_000])
def test_window_outside_of_the_pixel_range_is_ignored(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, center: int
) -> None:
    path = save(tmp_path / f"{center}.dcm", WindowCenter=center, WindowWidth=100)
    for _ in range(2):
        image = read_image(path)
    assert image.window is None
    assert for_student(image, ImageSection())[0].std() > 0.2
    assert len(image.notes) == 1 and "does not meet its pixels, 0 to 1100" in image.notes[0]
    assert len([record for record in caplog.records if str(path) in record.getMessage()]) == 1


def test_window_of_a_constant_image_is_kept(tmp_path: Path) -> None:
    path = save(tmp_path / "a.dcm", np.full((3, 4), 5, np.uint16), WindowCenter=400, WindowWidth=100)
    assert read_image(path).window == (350, 449)


# Colours


def palette(path: Path, indices: NDArray[Any], colours: NDArray[Any], first: int = 0, segmented: bool = False) -> Path:
    """PALETTE COLOR; ``colours`` (entries, 3) uint8 or uint16."""
    data = pydicom.dcmread(save(path, indices, **{**OF_8_BITS, "Rows": indices.shape[0], "Columns": indices.shape[1]}))
    data.PhotometricInterpretation = "PALETTE COLOR"
    for i, name in enumerate(("Red", "Green", "Blue")):
        keyword = f"{name}PaletteColorLookupTable"
        data.add_new(f"{keyword}Descriptor", "US", [len(colours), first, 8 * colours.dtype.itemsize])
        values = np.ascontiguousarray(colours[:, i])
        if segmented:
            values = np.concatenate([np.array([0, len(values)], values.dtype), values])
        raw = values.tobytes() + b"\0" * (len(values.tobytes()) % 2)
        data.add_new(f"{'Segmented' if segmented else ''}{keyword}Data", "OW", raw)
    data.save_as(path)
    return path


@pytest.mark.parametrize("segmented", [False, True])
@pytest.mark.parametrize("first", [0, 10])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_palette_colours_are_applied(tmp_path: Path, dtype: Any, first: int, segmented: bool) -> None:
    rng = np.random.default_rng(1)
    colours = rng.integers(0, 256, (63, 3)).astype(dtype) * (1 if dtype == np.uint8 else 257)
    indices = rng.integers(0, 100, (7, 9)).astype(np.uint8)
    path = palette(tmp_path / "a.dcm", indices, colours, first, segmented)
    expected = colours[np.clip(indices.astype(int) - first, 0, 62)] / (1 if dtype == np.uint8 else 257)
    assert (pixels_of(path) == expected).all()


def test_segmented_palette_is_expanded(tmp_path: Path) -> None:
    """As pydicom expands it."""
    indices = np.arange(64, dtype=np.uint8).reshape(8, 8)
    data = pydicom.dcmread(palette(tmp_path / "a.dcm", indices, np.zeros((64, 3), np.uint16), segmented=True))
    segments = [0, 4, 100, 900, 20, 7, 1, 9, 5000, 2, 2, 0, 0, 0, 1, 65535, 1, 30, 3]
    for name in ("Red", "Green", "Blue"):
        setattr(data, f"Segmented{name}PaletteColorLookupTableData", struct.pack(f"<{len(segments)}H", *segments))
    expanded = 4 + 9 + 13 + 1 + 30
    for name in ("Red", "Green", "Blue"):
        data.add_new(f"{name}PaletteColorLookupTableDescriptor", "US", [expanded, 0, 16])
    data.save_as(tmp_path / "a.dcm")
    expected = apply_color_lut(indices, pydicom.dcmread(tmp_path / "a.dcm")) / 257
    assert np.abs(pixels_of(tmp_path / "a.dcm") - expected).max() < 1e-3


def test_size_of_a_segmented_palette_is_limited(tmp_path: Path) -> None:
    path = palette(tmp_path / "a.dcm", np.zeros((3, 4), np.uint8), np.zeros((4, 3), np.uint16), segmented=True)
    data = pydicom.dcmread(path)
    repeated = [0, 1, 5, *([1, 65535, 9] * 40), *([2, 65535, 0, 0] * 4000)]
    for name in ("Red", "Green", "Blue"):
        setattr(data, f"Segmented{name}PaletteColorLookupTableData", struct.pack(f"<{len(repeated)}H", *repeated))
    data.save_as(path)
    assert pixels_of(path)[0, 0] == pytest.approx([5 / 257] * 3)


@pytest.mark.parametrize("planar", [0, 1])
def test_rgb_in_both_planar_orders_is_read(tmp_path: Path, planar: int) -> None:
    stored = COLOURS if planar == 0 else np.moveaxis(COLOURS, -1, 0)
    path = save(tmp_path / "a.dcm", np.ascontiguousarray(stored), **{**RGB, "PlanarConfiguration": planar})
    data = pydicom.dcmread(path)
    if "NumberOfFrames" in data:
        del data.NumberOfFrames
        data.save_as(path)
    assert (pixels_of(path) == COLOURS).all()


def test_ycbcr_becomes_rgb(tmp_path: Path) -> None:
    ycbcr = np.asarray(Image.fromarray(COLOURS).convert("YCbCr"))
    data = pydicom.dcmread(save(tmp_path / "a.dcm", ycbcr, **{**RGB, "PhotometricInterpretation": "YBR_FULL"}))
    del data.NumberOfFrames
    data.save_as(tmp_path / "a.dcm")
    assert np.abs(pixels_of(tmp_path / "a.dcm") - COLOURS).max() <= 3


# Compressed


def packed(path: Path, content: bytes, syntax: str, rows: int, columns: int, **fields: Any) -> Path:
    data = pydicom.dcmread(save(path, **fields))
    data.Rows, data.Columns = rows, columns
    data.file_meta.TransferSyntaxUID = syntax
    data.PixelData = encapsulate([content])
    data["PixelData"].VR, data["PixelData"].is_undefined_length = "OB", True
    data.save_as(path)
    return path


def jpeg(pixels: NDArray[Any]) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=95)
    return file.getvalue()


def test_test_files_of_pydicom_in_every_syntax_are_read() -> None:
    """Against ITK. Where the two differ, pydicom's documentation of the file says that ITK's GDCM is wrong."""
    compared = set()
    for path in sorted(TESTS.glob("*.dcm")):
        if path.name in ("SC_rgb_rle_16bit.dcm", "SC_rgb_rle_32bit.dcm", "examples_palette.dcm"):
            continue
        try:
            ours = read_dicom(path)
            reader: Any = sitk.ImageFileReader()
            reader.SetImageIO("GDCMImageIO")
            reader.SetFileName(str(path))
            theirs = sitk.GetArrayFromImage(reader.Execute())
        except (UserError, RuntimeError):
            continue
        if pydicom.dcmread(path, force=True).get("PhotometricInterpretation") == "MONOCHROME1":
            continue
        assert theirs.shape == ours.pixels.shape, path.name
        assert np.abs(theirs.astype(float) - ours.pixels).max() < 1e-3, path.name
        compared.add(pydicom.dcmread(path, force=True, stop_before_pixels=True).file_meta.get("TransferSyntaxUID"))
    assert {
        uid.JPEGBaseline8Bit, uid.JPEGExtended12Bit, uid.JPEGLSLossless, uid.JPEGLSNearLossless, uid.JPEG2000,
        uid.JPEG2000Lossless, uid.RLELossless, uid.DeflatedExplicitVRLittleEndian, uid.ExplicitVRBigEndian,
    } <= compared  # fmt: skip


def test_lossless_and_high_throughput_jpeg_are_read(tmp_path: Path) -> None:
    """By other writers: ITK's GDCM for JPEG lossless; HTJ2K as OpenJPEG reads it is taken from pydicom's plugin."""
    image = sitk.GetImageFromArray(np.random.default_rng(0).integers(0, 4000, (1, 30, 40), dtype=np.uint16))
    writer: Any = sitk.ImageFileWriter()
    writer.SetFileName(str(tmp_path / "a.dcm"))
    writer.UseCompressionOn()
    writer.SetCompressor("JPEG")
    writer.Execute(image)
    assert pydicom.dcmread(tmp_path / "a.dcm").file_meta.TransferSyntaxUID == uid.JPEGLosslessSV1
    assert (pixels_of(tmp_path / "a.dcm") == sitk.GetArrayFromImage(image)[0]).all()


@pytest.mark.parametrize("syntax", [uid.JPEGBaseline8Bit, uid.JPEG2000Lossless])
def test_compressed_image_larger_than_its_header_is_refused(tmp_path: Path, syntax: str) -> None:
    content = bytearray(jpeg(np.zeros((16, 16), np.uint8)))
    if syntax == uid.JPEGBaseline8Bit:
        at = content.index(b"\xff\xc0") + 5
        content[at : at + 4] = b"\xff\xdc\xff\xdc"
        size = "65500 x 65500"
    else:
        head = struct.pack(">HHIIIIIIIIH", 41, 0, 60000, 60000, 0, 0, 60000, 60000, 0, 0, 1) + b"\x07\x01\x01"
        content, size = bytearray(b"\xff\x4f\xff\x51" + head + bytes(40)), "60000 x 60000"
    path = packed(tmp_path / "a.dcm", bytes(content), syntax, 16, 16, **OF_8_BITS)
    with pytest.raises(
        UserError, match=rf"a\.dcm: its header announces 16 x 16 pixels of 1 values, .* image is {size}"
    ):
        read_image(path)


def test_jpeg2000_without_a_codestream_header_is_refused(tmp_path: Path) -> None:
    content = b"\0\0\0\x0cjP  \r\n\x87\n" + b"\0\0\0\0ftyp" + bytes(64)
    path = packed(tmp_path / "a.dcm", content, uid.JPEG2000Lossless, 16, 16, **OF_8_BITS)
    with pytest.raises(UserError, match=r"a\.dcm: truncated or corrupt, its compressed image has no header"):
        read_image(path)


@pytest.mark.parametrize("share", [0.3, 0.9])
@pytest.mark.parametrize("name", ["MR_small_jp2klossless.dcm", "MR_small_jpeg_ls_lossless.dcm", "MR_small_RLE.dcm"])
def test_truncated_compressed_images_are_refused(tmp_path: Path, name: str, share: float) -> None:
    content = (TESTS / name).read_bytes() if (TESTS / name).is_file() else None
    if content is None:
        pytest.skip("pydicom comes without it")
    start = content.index(b"\xe0\x7f\x10\x00")
    (tmp_path / "a.dcm").write_bytes(content[: start + int((len(content) - start) * share)])
    with pytest.raises(UserError, match=r"a\.dcm: "):
        read_image(tmp_path / "a.dcm")


def test_unsupported_syntaxes_are_named(tmp_path: Path) -> None:
    path = packed(tmp_path / "a.dcm", bytes(20), uid.MPEG4HP41, 3, 4, **OF_8_BITS)
    with pytest.raises(UserError, match=r"a\.dcm: transfer syntax MPEG-4 .* cannot be read; expected uncompressed, "):
        read_image(path)
    with pytest.raises(UserError, match="photometric interpretation CMYK cannot be read; expected MONOCHROME1"):
        read_image(save(tmp_path / "b.dcm", PhotometricInterpretation="CMYK"))


# The cases


@pytest.mark.skipif(not CASES.is_dir(), reason="the cases are not here")
@pytest.mark.parametrize("case", sorted(path.name for path in CASES.glob("d_*")))
def test_shared_cases_are_read(case: str) -> None:
    expected = np.load(CASES / case / "expected.npz")["image"].astype(float)
    found = pixels_of(CASES / case / "a.dcm")
    lossy = case == "d_jpeg_said_rgb"
    assert np.abs(found - expected).mean() < (1.5 if lossy else 1e-6)
    seen = for_student(read_image(CASES / case / "a.dcm"), ImageSection())[0]
    grey = expected if expected.ndim == 2 else expected @ [0.299, 0.587, 0.114]
    assert np.corrcoef(seen.ravel(), grey.ravel())[0, 1] > 0.99


# Any integers


@st.composite
def images(draw: st.DrawFn) -> tuple[NDArray[Any], dict[str, Any]]:
    """Stored values with any number of bits, signed or not, at any place of their words, and any rescale."""
    allocated = draw(st.sampled_from([8, 16]))
    stored, signed = draw(st.integers(2, allocated)), draw(st.booleans())
    low, high = (-(2 ** (stored - 1)), 2 ** (stored - 1) - 1) if signed else (0, 2**stored - 1)
    values = np.array(draw(st.lists(st.integers(low, high), min_size=12, max_size=12))).reshape(3, 4)
    kind = np.dtype(f"{'i' if signed else 'u'}{allocated // 8}")
    fields: dict[str, Any] = {
        "BitsAllocated": allocated, "BitsStored": stored, "HighBit": stored - 1, "PixelRepresentation": int(signed),
        "PhotometricInterpretation": draw(st.sampled_from(["MONOCHROME1", "MONOCHROME2"])),
    }  # fmt: skip
    if draw(st.booleans()):
        fields["RescaleSlope"] = draw(st.sampled_from([1, 2, 0.5, 0.001, 37.25]))
        fields["RescaleIntercept"] = draw(st.integers(-2000, 2000))
    return values.astype(kind), fields


@settings(max_examples=60)
@given(images())
def test_rescaled_integers_keep_their_order(tmp_path_factory: pytest.TempPathFactory, drawn: Any) -> None:
    values, fields = drawn
    path = save(tmp_path_factory.mktemp("any") / "a.dcm", values, **fields)
    found = pixels_of(path).astype(float)
    sign = -1 if fields["PhotometricInterpretation"] == "MONOCHROME1" else 1
    order = np.sign(found.ravel()[:, None] - found.ravel()[None])
    assert (order == sign * np.sign(values.ravel().astype(int)[:, None] - values.ravel().astype(int)[None])).all()
    if sign == 1:
        assert found == pytest.approx(reference(path), rel=1e-6)
    assert kind_of(path) == "dicom"


@settings(max_examples=40)
@given(st.lists(st.integers(0, 4095), min_size=2, max_size=300), st.integers(-20, 300), st.booleans())
def test_tables_are_applied_as_by_pydicom(
    tmp_path_factory: pytest.TempPathFactory, values: list[int], first: int, modality: bool
) -> None:
    stored = (PLANE // 4).astype(np.int16)
    sequence = "ModalityLUTSequence" if modality else "VOILUTSequence"
    fields = {sequence: [table(values, first)], "PixelRepresentation": 1}
    path = save(tmp_path_factory.mktemp("any") / "a.dcm", stored, **fields)
    assert (pixels_of(path) == reference(path)).all()
