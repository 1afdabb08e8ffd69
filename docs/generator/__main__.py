"""``make docs``: write the reference pages, and check that links in documents lead somewhere.

python docs/generator
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import commands
import endpoints
import task_file

ROOT = Path(__file__).resolve().parents[2]
REFERENCE = ROOT / "docs" / "reference"
PAGES: dict[str, Callable[[], str]] = {
    "task-file.md": task_file.page,
    "commands.md": commands.page,
    "endpoints.md": endpoints.page,
}
_NOTE = "<!-- Written by `make docs`; changes belong into the program. -->\n\n"


def broken_links() -> list[str]:
    """Links of documents to files that are not there, and names of documents in code: a line each."""
    broken = []
    for document in (ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))):
        targets = re.findall(r"\]\((?!https?:)([^)#\s]+)", document.read_text(encoding="utf-8"))
        broken += [f"{document}: {target}" for target in targets if not (document.parent / target).exists()]
    for folder in ("lib", "apps", "configs", "benchmarks"):
        for file in sorted((ROOT / folder).rglob("*.py")):
            named = re.findall(r"docs/[\w/-]+\.md", file.read_text(encoding="utf-8"))
            broken += [f"{file}: {name}" for name in named if not (ROOT / name).is_file()]
    return broken


def main() -> None:
    """Write the pages; exit code 1 where a link is broken."""
    for name, page in PAGES.items():
        (REFERENCE / name).write_text(_NOTE + page(), encoding="utf-8")
    if broken := broken_links():
        raise SystemExit("documents that are not there:\n" + "\n".join(broken))


if __name__ == "__main__":
    main()
