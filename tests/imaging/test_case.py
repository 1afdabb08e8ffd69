"""read_image on every format, synthetic and real; intensities for student and SAM; damaged files."""

from __future__ import annotations

import gzip
import struct
import zlib
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from numpy.typing import NDArray
from PIL import Image

from samstudent.errors import NotFound, UserError
from samstudent.imaging.case import CaseImage, for_sam, for_student, image_extensions, read_image
from samstudent.imaging.grid import Grid
from samstudent.task import ImageSection

GREY = (np.arange(20 * 30).reshape(20, 30) % 251).astype(np.uint8)
COLOR = np.stack([GREY, GREY.T.reshape(20, 30), 250 - GREY], axis=-1)


def save_itk(path: Path, array: NDArray[Any], vector: bool = False) -> Path:
    sitk.WriteImage(sitk.GetImageFromArray(array, isVector=vector), str(path))
    return path


def case(pixels: NDArray[Any], window: tuple[float, float] | None = None) -> CaseImage:
    return CaseImage(pixels.astype(np.float32), Grid.of(pixels.shape[1:], np.eye(4)), window)


# Formats


@pytest.mark.parametrize("extension", [".png", ".tif", ".tiff"])
@pytest.mark.parametrize("factor", [1, 257], ids=["8 bit", "16 bit"])
@pytest.mark.parametrize("array", [GREY, COLOR, np.dstack([COLOR, GREY])], ids=["grey", "RGB", "RGBA"])
def test_raster_values_are_preserved(tmp_path: Path, extension: str, factor: int, array: NDArray[Any]) -> None:
    stored = array if factor == 1 else array.astype(np.uint16) * factor
    image = read_image(save_itk(tmp_path / f"a{extension}", stored, vector=array.ndim == 3))
    expected = stored[None] if array.ndim == 2 else np.moveaxis(stored[..., :3], -1, 0)
    assert image.pixels.dtype == np.float32 and (image.pixels == expected).all()
    assert image.grid.shape == (20, 30) and image.grid.dimension == 2


@pytest.mark.parametrize(("array", "channels"), [(GREY, 1), (COLOR, 3)])
@pytest.mark.parametrize("extension", [".jpg", ".jpeg"])
def test_jpeg_is_read(tmp_path: Path, array: NDArray[Any], channels: int, extension: str) -> None:
    smooth = np.full_like(array, 90)
    Image.fromarray(smooth).save(tmp_path / f"a{extension}")
    image = read_image(tmp_path / f"a{extension}")
    assert image.pixels.shape == (channels, 20, 30)
    assert np.abs(image.pixels - 90).max() <= 2


def test_cmyk_jpeg_becomes_rgb(tmp_path: Path) -> None:
    Image.fromarray(np.full((8, 9, 3), (200, 100, 50), np.uint8)).convert("CMYK").save(tmp_path / "a.jpg")
    pixels = read_image(tmp_path / "a.jpg").pixels
    assert pixels.shape == (3, 8, 9) and np.abs(pixels[:, 4, 4] - [200, 100, 50]).max() <= 4


@pytest.mark.parametrize("extension", [".png", ".tif"])
def test_palette_becomes_its_colours(tmp_path: Path, extension: str) -> None:
    image = Image.fromarray(GREY % 3, mode="P")
    image.putpalette([0, 0, 0, 255, 0, 0, 0, 0, 255])
    image.save(tmp_path / f"a{extension}")
    pixels = read_image(tmp_path / f"a{extension}").pixels
    assert ((pixels[0] > 0) == (GREY % 3 == 1)).all() and ((pixels[2] > 0) == (GREY % 3 == 2)).all()
    assert not pixels[1].any()


def test_one_bit_and_grey_alpha_images_are_read(tmp_path: Path) -> None:
    Image.fromarray(GREY > 100).save(tmp_path / "bit.png")
    assert ((read_image(tmp_path / "bit.png").pixels[0] > 0) == (GREY > 100)).all()
    Image.fromarray(np.dstack([GREY, GREY]), mode="LA").save(tmp_path / "la.png")
    assert (read_image(tmp_path / "la.png").pixels == GREY).all()


@pytest.mark.parametrize("shape", [(30, 20), (30, 20, 1), (30, 20, 1, 1), (1, 30, 20)])
def test_2d_nifti_with_and_without_singleton_axes_is_read(tmp_path: Path, shape: tuple[int, ...]) -> None:
    data = GREY.T.reshape(shape)
    nibabel.save(nibabel.Nifti1Image(data, np.diag([-2.0, -3.0, 1.0, 1.0])), tmp_path / "a.nii.gz")
    image = read_image(tmp_path / "a.nii.gz", dimension=2)
    assert (image.pixels[0] == GREY.T.reshape(shape).squeeze().T).all()
    assert image.grid.dimension == 2


