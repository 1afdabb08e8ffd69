"""``samstudent export``: the model of a round, and the data of a study, for other programs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from samstudent.cli.exchange import export_data
from samstudent.cli.options import Studies, TaskOption
from samstudent.cli.rounds import open_ledger
from samstudent.errors import Conflict, NotFound, UserError
from samstudent.task import load_task

if TYPE_CHECKING:
    from samstudent.rounds.ledger import Ledger

export_app = typer.Typer(no_args_is_help=True, help="Models and data for other programs.")
export_app.command("data")(export_data)


@export_app.command("model")
def export_model_command(
    studies: Studies,
    task: TaskOption,
    output: Annotated[Path, typer.Option(help="Folder for the files; created if missing.")],
    formats: Annotated[
        list[str], typer.Option("--format", help="onnx, torchscript or bundle (MONAI); may be repeated.")
    ],
    round_id: Annotated[str | None, typer.Option("--round", help="Round, e.g. r0004; default: the served one.")] = None,
) -> None:
    """Export the student of a round as ONNX, TorchScript or MONAI bundle, with pre- and post-processing."""
    checked = load_task(task)
    ledger = open_ledger(studies, task)
    id = round_id or _served(ledger)
    record = ledger.get(id)
    if record.model_digest is None and record.status != "done":
        raise Conflict(f"round {id} is {record.status}: its model may be incomplete")
    # Here, not above: torch takes seconds, and errors of the arguments are reported before.
    from samstudent.export.description import ExportedRound
    from samstudent.export.export_model import FORMATS, export_model
    from samstudent.student.predict import Student

    if unknown := [name for name in formats if name not in FORMATS]:
        raise UserError(f"--format {unknown[0]}: use one of {', '.join(FORMATS)}")
    path = ledger.model_path(id)
    student = Student.load(path, checked, "cpu")
    if record.model_digest not in (None, student.version):
        raise UserError(f"{path}: damaged: its SHA-256 is {student.version}, not {record.model_digest}; restore it")
    origin = ExportedRound(studies, id, record.dice.get("challenger"))
    for file in export_model(student, path, origin, output, [name for name in FORMATS if name in formats]):
        typer.echo(file)


def _served(ledger: Ledger) -> str:
    champion = ledger.champion()
    if champion is None:
        raise NotFound("no round is served yet: name one with --round, or promote one (samstudent rounds promote)")
    return champion.id
