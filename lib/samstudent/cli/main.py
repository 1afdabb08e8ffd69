"""The command line. Each command is a thin layer: it reads arguments, calls one function, prints the result."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Annotated

import typer

from samstudent import __version__
from samstudent.cli.users import users_app
from samstudent.errors import UserError, explain
from samstudent.server import deferred_imports
from samstudent.server.bootstrap import share_cores
from samstudent.util.signals import stop

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="From a handful of annotated images to a segmentation model trained on all of them.",
)
rounds_app = typer.Typer(no_args_is_help=True, help="The rounds of a study: list, show, promote, roll back.")
app.add_typer(rounds_app, name="rounds")
app.add_typer(users_app, name="users")

Studies = Annotated[str, typer.Option("--studies", "-s", help="Study folder (or DICOMweb URL).")]
TaskOption = Annotated[str, typer.Option("--task", "-t", help="Shipped task name or path of a task file.")]


@app.command()
def serve(
    studies: Studies,
    task: TaskOption,
    host: Annotated[str, typer.Option(help="Address to listen on; loopback unless you open it.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535)] = 8000,
    app_dir: Annotated[Path | None, typer.Option("--app", help="App folder; default: in the study folder.")] = None,
    users: Annotated[
        Path | None, typer.Option(envvar="SAMSTUDENT_USERS", help="Users file: switches the login on. samstudent users")
    ] = None,
    certfile: Annotated[
        Path | None, typer.Option("--ssl-certfile", "--ssl_certfile", help="TLS: certificate, with its chain (PEM).")
    ] = None,
    keyfile: Annotated[
        Path | None, typer.Option("--ssl-keyfile", "--ssl_keyfile", help="TLS: the certificate's key (PEM).")
    ] = None,
) -> None:
    """Start the MONAI Label server with the samstudent app."""
    from samstudent.cli.server import Tls
    from samstudent.cli.server import serve as run

    run(studies, task, host, port, app_dir, users, Tls(certfile, keyfile))


@app.command()
def demo(
    studies: Annotated[Path | None, typer.Option(help="Folder with images/ and labels/; default: phantoms.")] = None,
    task: Annotated[str, typer.Option("--task", "-t", help="Shipped task name or task file.")] = "phantom",
    output: Annotated[Path, typer.Option(help="Folder for the study, the logs and report.html.")] = Path("demo"),
    labels: Annotated[int, typer.Option(min=1, help="How many cases the annotator labels first.")] = 5,
    limit: Annotated[int, typer.Option(min=1, help="At most this many training cases are used.")] = 26,
    steps: Annotated[int | None, typer.Option(min=1, help="Training steps; default: the task's.")] = None,
    seed: Annotated[int, typer.Option()] = 0,
    keep: Annotated[bool, typer.Option("--keep", help="Leave the server running at the end.")] = False,
    pacs: Annotated[
        bool, typer.Option("--pacs", help="A short walk over DICOMweb, with an Orthanc of its own.")
    ] = False,
) -> None:
    """Walk the whole loop through a real server, and write report.html."""
    from samstudent.demo import DemoError, DemoOptions, run_demo

    try:
        run_demo(DemoOptions(studies, task, output, labels, limit, steps, seed, keep, pacs))
    except DemoError as error:
        typer.secho(f"the demo stopped: {error}\nthe server's log: {output / 'server.log'}", fg="red", err=True)
        raise typer.Exit(1) from error


@app.command()
def refine(
    images: Annotated[Path, typer.Option(help="Folder of images, or one image.")],
    masks: Annotated[Path, typer.Option(help="Folder of coarse masks named like the images, or one mask.")],
    task: TaskOption,
    output: Annotated[Path, typer.Option(help="Folder for refined masks and quality.csv.")],
    extension: Annotated[str, typer.Option(help="Format of the refined masks.")] = ".seg.nrrd",
) -> None:
    """Redraw coarse masks with SAM, without a server: refined masks and a table of their quality."""
    from samstudent.cli.files import refine_folder
    from samstudent.util.places import require_writable

    require_writable(output, "the refined masks and quality.csv are kept")
    if not refine_folder(images, masks, task, output, extension):
        raise typer.Exit(1)


@app.command("pseudo-label")
def pseudo_label(studies: Studies, task: TaskOption) -> None:
    """Make pseudo labels for all unlabelled cases with the served student and SAM."""
    from samstudent.cli.server import pseudo_label as run

    run(studies, task)


@app.command()
def train(
    studies: Studies,
    task: TaskOption,
    pseudo_labels: Annotated[str, typer.Option(help="renew, use, raw or off.")] = "renew",
    steps: Annotated[int | None, typer.Option(min=1, help="Training steps; default: the task's.")] = None,
    promote: Annotated[bool, typer.Option(help="Serve the new student if it is not worse.")] = True,
) -> None:
    """Run one round: pseudo-label, train a challenger, compare it with the champion, promote it or not."""
    from samstudent.cli.server import train as run

    run(studies, task, pseudo_labels, steps, promote)


@rounds_app.command("list")
def rounds_list(studies: Studies, task: TaskOption) -> None:
    """All rounds with their figures; the served one is marked."""
    from samstudent.cli.server import list_rounds

    list_rounds(studies, task)


@rounds_app.command("show")
def rounds_show(
    round_id: Annotated[str, typer.Argument(help="e.g. r0003")], studies: Studies, task: TaskOption
) -> None:
    """What one round trained on, how it was decided, and each case that was left out, with the reason."""
    from samstudent.cli.server import show_round

    show_round(studies, task, round_id)


@rounds_app.command("promote")
def rounds_promote(
    round_id: Annotated[str, typer.Argument(help="e.g. r0003")], studies: Studies, task: TaskOption
) -> None:
    """Serve the student of this round."""
    from samstudent.cli.server import promote_round

    promote_round(studies, task, round_id)


@rounds_app.command("rollback")
def rounds_rollback(studies: Studies, task: TaskOption) -> None:
    """Serve the student that was served before."""
    from samstudent.cli.server import roll_back

    roll_back(studies, task)


@app.command()
def doctor(
    studies: Annotated[str | None, typer.Option("--studies", "-s", help="Study folder to examine.")] = None,
    task: Annotated[str | None, typer.Option("--task", "-t", help="Task to examine.")] = None,
) -> None:
    """What is installed, which SAM, which device, and what is wrong with a study folder. Exit code 1 if anything is."""
    from samstudent.cli.files import doctor as run

    raise typer.Exit(0 if run(studies, task) else 1)


@app.command("confirm-labels")
def confirm_labels(studies: Studies, task: TaskOption) -> None:
    """Record that label maps of a study hold the task's values, where that was only assumed. Look at one first."""
    from samstudent.cli.files import confirm_labels as run

    run(Path(studies), task)


