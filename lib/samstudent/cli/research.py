"""``samstudent experiment`` and ``simulate``: comparisons of methods and strategies on a labelled folder.

Function-level imports: torch takes seconds, and the command line has to start without it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def experiment(
    folder: Annotated[Path, typer.Argument(help="Labelled folder: images/, labels/ or labels_overlap/, split.csv.")],
    output: Annotated[Path, typer.Option(help="Folder for models, results.json and report.html.")] = Path("results"),
    task: Annotated[str | None, typer.Option("--task", "-t", help="Task; default: derived from the folder.")] = None,
    labels: Annotated[
        str | None,
        typer.Option(
            help="Numbers of labels; default: 10,30, or all labelled train cases if other train cases have no label."
        ),
    ] = None,
    methods: Annotated[
        str, typer.Option(help="Methods to compare; list: print all methods.")
    ] = "labels,raw,paper,ours,all",
    seeds: Annotated[str, typer.Option(help="Random seeds of the training.")] = "0,1,2",
    steps: Annotated[
        int | None,
        typer.Option(min=1, help="Half of the training steps of each student; default: training.steps of the task."),
    ] = None,
    size: Annotated[str | None, typer.Option(help="Size of the student's input, Y,X or Z,Y,X.")] = None,
    jobs: Annotated[
        int | None, typer.Option(min=1, help="Number of processes; default: number of GPUs, or of cores.")
    ] = None,
    unlabelled: Annotated[int | None, typer.Option(min=1, help="Maximum number of unlabelled cases.")] = None,
    test_cases: Annotated[int | None, typer.Option(min=1, help="Maximum number of test cases.")] = None,
    split: Annotated[str, typer.Option(help="Split of the test cases: test or val.")] = "test",
    embeddings: Annotated[Path | None, typer.Option(help="Folder of SAM embeddings; default: in --output.")] = None,
) -> None:
    """Compare methods on a labelled folder; report for all labels x methods x seeds. Repeat the command to continue."""
    from samstudent.research.experiment.command import run

    ok = run(
        folder, output, task=task, labels=labels, methods=methods, seeds=seeds, steps=steps, size=size, jobs=jobs,
        unlabelled=unlabelled, test_cases=test_cases, split=split, embeddings=embeddings,
    )  # fmt: skip
    raise typer.Exit(0 if ok else 1)


def simulate(
    folder: Annotated[Path, typer.Argument(help="Labelled folder: images/, labels/ or labels_overlap/, split.csv.")],
    output: Annotated[Path, typer.Option(help="Folder for models, results.json and report.html.")],
    task: Annotated[str | None, typer.Option("--task", "-t", help="Task; default: derived from the folder.")] = None,
    strategies: Annotated[
        str, typer.Option(help="Active learning strategies to compare.")
    ] = "random,foreground,uniform,entropy,disagreement,diversity,mixed",
    seeds: Annotated[str, typer.Option(help="Random seeds of the initial cases and of the training.")] = "0,1,2",
    start: Annotated[int, typer.Option(min=1, help="Number of initially labelled cases.")] = 5,
    batch: Annotated[int, typer.Option(min=1, help="Number of cases labelled in each round.")] = 5,
    rounds: Annotated[int, typer.Option(min=1, help="Number of rounds.")] = 4,
    steps: Annotated[
        int | None, typer.Option(min=1, help="Training steps of each student; default: those of the task.")
    ] = None,
    size: Annotated[str | None, typer.Option(help="Size of the student's input, Y,X or Z,Y,X.")] = None,
    pool: Annotated[int | None, typer.Option(min=1, help="Maximum number of training cases.")] = None,
    noise: Annotated[
        float,
        typer.Option(
            min=0, max=1, help="Error of the annotator's outlines, as a share of a structure's size; some are missed."
        ),
    ] = 0.0,
    test_cases: Annotated[int | None, typer.Option(min=1, help="Maximum number of test cases.")] = None,
    split: Annotated[str, typer.Option(help="Split of the test cases: test or val.")] = "test",
    embeddings: Annotated[Path | None, typer.Option(help="Folder of SAM embeddings; default: in --output.")] = None,
) -> None:
    """Simulate active learning; learning curves for all strategies x seeds. Repeat the command to continue."""
    from samstudent.research.simulation.command import run

    run(
        folder, output, task=task, strategies=strategies, seeds=seeds, start=start, batch=batch, rounds=rounds,
        steps=steps, size=size, pool=pool, noise=noise, test_cases=test_cases, split=split, embeddings=embeddings,
    )  # fmt: skip
