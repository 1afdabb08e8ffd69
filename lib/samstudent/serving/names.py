"""Names that clients choose and that become parts of paths: image ids, tags, model and run names."""

from __future__ import annotations

import re

from samstudent.errors import UserError

#: The tag of the labels that are trained on.
FINAL = "final"
#: Tags whose labels the software made. They are replaced without history and never count as a human's work.
PSEUDO_TAGS = frozenset({"pseudo", "pseudo_raw"})
MACHINE_TAGS = PSEUDO_TAGS | {"original"}

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+\-]{0,63}")
# Ids are mostly file names somebody else chose, so letters of any script and most signs are welcome. Not those that
# reach another folder, hide the file, or end differently on another system.
_IMAGE_ID = re.compile(r"(?![.\s])[^/\\:*?\"<>|\x00-\x1f\x7f]{1,200}(?<![.\s])")


def check_image_id(value: str) -> str:
    """The id as given, if it is a plain file name without its extension.

    Raises:
        UserError: it is empty, too long for a file name, hidden, or holds a separator, control or wildcard character.
    """
    if not isinstance(value, str) or not _IMAGE_ID.fullmatch(value) or len(value.encode()) > 200:
        raise UserError(f"image id {value!r}: must be a plain file name of at most 200 bytes, no '/', no leading '.'")
    return value


def check_name(value: str, what: str) -> str:
    """The name as given (of a tag, model, strategy, run), if it is letters, digits and ``_ . + -``, 64 at most."""
    if not isinstance(value, str) or not _NAME.fullmatch(value):
        raise UserError(f"{what} {value!r}: must be 1 to 64 letters, digits or any of _ . + - and start with no sign")
    return value