def test_colour_nifti_is_read_in_both_forms(tmp_path: Path) -> None:
    rgb = np.zeros((30, 20, 1), dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
    for i, name in enumerate("RGB"):
        rgb[name][..., 0] = COLOR[..., i].T
    nibabel.save(nibabel.Nifti1Image(rgb, np.eye(4)), tmp_path / "rgb24.nii")
    save_itk(tmp_path / "vector.nii", COLOR[None], vector=True)
    for name in ("rgb24.nii", "vector.nii"):
        assert (read_image(tmp_path / name, 2).pixels == np.moveaxis(COLOR, -1, 0)).all(), name


@pytest.mark.parametrize("extension", [".nii", ".nii.gz", ".nrrd"])
def test_volumes_have_the_position_of_itk(tmp_path: Path, extension: str) -> None:
    image = sitk.GetImageFromArray(np.arange(24, dtype=np.int16).reshape(4, 3, 2) - 5)
    image.SetDirection([0, 0, 1, -1, 0, 0, 0, 1, 0])
    image.SetSpacing((0.5, 1.5, 2.5))
    image.SetOrigin((10, 20, 30))
    sitk.WriteImage(image, str(tmp_path / f"a{extension}"))
    ours = read_image(tmp_path / f"a{extension}", dimension=3)
    assert ours.grid.shape == (4, 3, 2)
    for ijk in ((0, 0, 0), (1, 2, 3), (1, 0, 2)):
        lps = image.TransformIndexToPhysicalPoint(ijk)
        assert ours.grid.affine @ [*ijk, 1] == pytest.approx([-lps[0], -lps[1], lps[2], 1], abs=1e-4)
        index = tuple(int(v) for v in ours.grid.index_from_file(ijk))
        assert ours.pixels[(0, *index)] == image[ijk]


def test_sheared_nifti_has_its_affine(tmp_path: Path) -> None:
    affine = np.array([[1, 0.3, 0, 5], [0, 1.2, 0, 6], [0, 0.1, 2, 7], [0, 0, 0, 1.0]])
    nibabel.save(nibabel.Nifti1Image(np.zeros((2, 3, 4), np.int16), affine), tmp_path / "a.nii")
    assert read_image(tmp_path / "a.nii").grid.affine == pytest.approx(affine, abs=1e-6)


def test_scaled_nifti_values_are_scaled(tmp_path: Path) -> None:
    image = nibabel.Nifti1Image(np.arange(24, dtype=np.int16).reshape(2, 3, 4), np.eye(4))
    image.header.set_slope_inter(2, -1000)
    nibabel.save(image, tmp_path / "a.nii")
    assert read_image(tmp_path / "a.nii").pixels.min() == -1000


def test_format_is_identified_by_content(tmp_path: Path) -> None:
    Image.fromarray(GREY).save(tmp_path / "really.png")
    (tmp_path / "really.png").rename(tmp_path / "claims.jpg")
    assert (read_image(tmp_path / "claims.jpg").pixels == GREY).all()


def test_one_pixel_and_constant_images_are_read(tmp_path: Path) -> None:
    for array in (np.full((1, 1), 9, np.uint8), np.full((7, 8), 9, np.uint8)):
        image = read_image(save_itk(tmp_path / "a.png", array), 2)
        assert (image.pixels == 9).all() and image.pixels.shape == (1, *array.shape)
        assert not for_student(image, ImageSection()).any()
        assert for_sam(image, ImageSection()).shape == (*array.shape, 3)
    nibabel.save(nibabel.Nifti1Image(np.ones((1, 1, 1), np.uint8), np.eye(4)), tmp_path / "a.nii")
    assert read_image(tmp_path / "a.nii", 2).pixels.shape == (1, 1, 1)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_white_is_zero_tiff_is_inverted(tmp_path: Path, dtype: Any) -> None:
    path = save_itk(tmp_path / "a.tif", GREY.astype(dtype))
    content = bytearray(path.read_bytes())
    entry = content.index(struct.pack("<HHI", 262, 3, 1))  # PhotometricInterpretation
    content[entry + 8] = 0
    path.write_bytes(content)
    assert (read_image(path).pixels == np.iinfo(dtype).max - GREY.astype(np.float32)).all()


def test_multi_page_tiff_is_a_volume(tmp_path: Path) -> None:
    pages = [Image.fromarray(GREY + i) for i in range(3)]
    pages[0].save(tmp_path / "a.tif", save_all=True, append_images=pages[1:])
    assert read_image(tmp_path / "a.tif").pixels.shape == (1, 3, 20, 30)
    with pytest.raises(UserError, match="task's dimension is 2"):
        read_image(tmp_path / "a.tif", dimension=2)


def test_image_extensions_are_complete() -> None:
    assert set(image_extensions()) == {
        ".nii.gz", ".nii", ".nrrd", ".png", ".jpg", ".jpeg", ".tif", ".tiff", ".dcm"
    }  # fmt: skip


@pytest.mark.parametrize("extension", [".png", ".jpg", ".tif", ".nii", ".nii.gz", ".nrrd", ".dcm"])
def test_random_damage_is_a_user_error_or_has_no_effect(tmp_path: Path, extension: str) -> None:
    rng = np.random.default_rng(5)
    path = written(tmp_path, extension)
    whole = path.read_bytes()
    for _ in range(15):
        damaged = bytearray(whole)
        for position in rng.integers(0, 300, 4):
            damaged[position] = rng.integers(0, 256)
        path.write_bytes(damaged)
        try:
            assert np.isfinite(read_image(path).pixels).all()
        except UserError as error:
            assert path.name in str(error)  # noqa: PT017 - either outcome is right


# Values that are not finite


def test_nan_and_infinity_become_the_limits_of_the_range(tmp_path: Path) -> None:
    data = np.arange(24, dtype=np.float32).reshape(2, 3, 4) + 5
    data[0, 0] = [np.nan, np.inf, -np.inf, 7]
    nibabel.save(nibabel.Nifti1Image(data, np.eye(4)), tmp_path / "a.nii")
    pixels = read_image(tmp_path / "a.nii").pixels[0].T
    assert list(pixels[0, 0]) == [7, 28, 7, 7]
    assert (pixels[1] == data[1]).all()


def test_values_beyond_float32_are_clipped(tmp_path: Path) -> None:
    data = np.array([-1e300, 0, 1e300]).reshape(3, 1, 1) * np.ones((3, 3, 3))
    nibabel.save(nibabel.Nifti1Image(data, np.eye(4)), tmp_path / "a.nii")
    image = read_image(tmp_path / "a.nii")
    assert np.isfinite(image.pixels).all()
    assert for_student(image, ImageSection())[0, 0, 0] == pytest.approx([0, 0.5, 1])


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_image_without_finite_values_is_refused(tmp_path: Path, value: float) -> None:
    nibabel.save(nibabel.Nifti1Image(np.full((2, 3, 4), value, np.float32), np.eye(4)), tmp_path / "a.nii")
    with pytest.raises(UserError, match=r"a\.nii: no pixel has a finite value"):
        read_image(tmp_path / "a.nii")


# Wrong files


def written(folder: Path, extension: str) -> Path:
    """A valid file of noise, which cannot be compressed: half of it is always too short."""
    noise = np.random.default_rng(0).integers(0, 255, (1, 40, 50), dtype=np.uint8)
    path = folder / f"a{extension}"
    return save_itk(path, noise if extension in (".nii", ".nii.gz", ".nrrd", ".dcm") else noise[0])


ALL = [".png", ".jpg", ".tif", ".nii", ".nii.gz", ".nrrd", ".dcm"]


@pytest.mark.parametrize("extension", ALL)
def test_empty_files_are_refused(tmp_path: Path, extension: str) -> None:
    (tmp_path / f"a{extension}").touch()
    with pytest.raises(UserError, match=r"empty \(0 bytes\)"):
        read_image(tmp_path / f"a{extension}")


@pytest.mark.parametrize("extension", ALL)
@pytest.mark.parametrize("share", [0.1, 0.6, 0.95])
def test_truncated_files_are_refused(tmp_path: Path, extension: str, share: float) -> None:
    path = written(tmp_path, extension)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(UserError, match=path.name):
        read_image(path)


@pytest.mark.parametrize("extension", ALL)
def test_files_of_other_formats_are_refused(tmp_path: Path, extension: str) -> None:
    (tmp_path / f"a{extension}").write_bytes(b"This is a letter, not an image. " * 40)
    with pytest.raises(UserError, match=f"a{extension}"):
        read_image(tmp_path / f"a{extension}")


@pytest.mark.parametrize("extension", [e for e in ALL if e != ".nii"])
def test_headers_with_invalid_content_are_refused(tmp_path: Path, extension: str) -> None:
    path = written(tmp_path, extension)
    whole = path.read_bytes()
    path.write_bytes(whole[: 8 if extension != ".dcm" else 140] + bytes(range(256)) * 8)
    with pytest.raises(UserError, match=path.name):
        read_image(path)


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="no such file"):
        read_image(tmp_path / "none.png")


