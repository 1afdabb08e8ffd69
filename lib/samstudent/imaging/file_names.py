"""File names of images and labels: extension, case id, printable form. Documented in docs/how-to/own-data.md."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Sequence
from functools import lru_cache

SEGMENTATION = ".seg.nrrd"
#: Extensions in order of preference, for files with the same id: lossless formats with geometry first.
IMAGES = (".nii.gz", ".nii", ".nrrd", ".dcm", ".tif", ".tiff", ".png", ".jpg", ".jpeg")
LABELS = (SEGMENTATION, ".dcm", ".nrrd", ".nii.gz", ".nii", ".tif", ".tiff", ".png", ".jpg", ".jpeg")

#: Sign in an id between a clip, or a folder of DICOM images, and one image of it: such cases show the same patient.
PART_OF = "@"
_LONGEST_ID = 200
# Ids are mostly existing file names, so letters of any script and most signs are allowed. Not allowed are signs that
# reach another folder, hide the file, are read differently by another system, or (surrogates) are no text.
_FORBIDDEN = '/\\\\:*?"<>|\x00-\x1f\x7f\ud800-\udfff'
_ID = re.compile(rf"(?![.\s])[^{_FORBIDDEN}]+(?<![.\s])")


def split_name(name: str, extensions: Sequence[str]) -> tuple[str, str]:
    """(name without its extension, extension as written), by the longest known extension: "a.nii.gz" is "a" and
    ".nii.gz". The extension is "" if it is none of ``extensions``."""
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
    """Case id of a file name without its extension.

    The name in composed Unicode form (NFC): the decomposed name of a Mac is the same case. Characters that are not
    allowed in an id are replaced by ``_``, and a digest of the name makes the id unique.
    """
    name = unicodedata.normalize("NFC", stem)
    if is_id(name):
        return name
    digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:8]
    safe = re.sub(rf"^[.\s]+|[.\s]+$|[{_FORBIDDEN}]", "_", name)
    while len(safe.encode()) + len(digest) >= _LONGEST_ID:
        safe = safe[:-1]
    return f"{safe}-{digest}"


def group_of(case: str) -> str:
    """Id of the clip, or of the folder, of which a case is one image; of other cases their own."""
    return case.split(PART_OF, 1)[0] or case


def id_in_path(name: str) -> str:
    """Case id of an image that an annotation file names: without the folders in front and the extension."""
    return case_id(split_name(name.replace("\\", "/").rsplit("/", 1)[-1], IMAGES)[0])


def row_id(name: str) -> str:
    """Case id of a row of a table (``split.csv``): the name in composed form (NFC); a name that is no id is taken for a
    file name and becomes the id of that file."""
    name = unicodedata.normalize("NFC", name)
    stem, _ = split_name(name, IMAGES)
    return name if is_id(name) and is_id(stem) else case_id(stem)


def is_id(value: str) -> bool:
    """Whether a text can be a case id: a plain file name of at most 200 bytes."""
    return _ID.fullmatch(value) is not None and len(value.encode()) <= _LONGEST_ID


def printable(name: str) -> str:
    """A file name as text for logs, terminals and JSON, with escapes for bytes that are no text."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in name)


def why_no_id(stem: str) -> str:
    name = unicodedata.normalize("NFC", stem)
    if found := sorted(set(re.findall(f"[{_FORBIDDEN}]", name))):
        return f"an id has no {' '.join(printable(c) for c in found)}"
    if len(name.encode()) > _LONGEST_ID:
        return f"the name is {len(name.encode())} bytes long, an id has at most {_LONGEST_ID}"
    return "an id neither begins nor ends with a space or dot"
