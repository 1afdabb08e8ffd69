"""Validation of names that clients choose and that become parts of paths: image ids, tags, model and run names."""

from __future__ import annotations

import re
import unicodedata

from samstudent.errors import UserError
from samstudent.imaging.file_names import is_id

#: Key of the metadata of a label that was accepted in review: origin of the label.
ACCEPTED_FROM = "accepted_from"
#: Key in the value of ``ACCEPTED_FROM`` of labels that were accepted for their lower bound of Dice, unseen.
PROMISE = "promise"
#: Key of the metadata of a label that was drawn on the page: active time, actions, and the start of each structure.
ANNOTATION = "annotation"
#: Key of the metadata of a label in the history that was refused, because another one was saved before it.
REFUSED = "refused"

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+\-]{0,63}")


def check_image_id(value: str) -> str:
    """Validated id in composed Unicode form (NFC): a plain file name without extension.

    Raises:
        UserError: empty, too long for a file name, hidden, or with a separator, control or wildcard character.
    """
    name = unicodedata.normalize("NFC", value) if isinstance(value, str) else ""
    if not is_id(name):
        raise UserError(f"image id {value!r}: must be a plain file name of at most 200 bytes, no '/', no leading '.'")
    return name


def check_name(value: str, kind: str) -> str:
    """Validated name of a tag, model, strategy or run: at most 64 letters, digits and ``_ . + -``."""
    if not isinstance(value, str) or not _NAME.fullmatch(value):
        raise UserError(f"{kind} {value!r}: must be 1 to 64 letters, digits or any of _ . + - and start with no sign")
    return value
