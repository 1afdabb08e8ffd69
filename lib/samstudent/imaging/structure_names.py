"""Structure names in files and requests, matched with those of a task."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

#: Prefix of segments that mark where a structure is unknown; the rest of the name is the structure. In a human label
#: an empty one marks a structure that is not annotated at all (``imaging.annotations.read_label``).
IGNORE = "ignore:"
#: Prefix of segments with masks that the quality filter rejected, kept for review.
REJECTED = "rejected:"
#: Extensions of label files, for messages.
LABEL_EXTENSIONS = ".seg.nrrd, .nrrd, .nii.gz, .nii, .png, .tif or .tiff"


def plain_name(name: str) -> str:
    """Normalised name: Unicode form, case, and runs of spaces, ``_``, ``.`` and ``-`` do not matter.

    Viewers write "Left lung" for ``left_lung``; a Mac stores "Müller" decomposed.
    """
    return re.sub(r"[\s_.\-]+", " ", unicodedata.normalize("NFKC", name)).strip().casefold()


def find_structure(name: str, structures: Iterable[str]) -> str | None:
    """Structure with this name, else the only one with an equal ``plain_name``; None: no such structure."""
    structures = list(structures)
    if name in structures:
        return name
    alike = [structure for structure in structures if plain_name(structure) == plain_name(name)]
    return alike[0] if len(alike) == 1 else None


def marked_structure(name: str, prefix: str, structures: Iterable[str]) -> str | None:
    """Structure of a marked name: vessel for ``ignore:vessel`` and the prefix ``ignore:``. None: not marked so.

    Case and spaces do not matter, as in ``find_structure``.
    """
    found = re.fullmatch(rf"\s*{re.escape(prefix.rstrip(':'))}\s*:(.*)", name, re.IGNORECASE | re.DOTALL)
    return find_structure(found[1].strip(), structures) if found else None
