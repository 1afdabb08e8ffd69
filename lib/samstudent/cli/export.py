"""``samstudent export``: the model of a round, and the data of a study, for other programs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from samstudent.cli.exchange import export_data
from samstudent.cli.options import Studies, TaskOption
from samstudent.cli.rounds import open_ledger
from samstudent.errors import UserError
from samstudent.inference.round_choice import model_of
from samstudent.task import load_task
from samstudent.util.places import require_new, require_writable

export_app = typer.Typer(no_args_is_help=True, help="Models and data for other programs.")
export_app.command("data")(export_data)


@export_app.command("model")
def export_model_command(
    studies: Studies,
    task: TaskOption,
    output: Annotated[Path, typer.Option(help="New or empty folder for the files.")],
    formats: Annotated[
        list[str], typer.Option("--format", help="onnx, torchscript or bundle (MONAI); may be repeated.")
    ],
    round_id: Annotated[str | None, typer.Option("--round", help="Round, e.g. r0004; default: the served one.")] = None,
    overwrite: Annotated[
        bool,
        typer.Option("--overwrite", help="Write into a folder that is not empty; files of equal names are replaced."),
    ] = False,
) -> None:
    """Export the student of a round as ONNX, TorchScript or MONAI bundle, with pre- and post-processing."""
    checked = load_task(task)
    require_new(output, overwrite)
    ledger = open_ledger(studies, task)
    path = model_of(ledger, checked.name, round_id)
    id = path.parent.name
    # Here, not above: torch takes seconds, and errors of the arguments are reported before.
    from samstudent.export.description import ExportedRound
    from samstudent.export.export_model import FORMATS, export_model
    from samstudent.student.predict import Student

    if unknown := [name for name in formats if name not in FORMATS]:
        raise UserError(f"--format {unknown[0]}: use one of {', '.join(FORMATS)}")
    require_writable(output, "the exported files are written")
    student = Student.load(path, checked, "cpu")
    origin = ExportedRound(studies, id, ledger.get(id).dice.get("challenger"))
    for file in export_model(student, path, origin, output, [name for name in FORMATS if name in formats]):
        typer.echo(file)
