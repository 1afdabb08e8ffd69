"""Record of an export, ``samstudent_export.json``: which labels are pseudo labels, so that no import takes them as
human ones."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from samstudent.errors import UserError
from samstudent.util.files import atomic_write

#: File in the folder of an export.
RECORD = "samstudent_export.json"
#: Key of a case whose label is a pseudo label, in this record and in an image of a COCO file.
PSEUDO_KEY = "pseudo_label"


def write_record(folder: Path, content: Mapping[str, Any]) -> None:
    """Write the record of an export into its folder."""
    atomic_write(folder / RECORD, json.dumps(content, indent=1, ensure_ascii=False, default=str) + "\n")


def pseudo_cases(folders: Iterable[Path]) -> set[str]:
    """Ids of the cases with pseudo labels by the records in some folders; empty: there is no record.

    Raises:
        UserError: a record cannot be read, so that pseudo labels could be taken for human ones.
    """
    found: set[str] = set()
    for folder in folders:
        try:
            content = json.loads((folder / RECORD).read_text(encoding="utf-8"))
            found |= {str(case) for case, entry in content["cases"].items() if entry["label"] == PSEUDO_KEY}
        except (FileNotFoundError, NotADirectoryError):
            continue
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{folder / RECORD}: cannot be read: {error}; restore it, or export again") from error
    return found
