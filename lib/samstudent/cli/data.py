"""``samstudent doctor``, ``refine`` and ``confirm-labels``: commands on folders, without a server.

Each imports its work when it runs, so that the command line starts without torch (seconds).
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
    """Report the installation, SAM, the device, and errors of a study folder. Exit code 1 if there are errors."""
    from samstudent.cli.doctor import doctor as run

    raise typer.Exit(0 if run(studies, task) else 1)


def confirm_labels(studies: Studies, task: TaskOption) -> None:
    """Record that label maps of a study hold the task's values, where that was only assumed. Check one first."""
    from samstudent.cli.study_check import confirm_labels as run

    run(Path(studies), task)


def refine(
    images: Annotated[Path, typer.Option(help="Folder of images, or one image.")],
    masks: Annotated[Path, typer.Option(help="Folder of coarse masks named like the images, or one mask.")],
    task: TaskOption,
    output: Annotated[Path, typer.Option(help="Folder for refined masks and quality.csv.")],
    extension: Annotated[str, typer.Option(help="Format of the refined masks.")] = ".seg.nrrd",
) -> None:
    """Redraw coarse masks with SAM, without a server: refined masks and a table of their quality."""
    from samstudent.cli.refine_folder import refine_folder
    from samstudent.util.places import require_writable

    require_writable(output, "the refined masks and quality.csv are kept")
    if not refine_folder(images, masks, task, output, extension):
        raise typer.Exit(1)
