"""Table of a benchmark: printed, and as a file for ``benchmarks/tables.py``."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path


def show_table(titles: Sequence[str], rows: Sequence[Sequence[str]], command: str, output: Path | None) -> None:
    """Print a table, and write it to ``results.json`` in a folder.

    Args:
        titles: of the columns.
        rows: the others.
        command: that measures it again.
        output: the folder, created when missing; None: the table is only printed.
    """
    for line in [titles, *rows]:
        print(" | ".join(line))
    if output is None:
        return
    output.mkdir(parents=True, exist_ok=True)
    content = {
        "kind": "table",
        "options": {},
        "when": time.strftime("%Y-%m-%d"),
        "command": command,
        "columns": list(titles),
        "rows": [list(row) for row in rows],
    }
    (output / "results.json").write_text(json.dumps(content, indent=1))
