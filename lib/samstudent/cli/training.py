"""``samstudent train`` and ``samstudent pseudo-label``: jobs of the server, run in this process."""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from samstudent.cli.app_folder import app_folder, app_folder_path, task_argument
from samstudent.cli.options import Studies, TaskOption
from samstudent.cli.rounds import open_ledger, print_rounds
from samstudent.errors import Unavailable
from samstudent.rounds.repeat import repetition
from samstudent.rounds.study_paths import StudyPaths
from samstudent.util.progress_bar import ProgressBars

if TYPE_CHECKING:
    from samstudent.server.app import SamstudentApp


def pseudo_label(studies: Studies, task: TaskOption) -> None:
    """Generate pseudo labels of all unlabelled cases with the champion and SAM."""
    app = _app(studies, task)
    with _progress(app):
        result = app.batch_infer({"model": "student+sam", "images": "unlabeled"})
    _send(app)
    for key, value in result.items():
        typer.echo(f"{key}: {value}")


def train(
    studies: Studies,
    task: TaskOption,
    pseudo_labels: Annotated[
        str, typer.Option(help="renew: generate; use: existing ones; raw: the champion's masks without SAM; off: none.")
    ] = "renew",
    steps: Annotated[int | None, typer.Option(min=1, help="Training steps; default: those of the task.")] = None,
    start: Annotated[
        str | None,
        typer.Option(help="Initial weights: a model.pt, a state dict, or a round of this study, e.g. r0003."),
    ] = None,
    promote: Annotated[bool, typer.Option(help="Promote the new student if it is not worse.")] = True,
    repeat: Annotated[
        bool, typer.Option("--repeat", help="Further rounds while mean Dice rises by more than 0.5 points.")
    ] = False,
) -> None:
    """Run one round: pseudo labels, training of a challenger, comparison with the champion, promotion if not worse."""
    request: dict[str, Any] = {"model": "student", "pseudo_labels": pseudo_labels, "promote": promote}
    if steps is not None:
        request["steps"] = steps
    if start is not None:
        request["start"] = _start_argument(start, studies)
    app = _app(studies, task)
    ledger = open_ledger(studies, task)
    while True:
        with _progress(app):
            app.train(request)
        _send(app)
        if not repeat:
            break
        found = repetition(ledger.rounds())
        typer.echo(f"{'a further round follows' if found.due else 'no further round'}: {found.why}")
        if not found.due:
            break
        request["reason"] = found.why
    print_rounds(ledger)


@contextmanager
def _progress(app: SamstudentApp) -> Iterator[None]:
    """Context in which the progress of the app's job is shown: bars on a terminal, otherwise lines of the log."""
    if not sys.stderr.isatty():
        logging.getLogger("samstudent").setLevel(logging.INFO)
        yield
        return
    with ProgressBars() as bars:
        app.report = bars
        yield


def _start_argument(start: str, studies: str) -> str:
    """Round, name of a file in the study's folder of weights, or absolute path of another file."""
    if not Path(start).exists():
        weights = StudyPaths.of(studies, str(app_folder_path(studies))).weights
        if re.fullmatch(r"r\d{4,}", start) or (weights / start).is_file():
            return start
    return str(Path(start).resolve())


def _app(studies: str, task: str) -> SamstudentApp:
    folder = str(app_folder(studies, None))
    # Here, not above: the host and torch take seconds, and errors of the arguments are reported before.
    from samstudent.server.app import SamstudentApp

    return SamstudentApp(app_dir=folder, studies=str(studies), conf={"task": task_argument(task)})


def _send(app: SamstudentApp) -> None:
    """Send the labels of the job to the PACS if there is one; after an error, the next server sends them."""
    if exchange := getattr(app.datastore(), "exchange", None):
        try:
            exchange.send()
        except Unavailable as error:
            typer.secho(f"not sent yet: {error}", fg="yellow", err=True)
