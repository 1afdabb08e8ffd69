"""Small files that announce, or expand to, more than a server's memory; and weights with code."""

from __future__ import annotations

import gzip
import io
import os
import pickle
import struct
import tarfile
import zipfile
import zlib
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import tifffile
from PIL import Image

MIB = bytes(1 << 20)


def zeros(mebibytes: int, head: bytes = b"", raw: bool = False) -> bytes:
    """``head`` and a number of MiB of zeros, compressed: gzip, or raw deflate."""
    packer = zlib.compressobj(1, zlib.DEFLATED, -15 if raw else 31)
    return b"".join([packer.compress(head), *(packer.compress(MIB) for _ in range(mebibytes)), packer.flush()])


def png(side: int = 16000) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.zeros((side, side), np.uint8)).save(file, "PNG", compress_level=1)
    return file.getvalue()


def tiff(side: int = 16000) -> bytes:
    file = io.BytesIO()
    tifffile.imwrite(file, np.zeros((side, side), np.uint8), compression="zlib", metadata=None)
    return file.getvalue()


def element(group: int, number: int, kind: bytes, value: bytes) -> bytes:
    """One DICOM element, explicit little endian."""
    value += b"\0" * (len(value) % 2)
    head = struct.pack("<HH", group, number) + kind
    return head + (b"\0\0" + struct.pack("<I", len(value)) if kind == b"OB" else struct.pack("<H", len(value))) + value


def dicom(syntax: bytes, body: bytes) -> bytes:
    meta = element(2, 1, b"OB", b"\0\1") + element(2, 2, b"UI", b"1.2.840.10008.5.1.4.1.1.7")
    meta += element(2, 3, b"UI", b"1.2.3") + element(2, 0x10, b"UI", syntax)
    return bytes(128) + b"DICM" + element(2, 0, b"UL", struct.pack("<I", len(meta))) + meta + body


def dicom_image(side: int) -> bytes:
    numbers = ((2, 1), (0x10, side), (0x11, side), (0x100, 8), (0x101, 8), (0x102, 7), (0x103, 0))
    tags = sorted([*numbers, (4, None)], key=lambda tag: tag[0])
    image = element(8, 0x16, b"UI", b"1.2.840.10008.5.1.4.1.1.7") + element(8, 0x18, b"UI", b"1.2.3")
    for tag, value in tags:
        image += (
            element(0x28, tag, b"CS", b"MONOCHROME2")
            if value is None
            else element(0x28, tag, b"US", struct.pack("<H", value))
        )
    return image + element(0x7FE0, 0x10, b"OB", bytes(64))


def nifti(changes: dict[int, bytes], mebibytes: int = 0) -> bytes:
    """A tiny volume's .nii.gz with bytes of its header changed, and zeros behind it."""
    raw = bytearray(nibabel.Nifti1Image(np.zeros((8, 8, 8), np.uint8), np.eye(4)).to_bytes())
    for at, value in changes.items():
        raw[at : at + len(value)] = value
    return zeros(mebibytes, bytes(raw)) if mebibytes else gzip.compress(bytes(raw))


def images() -> dict[str, bytes]:
    """File name -> content of images that must not be decoded."""
    explicit, deflated = b"1.2.840.10008.1.2.1", b"1.2.840.10008.1.2.1.99"
    private = struct.pack("<HH", 9, 0x1010) + b"OB\0\0" + struct.pack("<I", 700 << 20)
    extension = struct.pack("<f", float(300 << 20))
    volume = struct.pack("<8h", 3, 600, 600, 600, 1, 1, 1, 1)
    nrrd = b"NRRD0004\ntype: double\ndimension: 3\nsizes: %d 2 2\nkinds: vector domain domain\n"
    nrrd += b"encoding: gzip\nendian: little\n\n"
    return {
        "square.png": png(),
        "square.tif": tiff(),
        "square.dcm": dicom(explicit, dicom_image(16000)),
        "huge.dcm": dicom(explicit, dicom_image(65535)),
        "deflated.dcm": dicom(deflated, zeros(700, private, raw=True)),
        "claims.nii.gz": nifti({40: volume, 70: struct.pack("<hh", 64, 64)}),
        "complex.nii.gz": nifti({40: volume, 70: struct.pack("<hh", 1792, 128)}),
        "extended.nii.gz": nifti({108: extension, 348: b"\1\0\0\0" + struct.pack("<ii", (300 << 20) - 400, 6)}, 300),
        "endless.nii.gz": nifti({108: struct.pack("<f", 0), 348: b"\1\0\0\0" + struct.pack("<ii", 300 << 20, 6)}, 300),
        "components.nrrd": nrrd % 100_000_000 + gzip.compress(bytes(1000)),
        "elsewhere.nrrd": b"NRRD0004\ntype: uchar\ndimension: 2\nsizes: 4 4\nencoding: raw\ndata file: /etc/passwd\n\n",
        "truncated.png": png(64)[:60],
    }


def archives() -> dict[str, bytes]:
    """Archives that must not be extracted, or only within the limits."""
    found = {}
    name = tarfile.TarInfo("x")
    name.type, name.size = tarfile.XHDTYPE, 300 << 20
    found["comment.tar.gz"] = zeros(301, name.tobuf(tarfile.USTAR_FORMAT))
    name.type = tarfile.GNUTYPE_LONGNAME
    found["name.tar.gz"] = zeros(301, name.tobuf(tarfile.GNU_FORMAT))
    name.type, name.size = tarfile.REGTYPE, 1 << 40
    found["member.tar.gz"] = zeros(8, name.tobuf(tarfile.GNU_FORMAT))
    for target in ("../made.png", "/made.png", "a/../../made.png"):
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w") as content:
            content.writestr(target, b"x")
        found[f"upwards{len(found)}.zip"] = file.getvalue()
    link = tarfile.TarInfo("link")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc"
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as content:
        content.addfile(link)
        below = tarfile.TarInfo("link/made.png")
        content.addfile(below, io.BytesIO())
    found["link.tar"] = file.getvalue()
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_LZMA) as content:
        content.writestr("x.png", b"x" * 1000)
    found["lzma.zip"] = file.getvalue()
    return found


class _Code:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


def code(path: Path) -> bytes:
    """Pickle that creates a folder when it is loaded."""
    return pickle.dumps({"model": _Code(path), "task": "{}"})
