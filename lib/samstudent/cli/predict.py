"""``samstudent predict``: masks of new images by the student of a round.

Function-level imports: torch takes seconds, and the command line has to start without it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from samstudent.cli.options import Studies, TaskOption


def predict(
    studies: Studies,
    task: TaskOption,
    output: Annotated[Path, typer.Option(help="Folder for the masks, quality.csv and prediction.json.")],
    images: Annotated[
        list[str] | None,
        typer.Argument(
            help="Files, folders (in 3D also of DICOM slices), or ids of the study's cases; default: all its cases."
        ),
    ] = None,
    round_id: Annotated[
        str | None, typer.Option("--round", help="Round of the student, e.g. r0004; default: the served one.")
    ] = None,
    refine: Annotated[
        bool, typer.Option("--refine", help="Refine the masks with SAM and estimate their quality.")
    ] = False,
    file_format: Annotated[
        str, typer.Option("--format", help="seg.nrrd, nrrd, nii.gz, nii, png, tif, or dicom (DICOM SEG).")
    ] = "seg.nrrd",
    overwrite: Annotated[
        bool,
        typer.Option("--overwrite", help="Write into a folder that is not empty; files of equal names are replaced."),
    ] = False,
) -> None:
    """Predict the masks of images with the student of a round. Exit code 1 if an image fails; the rest is written."""
    from samstudent.cli.prediction_run import PredictOptions, predict_images

    options = PredictOptions(round_id, refine, file_format, overwrite)
    if not predict_images(images or [], studies, task, output, options):
        raise typer.Exit(1)
