"""``samstudent experiment`` and ``simulate``: comparisons of methods and strategies on a labelled folder.

Each imports its work when it runs, so that the command line starts without torch (seconds).
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def experiment(
    folder: Annotated[Path, typer.Argument(help="Has images/, labels/ or labels_overlap/, split.csv.")],
    output: Annotated[Path, typer.Option(help="Folder for models, results.json and report.html.")],
    task: Annotated[str | None, typer.Option("--task", "-t", help="Task; default: made from the folder.")] = None,
    labels: Annotated[str, typer.Option(help="Numbers of labels, e.g. 10,30.")] = "10,30",
    methods: Annotated[str, typer.Option(help="Methods to compare; 'list' shows them.")] = "labels,raw,paper,ours,all",
    seeds: Annotated[str, typer.Option(help="Seeds of the trainings.")] = "0,1,2",
    steps: Annotated[int | None, typer.Option(min=1, help="Half of each student's steps; default: the task's.")] = None,
    size: Annotated[str | None, typer.Option(help="Student's size, Y,X or Z,Y,X.")] = None,
    jobs: Annotated[int | None, typer.Option(min=1, help="Processes; default: the GPUs, or the cores.")] = None,
    unlabelled: Annotated[int | None, typer.Option(min=1, help="Largest number of unlabelled cases.")] = None,
    test_cases: Annotated[int | None, typer.Option(min=1, help="Largest number of measured cases.")] = None,
    split: Annotated[str, typer.Option(help="Measured split: test or val.")] = "test",
    embeddings: Annotated[Path | None, typer.Option(help="Folder of SAM's embeddings; default: in output.")] = None,
) -> None:
    """Compare methods on a labelled folder: labels x methods x seeds, one report. Repeat the command to continue."""
    from samstudent.research.experiment.command import run

    ok = run(
        folder, output, task=task, labels=labels, methods=methods, seeds=seeds, steps=steps, size=size, jobs=jobs,
        unlabelled=unlabelled, test_cases=test_cases, split=split, embeddings=embeddings,
    )  # fmt: skip
    raise typer.Exit(0 if ok else 1)


def simulate(
    folder: Annotated[Path, typer.Argument(help="Has images/, labels/ or labels_overlap/, split.csv.")],
    output: Annotated[Path, typer.Option(help="Folder for models, results.json and report.html.")],
    task: Annotated[str | None, typer.Option("--task", "-t", help="Task; default: made from the folder.")] = None,
    strategies: Annotated[
        str, typer.Option(help="Strategies to compare.")
    ] = "random,foreground,uniform,entropy,disagreement,diversity,mixed",
    seeds: Annotated[str, typer.Option(help="Seeds of the first cases and the trainings.")] = "0,1,2",
    start: Annotated[int, typer.Option(min=1, help="Cases that are labelled first.")] = 5,
    batch: Annotated[int, typer.Option(min=1, help="Cases labelled in each round.")] = 5,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds.")] = 4,
    steps: Annotated[
        int | None, typer.Option(min=1, help="Training steps of each student; default: the task's.")
    ] = None,
    size: Annotated[str | None, typer.Option(help="Student's size, Y,X or Z,Y,X.")] = None,
    pool: Annotated[int | None, typer.Option(min=1, help="Largest number of train cases.")] = None,
    test_cases: Annotated[int | None, typer.Option(min=1, help="Largest number of measured cases.")] = None,
    split: Annotated[str, typer.Option(help="Measured split: test or val.")] = "test",
    embeddings: Annotated[Path | None, typer.Option(help="Folder of SAM's embeddings; default: in output.")] = None,
) -> None:
    """Simulate active learning: strategies x seeds, learning curves. Repeat the command to continue."""
    from samstudent.research.simulation.command import run

    run(
        folder, output, task=task, strategies=strategies, seeds=seeds, start=start, batch=batch, rounds=rounds,
        steps=steps, size=size, pool=pool, test_cases=test_cases, split=split, embeddings=embeddings,
    )  # fmt: skip
