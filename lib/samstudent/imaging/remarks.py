"""Remarks on the files of a folder, for users."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from samstudent.imaging.file_names import printable

#: Largest number of names in one remark.
_NAMED = 5


@dataclass(frozen=True)
class Remark:
    """Remark on one file or subfolder.

    Attributes:
        name: the file's name; of a file in a subfolder its path below the listed folder.
        text: reason why the file is skipped, or the id under which it is used.
        is_fault: an error that the user has to correct; False: may be intended.
    """

    name: str
    text: str
    is_fault: bool = False


def sentences(remarks: Iterable[Remark], folder: str = "") -> list[str]:
    """Remarks as lines for users, those with the same text in one.

    Args:
        folder: put before the names, e.g. ``labels/final/``.
    """
    by_text: dict[str, list[str]] = {}
    for remark in remarks:
        by_text.setdefault(remark.text, []).append(printable(folder + remark.name))
    lines = []
    for text, names in by_text.items():
        more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
        lines.append(f"{', '.join(names[:_NAMED])}{more}: {text}")
    return lines