def test_wrong_dimension_is_refused(tmp_path: Path) -> None:
    save_itk(tmp_path / "flat.png", GREY)
    save_itk(tmp_path / "thick.nii", np.zeros((4, 5, 6), np.uint8))
    with pytest.raises(UserError, match=r"flat\.png: a 2D image .* dimension is 3"):
        read_image(tmp_path / "flat.png", dimension=3)
    with pytest.raises(UserError, match=r"thick\.nii: a volume .* dimension is 2"):
        read_image(tmp_path / "thick.nii", dimension=2)


@pytest.mark.parametrize("extension", [".nii.gz", ".nrrd"])
def test_4d_is_refused(tmp_path: Path, extension: str) -> None:
    image = sitk.JoinSeries([sitk.GetImageFromArray(np.zeros((4, 5, 6), np.uint8))] * 2)
    sitk.WriteImage(image, str(tmp_path / f"a{extension}"))
    with pytest.raises(UserError, match="4 axes"):
        read_image(tmp_path / f"a{extension}")


def test_many_channels_are_refused(tmp_path: Path) -> None:
    save_itk(tmp_path / "a.nrrd", np.zeros((4, 5, 6, 7), np.uint8), vector=True)
    with pytest.raises(UserError, match="7 channels"):
        read_image(tmp_path / "a.nrrd")


