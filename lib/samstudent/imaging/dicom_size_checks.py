"""Size checks of DICOM files, before they are read completely or decompressed; see ``imaging/size_checks.py``."""

from __future__ import annotations

import io
import struct
import tempfile
import warnings
import zlib
from pathlib import Path
from typing import Any, BinaryIO

from pydicom.datadict import dictionary_VR
from pydicom.filereader import read_dataset
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)
from pydicom.valuerep import EXPLICIT_VR_LENGTH_32, STANDARD_VR

from samstudent.errors import UserError
from samstudent.imaging.size_checks import MAX_PLANE, check_holds

_CHUNK = 1 << 16
#: Tolerated excess of an element's length over the file's size, in bytes: such a reader misses data, but not memory.
_TOO_LONG = 1 << 20
_UNDEFINED = 0xFFFFFFFF
_PIXELS = (0x7FE0, 0x0010)
_ITEM_TAG, _ITEM_END, _SEQUENCE_END = (0xFFFE, 0xE000), (0xFFFE, 0xE00D), (0xFFFE, 0xE0DD)
_ITEM = struct.pack("<HH", *_ITEM_TAG)


def check_dicom(path: Path) -> UID | None:
    """Refuse a file with an element longer than the file, or one that decompresses to far more than an image.

    Args:
        path: the file; other damage is reported by its reader.

    Returns:
        Its transfer syntax, for ``check_pixels``; None if the header has none.
    """
    with path.open("rb") as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom warns of values; its decoders decide what can be read
        size = path.stat().st_size
        if file.read(132)[128:] != b"DICM":
            file.seek(0)  # without preamble
        begin = file.tell()
        start = _check_lengths(path, file, size, explicit=True, order="<", meta=True)
        file.seek(begin)
        meta: Any = read_dataset(io.BytesIO(file.read(start - begin)), is_implicit_VR=False, is_little_endian=True)
        syntax: UID | None = meta.get("TransferSyntaxUID")
        if syntax is None:
            syntax = _guessed(file.read(6))
            file.seek(start)
            _check_lengths(
                path, file, size, syntax != ImplicitVRLittleEndian, ">" if syntax == ExplicitVRBigEndian else "<"
            )
            return None
        if syntax == DeflatedExplicitVRLittleEndian:
            with tempfile.TemporaryFile() as unpacked:
                _unpack(path, file, unpacked, 8 * MAX_PLANE)
                length = unpacked.tell()
                unpacked.seek(0)
                _check_lengths(path, unpacked, length, explicit=True, order="<")
            return syntax
        order = ">" if syntax == ExplicitVRBigEndian else "<"
        _check_lengths(path, file, size, syntax != ImplicitVRLittleEndian, order)
        return syntax


def _guessed(first: bytes) -> UID:
    """Transfer syntax by the first element, for a file without one in its header; as pydicom does."""
    if first[4:6].decode("latin-1") not in STANDARD_VR:
        return ImplicitVRLittleEndian
    return ExplicitVRBigEndian if struct.unpack("<H", first[:2])[0] >= 1024 else ExplicitVRLittleEndian


def check_pixels(path: Path, syntax: UID | None, needed: int) -> None:
    """Refuse a file too short for its uncompressed pixels.

    Args:
        path: the file.
        syntax: its transfer syntax.
        needed: bytes of pixels that its header announces.
    """
    if syntax is not None and syntax != DeflatedExplicitVRLittleEndian and not syntax.is_compressed:
        check_holds(path, needed, packed=False)


def _check_lengths(path: Path, file: BinaryIO, size: int, explicit: bool, order: str, meta: bool = False) -> int:
    """Check the length of each element, by DICOM PS3.5 chapter 7, without reading the values.

    A reader may allocate a value before it reads it: four bytes of a small file could allocate 4 GB.

    Args:
        path: for the error.
        file: positioned at the first element.
        size: size of the file in bytes.
        explicit: explicit value representations.
        order: byte order, as in ``struct``.
        meta: only group 2.

    Returns:
        Position of the end, in bytes from the file's beginning.
    """
    outside: list[
        tuple[bool, bool]
    ] = []  # for each open sequence without length: the outer values of explicit and fragments
    fragments = False  # inside of compressed pixels, whose items hold no elements
    while len(head := file.read(8)) == 8:
        tag: tuple[int, int] = struct.unpack(order + "HH", head[:4])
        if meta and tag[0] != 2:
            return file.tell() - 8
        representation, length = None, struct.unpack(order + "I", head[4:])[0]
        if explicit and tag[0] != 0xFFFE and head[4:6].isalpha():
            representation = head[4:6].decode()
            length = struct.unpack(order + "H", head[6:])[0]
            if representation in EXPLICIT_VR_LENGTH_32:
                length = int.from_bytes(file.read(4), "little" if order == "<" else "big")
        if tag == _SEQUENCE_END and outside:
            explicit, fragments = outside.pop()
        if tag in (_ITEM_END, _SEQUENCE_END) or (tag == _ITEM_TAG and length == _UNDEFINED):
            continue
        if length == _UNDEFINED:
            outside.append((explicit, fragments))
            fragments = tag == _PIXELS
            explicit = explicit and representation != "UN"  # PS3.5 6.2.2
            continue
        if length > size - file.tell() + _TOO_LONG:
            name = f"({tag[0]:04x},{tag[1]:04x})"
            raise UserError(f"{path}: corrupt, element {name} announces {length} bytes of a file of {size}")
        if not _holds_elements(tag, representation, fragments):
            file.seek(length, io.SEEK_CUR)
    return file.tell()


def _holds_elements(tag: tuple[int, int], representation: str | None, fragments: bool) -> bool:
    """Whether the value of an element consists of elements."""
    if tag == _ITEM_TAG:
        return not fragments
    if representation is not None:
        return representation == "SQ"
    try:
        return dictionary_VR(tag) == "SQ"
    except KeyError:
        return False


def _unpack(path: Path, packed: BinaryIO, unpacked: BinaryIO, allowed: int) -> None:
    """Decompress a deflated file in pieces, from the position of ``packed``; refuse more than ``allowed`` bytes.

    An item has eight bytes but costs its reader hundreds of bytes and much time. Items of real files differ and take
    several compressed bytes each; more than one item in a byte is a bomb of empty items.
    """
    size = path.stat().st_size
    unpacker, total, items = zlib.decompressobj(-zlib.MAX_WBITS), 0, 0
    while not unpacker.eof and (piece := unpacker.unconsumed_tail or packed.read(_CHUNK)):
        content = unpacker.decompress(piece, _CHUNK)
        total, items = total + len(content), items + content.count(_ITEM)
        if total > allowed:
            raise UserError(f"{path}: unpacks to more than {allowed} bytes")
        if items > size:
            raise UserError(f"{path}: unpacks to more items than its {size} bytes; expected several bytes an item")
        unpacked.write(content)
