"""``samstudent experiment``: conversion of its arguments to options."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from samstudent.errors import UserError
from samstudent.research.experiment.methods import METHODS, select
from samstudent.research.experiment.plan import ExperimentOptions
from samstudent.research.experiment.run import run_experiment
from samstudent.research.folder import open_folder
from samstudent.research.setting import FolderOptions
from samstudent.task import load_task
from samstudent.util.signals import stop

console = Console()


def run(
    folder: Path, output: Path, *, labels: str | None, methods: str, seeds: str, jobs: int | None, **more: Any
) -> bool:
    """Run an experiment and print the path of its report.

    Args:
        folder, output: as in ``FolderOptions``.
        labels: numbers separated by commas; None: ``default_labels``.
        seeds: numbers separated by commas.
        methods: names separated by commas, or ``list``: print them.
        jobs: number of processes.
        more: other fields of ``FolderOptions``; ``size`` as numbers separated by commas.

    Returns:
        True if no job failed.
    """
    if methods == "list":
        table = Table("method", "training data of its student")
        for name, method in METHODS.items():
            table.add_row(name, method.description)
        console.print(table)
        return True
    names = tuple(word.strip() for word in methods.split(",") if word.strip())
    select(names)
    options = ExperimentOptions(
        folder=folder_options(folder, output, **more),
        labels=tuple(dict.fromkeys(whole_numbers("--labels", labels)))
        if labels
        else default_labels(folder, more.get("task")),
        methods=names,
        seeds=tuple(dict.fromkeys(whole_numbers("--seeds", seeds))),
        jobs=jobs,
        command=shlex.join(["samstudent", *sys.argv[1:]]),
    )
    return not run_and_print(options)["failed"]


def run_and_print(options: ExperimentOptions) -> dict[str, Any]:
    """Run an experiment, print its warnings and where its report is. Returns: the content of results.json."""
    stop.message = "stopped; repeat the command to continue"
    results = run_experiment(options)
    for warning in results["warnings"]:
        console.print(f"[yellow]{escape(warning)}[/]", highlight=False, soft_wrap=True)
    console.print(f"results.json and report.html are in {options.folder.output}", soft_wrap=True)
    return results


def default_labels(folder: Path, task: str | None = None) -> tuple[int, ...]:
    """Numbers of labels to compare: all labelled train cases where other train cases have no label, else 10 and 30.

    Args:
        folder: the labelled folder.
        task: name or file; None: derived later.

    Raises:
        UserError: the folder cannot be read.
    """
    found = open_folder(folder, task=load_task(task) if task else None)
    labelled = len(found.labelled("train"))
    if labelled < len(found.order):
        return (labelled,)
    return tuple(n for n in (10, 30) if n < labelled) or (max(1, labelled // 3),)


def folder_options(folder: Path, output: Path, size: str | None = None, **more: Any) -> FolderOptions:
    """Options with the size in the form of the command line, ``Y,X`` or ``Z,Y,X``."""
    return FolderOptions(folder, output, size=whole_numbers("--size", size) if size else None, **more)


def whole_numbers(option: str, text: str) -> tuple[int, ...]:
    """Whole numbers separated by commas. Raises UserError naming the option."""
    try:
        return tuple(int(word) for word in text.split(","))
    except ValueError as error:
        raise UserError(f"{option}: whole numbers separated by commas, e.g. 10,30; not {text!r}") from error
