"""What a header may announce, and what a file can hold."""

from __future__ import annotations

import gzip
import struct
import zlib
from pathlib import Path

import nibabel
import numpy as np
import pytest

from samstudent.bounds import MAX_PLANE, check_dicom, check_holds, check_nifti_header, check_size
from samstudent.errors import UserError
from samstudent.images import read_image

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
def test_sizes(sizes: tuple[int, ...], components: int, bytes_each: int, fits: bool) -> None:
    if fits:
        check_size(FILE, sizes, components, bytes_each)
    else:
        with pytest.raises(UserError, match=r"film\.png: .*more than the limit of \d+; set SAMSTUDENT_MAX_PIXELS"):
            check_size(FILE, sizes, components, bytes_each)


def test_a_limit_of_ones_own_counts_for_planes_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAMSTUDENT_MAX_PIXELS", str(4 * MAX_PLANE))
    check_size(FILE, (16384, 16384))
    with pytest.raises(UserError, match="more than the limit"):
        check_size(FILE, (16384, 16385))


def test_a_file_that_is_too_short(tmp_path: Path) -> None:
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
def test_extensions_without_end(tmp_path: Path, swap: str, offset: float, extended: int) -> None:
    header = nibabel.Nifti1Header(endianness=swap)
    header["magic"] = b"n+1"
    raw = bytearray(header.binaryblock + bytes([extended, 0, 0, 0]) + bytes(100))
    struct.pack_into(swap + "f", raw, 108, offset)
    (tmp_path / "a.nii.gz").write_bytes(gzip.compress(bytes(raw)))
    with pytest.raises(UserError, match="pixels from byte"):
        check_nifti_header(tmp_path / "a.nii.gz")


def test_dicom_that_unpacks_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("samstudent.bounds.MAX_PLANE", 1 << 17)
    meta = b"\x02\0\x10\0UI" + struct.pack("<H", 22) + b"1.2.840.10008.1.2.1.99"
    head = bytes(128) + b"DICM" + b"\x02\0\0\0UL\x04\0" + struct.pack("<I", len(meta)) + meta
    for size, fits in ((1 << 20, True), ((1 << 20) + 1, False)):
        packer = zlib.compressobj(9, zlib.DEFLATED, -15)
        (tmp_path / "a.dcm").write_bytes(head + packer.compress(bytes(size)) + packer.flush())
        if fits:
            check_dicom(tmp_path / "a.dcm", 0)
        else:
            with pytest.raises(UserError, match=r"a\.dcm: unpacks to more than"):
                check_dicom(tmp_path / "a.dcm", 0)


@pytest.mark.parametrize("fits", [True, False])
def test_dicom_that_unpacks_to_empty_items(tmp_path: Path, fits: bool) -> None:
    """Eight bytes each, which deflate nearly does away with, but not their reader; items that differ stay."""
    meta = b"\x02\0\x10\0UI" + struct.pack("<H", 22) + b"1.2.840.10008.1.2.1.99"
    head = bytes(128) + b"DICM" + b"\x02\0\0\0UL\x04\0" + struct.pack("<I", len(meta)) + meta
    contents = [struct.pack("<I", i * 2654435761 % 2**32) if fits else b"" for i in range(20_000)]
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    items = b"".join(b"\xfe\xff\0\xe0" + struct.pack("<I", len(content)) + content for content in contents)
    (tmp_path / "a.dcm").write_bytes(head + packer.compress(items) + packer.flush())
    if fits:
        check_dicom(tmp_path / "a.dcm", 0)
    else:
        with pytest.raises(UserError, match=r"a\.dcm: unpacks to more items than its \d+ bytes; expected several"):
            check_dicom(tmp_path / "a.dcm", 0)
