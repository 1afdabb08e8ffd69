"""``samstudent experiment``: from the command line's words to options."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table

from samstudent.errors import UserError
from samstudent.research.experiment.methods import METHODS, chosen
from samstudent.research.experiment.plan import Options
from samstudent.research.experiment.run import run_experiment
from samstudent.util.signals import stop

console = Console()


def run(
    folder: Path,
    output: Path,
    *,
    task: str | None,
    labels: str,
    methods: str,
    seeds: str,
    steps: int | None,
    size: str | None,
    jobs: int | None,
    unlabelled: int | None,
    test_cases: int | None,
    split: str,
    embeddings: Path | None,
) -> bool:
    """Run an experiment and say where its report is. Returns whether everything went well."""
    if methods == "list":
        table = Table("method", "its student is trained on the labels ...")
        for name, method in METHODS.items():
            table.add_row(name, method.meaning)
        console.print(table)
        return True
    names = tuple(word.strip() for word in methods.split(",") if word.strip())
    chosen(names)
    options = Options(
        folder=folder,
        output=output,
        task=task,
        labels=tuple(dict.fromkeys(_numbers("--labels", labels))),
        methods=names,
        seeds=tuple(dict.fromkeys(_numbers("--seeds", seeds))),
        steps=steps,
        size=_numbers("--size", size) if size else None,
        jobs=jobs,
        unlabelled=unlabelled,
        test_cases=test_cases,
        split=split,
        embeddings=embeddings,
        command=shlex.join(["samstudent", *sys.argv[1:]]),
    )
    stop.message = "stopped; the same command goes on from here"
    results = run_experiment(options)
    for told in results["warnings"]:
        console.print(f"[yellow]{told}[/]", highlight=False, soft_wrap=True)
    console.print(f"results.json and report.html are in {output}")
    return not results["failed"]


def _numbers(option: str, text: str) -> tuple[int, ...]:
    try:
        return tuple(int(word) for word in text.split(","))
    except ValueError as error:
        raise UserError(f"{option}: whole numbers with commas between, e.g. 10,30; not {text!r}") from error
