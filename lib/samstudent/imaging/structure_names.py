"""Which of a task's structures a name in a file or a request means."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

#: Segments whose name starts so mark where a structure is unknown; the rest of the name is the structure's. In a
#: human's label an empty one says that the structure is not annotated at all (``imaging.annotations.read_label``).
IGNORE = "ignore:"
#: Segments of masks that were not good enough to train on, kept for people to look at.
REJECTED = "rejected:"
#: Extensions of label files, for messages.
LABEL_EXTENSIONS = ".seg.nrrd, .nrrd, .nii.gz, .nii, .png, .tif or .tiff"


def plain_name(name: str) -> str:
    """A name without what writers vary: Unicode form, case, and runs of spaces, ``_``, ``.`` and ``-``.

    Viewers write "Left lung" for ``left_lung``; a Mac stores "Müller" decomposed.
    """
    return re.sub(r"[\s_.\-]+", " ", unicodedata.normalize("NFKC", name)).strip().casefold()


def find_structure(name: str, structures: Iterable[str]) -> str | None:
    """The structure that a name means: the equal one, else the only one whose ``plain_name`` is equal; None: none."""
    structures = list(structures)
    if name in structures:
        return name
    alike = [structure for structure in structures if plain_name(structure) == plain_name(name)]
    return alike[0] if len(alike) == 1 else None


def marked_structure(name: str, prefix: str, structures: Iterable[str]) -> str | None:
    """The structure of a marked name: of ``ignore:vessel``, with the prefix ``ignore:``, vessel. None: not so marked.

    Case and spaces do not matter, as in ``find_structure``.
    """
    found = re.fullmatch(rf"\s*{re.escape(prefix.rstrip(':'))}\s*:(.*)", name, re.IGNORECASE | re.DOTALL)
    return find_structure(found[1].strip(), structures) if found else None
