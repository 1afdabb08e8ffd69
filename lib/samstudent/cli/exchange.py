"""``samstudent import`` and ``samstudent export``: data of other tools.

Function-level imports: torch and the host take seconds, and the command line has to start without them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from samstudent.cli.options import Studies, TaskOption


def export_data(
    studies: Studies,
    task: TaskOption,
    output: Annotated[Path, typer.Option(help="New or empty folder; for nnunet may be nnUNet_raw.")],
    format: Annotated[str, typer.Option(help="nnunet, coco, or experiment (for samstudent experiment).")],
    pseudo_labels: Annotated[
        bool, typer.Option("--pseudo-labels", help="With the accepted pseudo labels of cases without a human label.")
    ] = False,
    polygons: Annotated[
        bool, typer.Option("--polygons", help="coco: polygons in place of run lengths, where they are exact.")
    ] = False,
    channel: Annotated[
        str | None, typer.Option(help="nnunet: name of the channel of grey images, e.g. CT; nnU-Net normalises by it.")
    ] = None,
) -> None:
    """Export images and labels of a study. Exit code 1 if a case was left out."""
    from samstudent.cli.exchange_run import run_export
    from samstudent.exchange.study_export import ExportOptions

    options = ExportOptions(format, channel, polygons)
    raise typer.Exit(0 if run_export(studies, task, output, options, pseudo=pseudo_labels) else 1)


def import_data(
    source: Annotated[
        list[Path],
        typer.Argument(help="Data set of nnU-Net, files of COCO or CVAT or their folder, or folder of label files."),
    ],
    studies: Annotated[str | None, typer.Option("--studies", "-s", help="Study folder, or the URL of a PACS.")] = None,
    task: Annotated[
        str | None, typer.Option("--task", "-t", help="Task; without it, the names in the source are printed.")
    ] = None,
    format: Annotated[str, typer.Option(help="nnunet, coco, cvat or labels; auto: recognised.")] = "auto",
    images: Annotated[
        Path | None, typer.Option(help="coco, cvat, labels: folder of the images; default: beside the annotations.")
    ] = None,
    values: Annotated[
        Path | None, typer.Option(help="labels: table of the values, CSV (value,structure) or JSON.")
    ] = None,
    attribute: Annotated[str | None, typer.Option(help="cvat: attribute with the name of the structure.")] = None,
    channel: Annotated[str | None, typer.Option(help="nnunet: the only channel to take, name or number.")] = None,
    empty_is_absent: Annotated[
        bool,
        typer.Option("--empty-is-absent", help="coco, cvat: an image without annotations shows no structure."),
    ] = False,
    replace: Annotated[bool, typer.Option("--replace", help="Replace labels of the study that differ.")] = False,
    user: Annotated[str, typer.Option(help="Author of the labels.")] = "import",
    report: Annotated[
        Path | None, typer.Option(help="File of the report, JSON; default: in the state of the study.")
    ] = None,
) -> None:
    """Import images and labels of another tool into a study. Exit code 1 if a case was not taken."""
    from samstudent.cli.exchange_run import print_names, run_import
    from samstudent.errors import UserError
    from samstudent.exchange.open_source import SourceOptions, open_source
    from samstudent.util.places import require_writable

    if report is not None:
        require_writable(report.parent, "the report is written")
    found = open_source(source, format, SourceOptions(images, values, attribute, channel, empty_is_absent))
    if task is None:
        print_names(found)
        return
    if studies is None:
        raise UserError("--studies: missing; it is the study folder that gets the images and labels")
    from samstudent.exchange.study_import import ImportOptions

    raise typer.Exit(0 if run_import(found, studies, task, ImportOptions(user, replace), report) else 1)
