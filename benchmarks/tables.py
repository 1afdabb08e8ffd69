"""Published results in docs/results: add a result, and generate the page of tables.

python benchmarks/tables.py                                    # docs/results/README.md from the JSON beside it
python benchmarks/tables.py keep OUT/results.json NAME TITLE [NOTE]
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from samstudent.research.result_tables import trimmed, write_tables

RESULTS = Path(__file__).resolve().parents[1] / "docs" / "results"


def main(words: list[str]) -> None:
    """Keep a result if the command line says so, then write the page."""
    if words:
        verb, source, name, title, *note = words
        if verb != "keep":
            raise SystemExit(__doc__)
        content = trimmed(json.loads(Path(source).read_text(encoding="utf-8")), title, " ".join(note))
        (RESULTS / f"{name}.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    print(write_tables(RESULTS))


if __name__ == "__main__":
    main(sys.argv[1:])
