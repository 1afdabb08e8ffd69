"""Reference page of the commands, from their description by Typer."""

from __future__ import annotations

import typer
from typer.cli import get_docs_for_click

from samstudent.cli.main import app


def page() -> str:
    """Page in Markdown."""
    command = typer.main.get_command(app)
    context = typer.Context(command, info_name="samstudent")
    return get_docs_for_click(obj=command, ctx=context, name="samstudent", title="Commands").strip() + "\n"
