"""``samstudent doctor``, ``refine`` and ``confirm-labels``: commands on folders, without a server.

Function-level imports: torch takes seconds, and the command line has to start without it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from samstudent.cli.options import Studies, TaskOption


def doctor(
    studies: Annotated[str | None, typer.Option("--studies", "-s", help="Study folder to check.")] = None,
    task: Annotated[str | None, typer.Option("--task", "-t", help="Task to check.")] = None,
) -> None:
    """Check the installation, SAM, the device and a study folder. Exit code 1 if there are errors."""
    from samstudent.cli.doctor import doctor as run

    raise typer.Exit(0 if run(studies, task) else 1)


def confirm_labels(studies: Studies, task: TaskOption) -> None:
    """Confirm that the label maps of a study use the label values of the task. Check one of them first."""
    from samstudent.cli.study_check import confirm_labels as run

    run(Path(studies), task)


def refine(
    images: Annotated[Path, typer.Option(help="Folder of images, or one image.")],
    masks: Annotated[Path, typer.Option(help="Folder of coarse masks with the names of the images, or one mask.")],
    task: TaskOption,
    output: Annotated[Path, typer.Option(help="Folder for refined masks and quality.csv.")],
    extension: Annotated[str, typer.Option(help="Format of the refined masks.")] = ".seg.nrrd",
) -> None:
    """Refine coarse masks with SAM, without a server, and write a table of quality estimates."""
    from samstudent.cli.refine_folder import refine_folder
    from samstudent.util.places import require_writable

    require_writable(output, "the refined masks and quality.csv are written")
    if not refine_folder(images, masks, task, output, extension):
        raise typer.Exit(1)
