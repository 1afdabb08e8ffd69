"""DICOM: announced lengths of elements, and decompressed sizes."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import pytest
from pydicom import Dataset, FileMetaDataset
from pydicom.data.data_manager import DATA_ROOT
from pydicom.encaps import encapsulate
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    RLELossless,
    SecondaryCaptureImageStorage,
)

from samstudent.errors import UserError
from samstudent.imaging.dicom_size_checks import check_dicom

SYNTAXES = [ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian]

_SYNTAX = b"\x02\0\x10\0UI" + struct.pack("<H", 22) + b"1.2.840.10008.1.2.1.99"
DEFLATED_HEAD = bytes(128) + b"DICM" + b"\x02\0\0\0UL\x04\0" + struct.pack("<I", len(_SYNTAX)) + _SYNTAX


def deflated(data: bytes | bytearray) -> bytes:
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    return packer.compress(data) + packer.flush()


def head(syntax: str) -> FileMetaDataset:
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = syntax
    meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
    meta.MediaStorageSOPInstanceUID = "1.2.3"
    return meta


def saved(path: Path, syntax: str, undefined: bool = False) -> Path:
    """A file with a code in a nested sequence, and a comment after it."""
    code, anatomy, dataset = Dataset(), Dataset(), Dataset()
    code.CodeMeaning = "INNERMOST"
    anatomy.AnatomicRegionModifierSequence = [code]
    dataset.AnatomicRegionSequence = [anatomy]
    dataset.ImageComments = "LAST"
    for element in (dataset["AnatomicRegionSequence"], anatomy["AnatomicRegionModifierSequence"]):
        element.is_undefined_length = undefined
    dataset.file_meta = head(syntax)
    dataset.save_as(path, enforce_file_format=True)
    return path


@pytest.mark.parametrize("undefined", [False, True], ids=["lengths", "delimiters"])
@pytest.mark.parametrize("value", ["INNERMOST", "LAST"])
@pytest.mark.parametrize("syntax", SYNTAXES, ids=lambda uid: uid.name)
def test_element_longer_than_its_file_is_refused(tmp_path: Path, syntax: str, value: str, undefined: bool) -> None:
    path = saved(tmp_path / "a.dcm", syntax, undefined)
    check_dicom(path)
    raw = path.read_bytes()
    packed = syntax == DeflatedExplicitVRLittleEndian
    start = 144 + struct.unpack_from("<I", raw, 140)[0]
    body = bytearray(zlib.decompress(raw[start:], -zlib.MAX_WBITS) if packed else raw[start:])
    order = ">" if syntax == ExplicitVRBigEndian else "<"
    at = body.index(value.encode())
    if syntax == ImplicitVRLittleEndian:
        struct.pack_into("<I", body, at - 4, 0xF0000000)
    else:  # as a representation with a length of four bytes
        body[at - 4 : at] = b"UT\0\0" + struct.pack(order + "I", 0xF0000000)
    path.write_bytes(raw[:start] + (deflated(body) if packed else body))
    with pytest.raises(UserError, match=r"a\.dcm: corrupt, element \(00\w\w,\w{4}\) announces 4026531840 bytes"):
        check_dicom(path)


def test_header_element_longer_than_its_file_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.dcm", ExplicitVRLittleEndian)
    raw = bytearray(path.read_bytes())
    struct.pack_into("<I", raw, raw.index(b"\x02\0\x01\0OB") + 8, 0xF0000000)
    path.write_bytes(raw)
    with pytest.raises(UserError, match=r"a\.dcm: corrupt, element \(0002,0001\) announces 4026531840 bytes"):
        check_dicom(path)


def test_compressed_fragments_are_not_parsed_as_elements(tmp_path: Path) -> None:
    path, dataset = tmp_path / "a.dcm", Dataset()
    dataset.PixelData = encapsulate([b"\x08\0\x20\0UT\0\0\0\0\0\xf0" * 3])
    dataset["PixelData"].VR = "OB"
    dataset["PixelData"].is_undefined_length = True
    dataset.ImageComments = "before"
    dataset.file_meta = head(RLELossless)
    dataset.save_as(path, enforce_file_format=True)
    check_dicom(path)


def test_valid_files_pass() -> None:
    """pydicom's test files: every syntax, private elements, quirks of many manufacturers."""
    checked = 0
    for path in Path(DATA_ROOT).rglob("*"):
        if path.is_file() and path.read_bytes()[128:132] == b"DICM":
            check_dicom(path)
            checked += 1
    assert checked > 100


def test_deflated_data_is_limited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("samstudent.imaging.dicom_size_checks.MAX_PLANE", 1 << 17)
    for size, fits in ((1 << 20, True), ((1 << 20) + 1, False)):
        (tmp_path / "a.dcm").write_bytes(DEFLATED_HEAD + deflated(bytes(size)))
        if fits:
            check_dicom(tmp_path / "a.dcm")
        else:
            with pytest.raises(UserError, match=r"a\.dcm: unpacks to more than"):
                check_dicom(tmp_path / "a.dcm")


@pytest.mark.parametrize("fits", [True, False])
def test_deflated_empty_items_are_limited(tmp_path: Path, fits: bool) -> None:
    """Eight bytes each, which deflate to nearly nothing but need memory when parsed; different items are accepted."""
    code = b"\x08\0\0\x01SH\x04\0"
    contents = [code + struct.pack("<I", i * 2654435761 % 2**32) if fits else b"" for i in range(20_000)]
    items = b"".join(b"\xfe\xff\0\xe0" + struct.pack("<I", len(content)) + content for content in contents)
    (tmp_path / "a.dcm").write_bytes(DEFLATED_HEAD + deflated(items))
    if fits:
        check_dicom(tmp_path / "a.dcm")
    else:
        with pytest.raises(UserError, match=r"a\.dcm: unpacks to more items than its \d+ bytes; expected several"):
            check_dicom(tmp_path / "a.dcm")
