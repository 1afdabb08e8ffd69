"""Command line ``samstudent``: all commands, one module per group."""

from __future__ import annotations

import logging
import sys

import typer

from samstudent import __version__
from samstudent.cli.data import confirm_labels, doctor, refine
from samstudent.cli.demo import demo
from samstudent.cli.evaluate import evaluate
from samstudent.cli.exchange import import_data
from samstudent.cli.export import export_app
from samstudent.cli.predict import predict
from samstudent.cli.reproduce import reproduce_app
from samstudent.cli.research import experiment, simulate
from samstudent.cli.rounds import rounds_app
from samstudent.cli.serve import serve
from samstudent.cli.training import pseudo_label, train
from samstudent.cli.users import users_app
from samstudent.errors import UserError, explain
from samstudent.server import deferred_imports
from samstudent.server.bootstrap import share_cores
from samstudent.util.signals import stop

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Segmentation models from a few annotated images and SAM pseudo labels: an app for the MONAI Label server.",
)


def version() -> None:
    """Print the version."""
    typer.echo(__version__)


for _command in (
    serve, demo, doctor, refine, confirm_labels, pseudo_label, train, predict, evaluate, experiment, simulate, version,
):  # fmt: skip
    app.command()(_command)
app.command("import")(import_data)
app.add_typer(export_app, name="export")
app.add_typer(reproduce_app, name="reproduce")
app.add_typer(rounds_app, name="rounds")
app.add_typer(users_app, name="users")


def main() -> None:
    """Entry point of the command line.

    Exit code 2, with one line, after a user's error or an error of a file or folder; 128 + its number after a signal.
    """
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    # matplotlib warns about a home folder that is not writable, even if no figure is made.
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    share_cores()
    deferred_imports.install()
    with stop.handled():
        try:
            app()
        except (UserError, OSError) as error:
            typer.secho(f"samstudent: {explain(error)}", fg="red", err=True)
            sys.exit(2)


if __name__ == "__main__":
    main()