def test_nrrd_may_not_point_to_another_file(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(bytes(24))
    header = "NRRD0004\ntype: uchar\ndimension: 3\nsizes: 2 3 4\nencoding: raw\ndata file: secret\n\n"
    (tmp_path / "a.nrrd").write_text(header)
    with pytest.raises(UserError, match="in another file"):
        read_image(tmp_path / "a.nrrd")


def test_nrrd_may_not_hide_its_pixels_behind_a_long_header(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(bytes(24))
    header = "NRRD0004\ntype: uchar\ndimension: 3\nsizes: 2 3 4\nencoding: raw\n" + "# long\n" * 200_000
    (tmp_path / "a.nrrd").write_text(header + "data file: secret\n\n")
    with pytest.raises(UserError, match="has no end"):
        read_image(tmp_path / "a.nrrd")


def claims_huge(folder: Path, extension: str) -> Path:
    """A small file whose header announces an image larger than the memory."""
    path = folder / f"a{extension}"
    if extension == ".png":
        ihdr = struct.pack(">IIBBBBB", 900_000, 900_000, 8, 0, 0, 0, 0)
        parts = [(b"IHDR", ihdr), (b"IDAT", zlib.compress(bytes(1000))), (b"IEND", b"")]
        chunks = (struct.pack(">I", len(d)) + n + d + struct.pack(">I", zlib.crc32(n + d)) for n, d in parts)
        path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunks))
    elif extension == ".jpg":
        Image.fromarray(GREY).save(path)
        content = bytearray(path.read_bytes())
        start = content.index(b"\xff\xc0") + 5
        content[start : start + 4] = b"\xff\xdc\xff\xdc"
        path.write_bytes(content)
    elif extension == ".nii.gz":
        header = nibabel.Nifti1Header()
        header.set_data_shape((30000, 30000, 30000))
        path.write_bytes(gzip.compress(header.binaryblock + bytes(1000)))
    elif extension == ".nrrd":
        path.write_bytes(
            b"NRRD0004\ntype: uchar\ndimension: 3\nsizes: 90000 90000 9000\nencoding: gzip\n\n"
            + gzip.compress(bytes(9))
        )
    else:
        content = bytearray(written(folder, ".tif").read_bytes())
        for tag in (256, 257):  # ImageWidth and ImageLength, with their values in the entry.
            entry = content.index(struct.pack("<H", tag) + struct.pack("<H", 3) + struct.pack("<I", 1))
            content[entry + 8 : entry + 10] = b"\xff\xff"
        path.write_bytes(content)
    return path


@pytest.mark.parametrize("extension", [".png", ".jpg", ".nii.gz", ".nrrd", ".tif"])
def test_false_sizes_are_refused_before_decoding(tmp_path: Path, extension: str) -> None:
    with pytest.raises(UserError, match="more than the limit"):
        read_image(claims_huge(tmp_path, extension))


