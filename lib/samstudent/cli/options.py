"""Options and output that several commands share."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

Studies = Annotated[str, typer.Option("--studies", "-s", help="Study folder, or the URL of a DICOMweb server.")]
TaskOption = Annotated[str, typer.Option("--task", "-t", help="Shipped task name or path of a task file.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def print_json(content: Any) -> None:
    """Print JSON values, indented."""
    typer.echo(json.dumps(content, indent=1))
