"""Sizes announced by headers, and sizes of files."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import nibabel
import numpy as np
import pytest

from samstudent.errors import UserError
from samstudent.imaging.case import read_image
from samstudent.imaging.size_checks import MAX_PLANE, check_holds, check_nifti_header, check_size

FILE = Path("film.png")


@pytest.mark.parametrize(
    ("sizes", "components", "bytes_each", "fits"),
    [
        ((8192, 8192), 1, 2, True),
        ((8193, 8192), 1, 1, False),
        ((512, 512, 1024), 1, 8, True),
        ((512, 512, 1024), 1, 16, False),
        ((512, 512, 1024), 3, 1, False),
        ((16, 16, 1 << 40), 1, 1, False),
        ((1, 1), 1 << 29, 1, False),
    ],
)
def test_size_limits_are_checked(sizes: tuple[int, ...], components: int, bytes_each: int, fits: bool) -> None:
    if fits:
        check_size(FILE, sizes, components, bytes_each)
    else:
        with pytest.raises(UserError, match=r"film\.png: .*more than the limit of \d+; set SAMSTUDENT_MAX_PIXELS"):
            check_size(FILE, sizes, components, bytes_each)


def test_configured_limit_applies_to_planes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAMSTUDENT_MAX_PIXELS", str(4 * MAX_PLANE))
    check_size(FILE, (16384, 16384))
    with pytest.raises(UserError, match="more than the limit"):
        check_size(FILE, (16384, 16385))


def test_file_shorter_than_its_pixels_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(bytes(100))
    check_holds(tmp_path / "a", 100, packed=False)
    check_holds(tmp_path / "a", 100_000, packed=True)
    for needed, packed in ((101, False), (200_000, True)):
        with pytest.raises(UserError, match="truncated, its 100 bytes cannot hold"):
            check_holds(tmp_path / "a", needed, packed)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("version", [nibabel.Nifti1Image, nibabel.Nifti2Image])
def test_extensions_of_usual_length_are_read(tmp_path: Path, suffix: str, version: type) -> None:
    image = version(np.ones((5, 6, 7), np.uint8), np.eye(4))
    image.header.extensions.append(nibabel.nifti1.Nifti1Extension("comment", b"x" * 5000))
    nibabel.save(image, tmp_path / f"a{suffix}")
    check_nifti_header(tmp_path / f"a{suffix}")
    assert read_image(tmp_path / f"a{suffix}").pixels.shape == (1, 7, 6, 5)


@pytest.mark.parametrize("swap", ["<", ">"])
@pytest.mark.parametrize(("offset", "extended"), [(2.0**31, 1), (0.0, 1), (-4.0, 1), (float("nan"), 0)])
def test_nifti_extensions_are_limited(tmp_path: Path, swap: str, offset: float, extended: int) -> None:
    header = nibabel.Nifti1Header(endianness=swap)
    header["magic"] = b"n+1"
    raw = bytearray(header.binaryblock + bytes([extended, 0, 0, 0]) + bytes(100))
    struct.pack_into(swap + "f", raw, 108, offset)
    (tmp_path / "a.nii.gz").write_bytes(gzip.compress(bytes(raw)))
    with pytest.raises(UserError, match="pixels from byte"):
        check_nifti_header(tmp_path / "a.nii.gz")
