"""What documents and code point at is there."""

from __future__ import annotations

import html
import re
from pathlib import Path

import click
import pytest
import typer

from samstudent.cli.main import app

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
CODE = sorted(file for folder in ("lib", "apps", "configs", "benchmarks") for file in (ROOT / folder).rglob("*.py"))


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(document: Path) -> None:
    targets = re.findall(r"\]\((?!https?:)([^)#\s]+)", document.read_text(encoding="utf-8"))
    assert not [target for target in targets if not (document.parent / target).exists()]


def test_code_names_documents_that_are_there() -> None:
    named = {
        (file, name) for file in CODE for name in re.findall(r"docs/[\w/-]+\.md", file.read_text(encoding="utf-8"))
    }
    assert len(named) > 5
    assert not [(file, name) for file, name in named if not (ROOT / name).is_file()]


def test_every_command_and_option_is_in_its_page() -> None:
    """Page made by ``python -m typer samstudent.cli.main utils docs --name samstudent --title Commands``."""
    page = html.unescape((ROOT / "docs/reference/commands.md").read_text(encoding="utf-8"))

    def check(command: click.Command, name: str) -> None:
        section = page.split(f"## `{name}`\n", 1)[1].split("\n## ", 1)[0].split("\n### ", 1)[0]
        for parameter in command.params:
            assert all(option in section for option in parameter.opts), (name, parameter.name)
            assert (getattr(parameter, "help", None) or "") in section, (name, parameter.name)
        for inner, child in getattr(command, "commands", {}).items():
            check(child, f"{name} {inner}")

    for name, command in typer.main.get_command(app).commands.items():  # type: ignore[attr-defined]
        check(command, f"samstudent {name}")


def test_every_variable_of_the_environment_is_in_its_page() -> None:
    page = (ROOT / "docs/reference/environment.md").read_text(encoding="utf-8")
    read = {name for file in CODE for name in re.findall(r"SAMSTUDENT_[A-Z_]+", file.read_text(encoding="utf-8"))}
    assert len(read) > 5
    assert not sorted(name for name in read if f"`{name}`" not in page)
