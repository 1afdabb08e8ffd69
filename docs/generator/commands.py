"""The reference page of the commands, from Typer's own description of them."""

from __future__ import annotations

import typer
from typer.cli import get_docs_for_click

from samstudent.cli.main import app


def page() -> str:
    """The page, as Markdown."""
    command = typer.main.get_command(app)
    context = typer.Context(command, info_name="samstudent")
    return get_docs_for_click(obj=command, ctx=context, name="samstudent", title="Commands").strip() + "\n"
