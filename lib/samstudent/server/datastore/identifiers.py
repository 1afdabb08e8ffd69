"""Names that clients choose and that become parts of paths: image ids, tags, model and run names."""

from __future__ import annotations

import re
import unicodedata

from samstudent.errors import UserError
from samstudent.imaging.file_names import is_id

#: Info of a label that was accepted in review, not drawn: what it was made of.
ACCEPTED_FROM = "accepted_from"

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+\-]{0,63}")


def check_image_id(value: str) -> str:
    """The id in composed Unicode form (NFC), as the study lists it, if it is a plain file name without its extension.

    Raises:
        UserError: it is empty, too long for a file name, hidden, or holds a separator, control or wildcard character.
    """
    name = unicodedata.normalize("NFC", value) if isinstance(value, str) else ""
    if not is_id(name):
        raise UserError(f"image id {value!r}: must be a plain file name of at most 200 bytes, no '/', no leading '.'")
    return name


def check_name(value: str, what: str) -> str:
    """The name as given (of a tag, model, strategy, run), if it is letters, digits and ``_ . + -``, 64 at most."""
    if not isinstance(value, str) or not _NAME.fullmatch(value):
        raise UserError(f"{what} {value!r}: must be 1 to 64 letters, digits or any of _ . + - and start with no sign")
    return value