def test_size_limit_is_configurable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save_itk(tmp_path / "a.png", GREY)
    monkeypatch.setenv("SAMSTUDENT_MAX_PIXELS", "600")
    assert read_image(path).pixels.size == 600
    monkeypatch.setenv("SAMSTUDENT_MAX_PIXELS", "599")
    with pytest.raises(UserError, match="30 x 20 pixels are more than the limit of 599"):
        read_image(path)
    monkeypatch.setenv("SAMSTUDENT_MAX_PIXELS", "many")
    with pytest.raises(UserError, match="expected a whole number"):
        read_image(path)


# What student and SAM see


def test_intensity_modes_window_percentile_and_auto() -> None:
    ramp = case(np.arange(101).reshape(1, 1, 101))
    window = for_student(ramp, ImageSection(intensity="window", low=20, high=60))[0, 0]
    assert window[[0, 20, 40, 60, 100]] == pytest.approx([0, 0, 0.5, 1, 1])
    percentile = for_student(ramp, ImageSection(intensity="percentile", low=10, high=90))[0, 0]
    assert percentile[[10, 50, 90]] == pytest.approx([0, 0.5, 1])
    windowed = case(ramp.pixels, window=(0, 200))
    assert for_student(windowed, ImageSection())[0, 0, 100] == pytest.approx(0.5)
    ignoring = for_student(windowed, ImageSection(intensity="percentile", low=10, high=90))[0, 0]
    assert (ignoring == percentile).all()
    assert (for_sam(windowed, ImageSection())[0, 100] == 128).all()


def test_mode_auto_requires_percentiles_without_a_window() -> None:
    with pytest.raises(UserError, match="percentiles from 0 to 100"):
        for_student(case(np.zeros((1, 2, 2))), ImageSection(intensity="auto", low=-100, high=300))


@pytest.mark.parametrize("channels", [1, 3])
def test_number_of_channels_is_converted(channels: int) -> None:
    color = np.zeros((3, 1, 4))
    color[0, 0, 1], color[1, 0, 2], color[:, 0, 3] = 100, 100, 100
    section = ImageSection(intensity="window", low=0, high=100, channels=channels)
    seen = for_student(case(color), section)
    assert seen.shape == (channels, 1, 4) and seen.dtype == np.float32 and seen.flags.c_contiguous
    expected = [0, 0.299, 0.587, 1] if channels == 1 else [0, 1, 0, 1]
    assert seen[0, 0] == pytest.approx(expected, abs=1e-6)
    assert for_student(case(color[:1]), section).shape == (channels, 1, 4)
    sam = for_sam(case(color), section)
    assert sam.dtype == np.uint8 and sam.shape == (1, 4, 3)
    assert (sam[0, 1] == [255, 0, 0]).all() and (sam[0, 3] == 255).all()
    assert (for_sam(case(color[:1]), section)[0, 1] == 255).all()


def test_values_below_the_percentiles_are_distinguishable() -> None:
    pixels = np.zeros((1, 100, 100))
    pixels[0, 5, 5] = 7
    assert for_student(case(pixels), ImageSection())[0, 5, 5] == 1


# Real images


def test_real_wrist_radiographs_are_read(shared_data: Path) -> None:
    films = sorted((shared_data / "wrist" / "images").glob("*.png"))
    images = [read_image(film, dimension=2) for film in films]
    assert len(images) == 8 and [len(image.pixels) for image in images].count(3) == 1
    for film, image in zip(films, images, strict=True):
        with Image.open(film) as reference:
            assert image.grid.spatial_shape == reference.size[::-1]
        seen = for_student(image, ImageSection())
        assert 0.1 < seen.mean() < 0.9 and seen.min() == 0 and seen.max() == 1
    assert max(image.pixels.max() for image in images) == 65535


def test_real_ultrasound_images_are_read(shared_data: Path) -> None:
    folder = shared_data / "ultrasound" / "images"
    grey, color = read_image(folder / "0001.png", 2), read_image(folder / "0242.png", 2)
    assert grey.pixels.shape == (1, 512, 512) and color.pixels.shape == (3, 512, 534)
    with Image.open(folder / "0242.png") as reference:
        assert (color.pixels == np.moveaxis(np.asarray(reference.convert("RGB")), -1, 0)).all()


def test_real_hippocampus_volumes_are_read(shared_data: Path) -> None:
    path = shared_data / "hippocampus" / "images" / "hippocampus_001.nii.gz"
    image = read_image(path, 3)
    reference = nibabel.as_closest_canonical(nibabel.load(path))
    assert (image.pixels[0].transpose(2, 1, 0) == reference.get_fdata()).all()
    with pytest.raises(UserError, match="dimension is 2"):
        read_image(path, 2)
