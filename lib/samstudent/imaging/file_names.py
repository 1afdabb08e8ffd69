"""File names of images and labels: extension, case id, printable form. Documented in docs/how-to/own-data.md."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Sequence
from functools import lru_cache

SEGMENTATION = ".seg.nrrd"
#: Extensions in order of preference, for files with the same id: what loses nothing first.
IMAGES = (".nii.gz", ".nii", ".nrrd", ".dcm", ".tif", ".tiff", ".png", ".jpg", ".jpeg")
LABELS = (SEGMENTATION, ".dcm", ".nrrd", ".nii.gz", ".nii", ".tif", ".tiff", ".png", ".jpg", ".jpeg")

_LONGEST_ID = 200
# Ids are mostly file names somebody else chose, so letters of any script and most signs are welcome. Not those that
# reach another folder, hide the file, end differently on another system, or (surrogates) are no text at all.
_FORBIDDEN = '/\\\\:*?"<>|\x00-\x1f\x7f\ud800-\udfff'
_ID = re.compile(rf"(?![.\s])[^{_FORBIDDEN}]+(?<![.\s])")


def split_name(name: str, extensions: Sequence[str]) -> tuple[str, str]:
    """(name without its extension, extension as written); the longest known one: "a.nii.gz" is "a" and ".nii.gz". The
    extension is "" where it is none of ``extensions``."""
    lower = name.lower()
    for extension in _longest_first(tuple(extensions)):
        if lower.endswith(extension) and len(name) > len(extension):
            return (name[: -len(extension)], name[-len(extension) :]) if extension in extensions else (name, "")
    return name, ""


@lru_cache
def _longest_first(extensions: tuple[str, ...]) -> list[str]:
    # A segmentation beside its image ends in .nrrd, too.
    return sorted({*extensions, SEGMENTATION}, key=len, reverse=True)


def case_id(stem: str) -> str:
    """The case id of a file name without its extension.

    The name itself in composed Unicode form (NFC): a Mac's decomposed name is the same case. Where an id cannot hold
    the name, its characters are replaced by ``_`` and a digest of the name keeps it apart from all others.
    """
    name = unicodedata.normalize("NFC", stem)
    if is_id(name):
        return name
    digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:8]
    safe = re.sub(rf"^[.\s]+|[.\s]+$|[{_FORBIDDEN}]", "_", name)
    while len(safe.encode()) + len(digest) >= _LONGEST_ID:
        safe = safe[:-1]
    return f"{safe}-{digest}"


def row_id(name: str) -> str:
    """The case id that a row of a table (``split.csv``) means: the name in composed form (NFC); one that can be no id
    is taken for a file name and becomes the id of that file."""
    name = unicodedata.normalize("NFC", name)
    stem, _ = split_name(name, IMAGES)
    return name if is_id(name) and is_id(stem) else case_id(stem)


def is_id(value: str) -> bool:
    """Whether a text can be a case id: a plain file name of at most 200 bytes."""
    return _ID.fullmatch(value) is not None and len(value.encode()) <= _LONGEST_ID


def printable(name: str) -> str:
    """A file name as text for logs, terminals and JSON, whatever bytes it is made of."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in name)


def why_no_id(stem: str) -> str:
    name = unicodedata.normalize("NFC", stem)
    if found := sorted(set(re.findall(f"[{_FORBIDDEN}]", name))):
        return f"an id has no {' '.join(printable(c) for c in found)}"
    if len(name.encode()) > _LONGEST_ID:
        return f"the name is {len(name.encode())} bytes long, an id has at most {_LONGEST_ID}"
    return "an id neither begins nor ends with a space or dot"
