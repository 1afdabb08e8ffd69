"""``samstudent demo``: the complete loop on synthetic radiographs, or on a labelled folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def demo(
    studies: Annotated[
        Path | None, typer.Option(help="Labelled folder (images/, labels/, split.csv); default: synthetic wrists.")
    ] = None,
    task: Annotated[str, typer.Option("--task", "-t", help="Shipped task name or task file.")] = "phantom",
    output: Annotated[Path, typer.Option(help="Folder for the study, the logs and report.html.")] = Path("demo"),
    labels: Annotated[int, typer.Option(min=1, help="Number of labelled cases, without the hold-out.")] = 5,
    limit: Annotated[int, typer.Option(min=1, help="Maximum number of training cases.")] = 13,
    steps: Annotated[int | None, typer.Option(min=1, help="Training steps; default: those of the task.")] = None,
    seed: Annotated[int, typer.Option(help="Random seed of the synthetic radiographs.")] = 0,
    keep: Annotated[bool, typer.Option("--keep", help="Leave the server running at the end.")] = False,
    pacs: Annotated[
        bool, typer.Option("--pacs", help="Shorter demo with a PACS (starts Orthanc), over DICOMweb.")
    ] = False,
) -> None:
    """Run the complete active learning loop on a real server and write report.html."""
    # Here, not above, for a quick start of the command line: the demo imports torch.
    from samstudent.demo import DemoError, DemoOptions, run_demo

    try:
        run_demo(DemoOptions(studies, task, output, labels, limit, steps, seed, keep, pacs))
    except DemoError as error:
        typer.secho(f"the demo stopped: {error}\nthe server's log: {output / 'server.log'}", fg="red", err=True)
        raise typer.Exit(1) from error