@app.command()
def experiment(
    folder: Annotated[Path, typer.Argument(help="Has images/, labels/ or labels_overlap/, split.csv.")],
    output: Annotated[Path, typer.Option(help="Folder for models, results.json and report.html.")],
    task: Annotated[str | None, typer.Option("--task", "-t", help="Task; default: made from the folder.")] = None,
    labels: Annotated[str, typer.Option(help="Numbers of labels, e.g. 10,30.")] = "10,30",
    methods: Annotated[str, typer.Option(help="Which to compare; 'list' shows them.")] = "labels,raw,paper,ours,all",
    seeds: Annotated[str, typer.Option(help="Seeds of the trainings.")] = "0,1,2",
    steps: Annotated[int | None, typer.Option(min=1, help="Of each student; default: the task's.")] = None,
    size: Annotated[str | None, typer.Option(help="Student's size, Y,X or Z,Y,X.")] = None,
    jobs: Annotated[int | None, typer.Option(min=1, help="Processes; default: the GPUs, or the cores.")] = None,
    unlabelled: Annotated[int | None, typer.Option(min=1, help="Use at most so many unlabelled cases.")] = None,
    test_cases: Annotated[int | None, typer.Option(min=1, help="Measure on at most so many cases.")] = None,
    split: Annotated[str, typer.Option(help="Measure on test or val.")] = "test",
    embeddings: Annotated[Path | None, typer.Option(help="Folder of SAM's embeddings; default: in output.")] = None,
) -> None:
    """Compare methods on a labelled folder: labels x methods x seeds, one report. Run again to go on after a stop."""
    from samstudent.research.experiment.command import run

    ok = run(
        folder, output, task=task, labels=labels, methods=methods, seeds=seeds, steps=steps, size=size, jobs=jobs,
        unlabelled=unlabelled, test_cases=test_cases, split=split, embeddings=embeddings,
    )  # fmt: skip
    raise typer.Exit(0 if ok else 1)


@app.command()
def simulate(
    folder: Annotated[Path, typer.Argument(help="Has images/, labels/ or labels_overlap/, split.csv.")],
    output: Annotated[Path, typer.Option(help="Folder for models, results.json and report.html.")],
    task: Annotated[str | None, typer.Option("--task", "-t", help="Task; default: made from the folder.")] = None,
    strategies: Annotated[
        str, typer.Option(help="Which to compare.")
    ] = "random,foreground,uniform,entropy,disagreement,diversity,mixed",
    seeds: Annotated[str, typer.Option(help="Seeds of the first cases and the trainings.")] = "0,1,2",
    start: Annotated[int, typer.Option(min=1, help="Cases labelled at first.")] = 5,
    batch: Annotated[int, typer.Option(min=1, help="Cases labelled in each round.")] = 5,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds.")] = 4,
    steps: Annotated[int | None, typer.Option(min=1, help="Of each student; default: the task's.")] = None,
    size: Annotated[str | None, typer.Option(help="Student's size, Y,X or Z,Y,X.")] = None,
    pool: Annotated[int | None, typer.Option(min=1, help="Use at most so many train cases.")] = None,
    test_cases: Annotated[int | None, typer.Option(min=1, help="Measure on at most so many cases.")] = None,
    split: Annotated[str, typer.Option(help="Measure on test or val.")] = "test",
    embeddings: Annotated[Path | None, typer.Option(help="Folder of SAM's embeddings; default: in output.")] = None,
) -> None:
    """Active learning with the truth as annotator: strategies x seeds, learning curves. Run again to go on."""
    from samstudent.research.simulate import run

    run(
        folder, output, task=task, strategies=strategies, seeds=seeds, start=start, batch=batch, rounds=rounds,
        steps=steps, size=size, pool=pool, test_cases=test_cases, split=split, embeddings=embeddings,
    )  # fmt: skip


@app.command()
def version() -> None:
    """Print the version."""
    typer.echo(__version__)


def main() -> None:
    """Entry point: a user's mistake, or a place that cannot be used, becomes one line and exit code 2.

    A signal (Ctrl-C) ends the command with one line, too, and with exit code 128 + its number.
    """
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    logging.getLogger("matplotlib").setLevel(
        logging.ERROR
    )  # warns of a home that cannot be written, where it draws nothing
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
