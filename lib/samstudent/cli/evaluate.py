"""``samstudent evaluate``: Dice and surface distances of one round, or of two side by side, on labelled cases.

Function-level imports: torch takes seconds, and the command line has to start without it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from samstudent.cli.options import Studies, TaskOption


def evaluate(
    studies: Studies,
    task: TaskOption,
    output: Annotated[Path, typer.Option(help="Folder for report.html and evaluation.json.")],
    rounds: Annotated[
        list[str] | None,
        typer.Option(
            "--round",
            help="Round, e.g. r0004, or r0004+sam: its masks refined by SAM. Twice: two side by side. Default: served.",
        ),
    ] = None,
    cases: Annotated[
        str, typer.Option(help="Cases of the study: holdout, test (of split.csv) or labelled (all).")
    ] = "holdout",
    images: Annotated[Path | None, typer.Option(help="Folder of other images, in place of the study's cases.")] = None,
    labels: Annotated[Path | None, typer.Option(help="Folder of their labels, with the names of the images.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Write into a folder that is not empty.")] = False,
) -> None:
    """Measure a round, or compare two, on labelled cases. Exit code 1 if a case fails; the others are measured."""
    from samstudent.cli.evaluation_run import EvaluateOptions, evaluate_rounds

    options = EvaluateOptions(tuple(rounds or ["served"]), cases, images, labels, overwrite)
    if not evaluate_rounds(studies, task, output, options):
        raise typer.Exit(1)
