"""Run of ``samstudent evaluate``: checks, progress, failures, and a table of the figures."""

from __future__ import annotations

import contextlib
import sys
from dataclasses import dataclass
from pathlib import Path

from rich.markup import escape
from rich.table import Table

from samstudent.cli.app_folder import app_folder_path
from samstudent.cli.findings import console, print_finding
from samstudent.errors import UserError
from samstudent.research.evaluation.cases import EvaluationCases, Part, cases_of_folders, cases_of_study
from samstudent.research.evaluation.command import REPORT, RunOptions, evaluate, load_models
from samstudent.research.evaluation.report import finding
from samstudent.research.evaluation.summary import Summary
from samstudent.research.html import percent, points
from samstudent.rounds.study import Study
from samstudent.task import load_task
from samstudent.util.places import require_new, require_writable
from samstudent.util.progress_bar import ProgressBars


@dataclass(frozen=True)
class EvaluateOptions:
    """Options of the command.

    Attributes:
        rounds: one model or two (``load_models``).
        cases: name of a ``Part`` of the study.
        images, labels: folders in place of the study's cases; both or none.
        overwrite: write into a folder that is not empty.
    """

    rounds: tuple[str, ...]
    cases: str = Part.holdout.value
    images: Path | None = None
    labels: Path | None = None
    overwrite: bool = False


def evaluate_rounds(studies: str, task_name: str, output: Path, options: EvaluateOptions) -> bool:
    """Measure rounds, write report and results, and print a table of Dice.

    Args:
        studies: path of the study folder, or URL of a DICOMweb server.
        task_name: name or file of the task.
        output: folder for the results.
        options: further options.

    Returns:
        False if a case failed.

    Raises:
        UserError: wrong arguments, or no case can be measured.
    """
    task = load_task(task_name)
    require_new(output, options.overwrite)
    parts = [part.value for part in Part]
    if options.cases not in parts:
        raise UserError(f"--cases {options.cases}: use one of {', '.join(parts)}")
    if (options.images is None) != (options.labels is None):
        raise UserError("labelled images outside of the study need both, --images and --labels")
    study = Study(studies, str(app_folder_path(studies)), task)
    models = load_models(study, options.rounds, of_study=options.images is None)
    with contextlib.ExitStack() as opened:
        cases = _cases(study, studies, options, opened)
        for line in cases.remarks:
            print_finding("note", line)
        require_writable(output, "the report and the figures are written")
        bars = opened.enter_context(ProgressBars(console))
        run = RunOptions(
            ["samstudent", *sys.argv[1:]],
            bars,
            lambda case, reason: print_finding("failed", f"{case}: {reason}"),
        )
        result = evaluate(study, models, cases, output, run)
    _print(result.summary)
    console.print(
        f"{result.summary.cases} cases: {cases.description}. {result.statement}", soft_wrap=True, markup=False
    )
    failed = f"; {len(result.failed)} cases failed" if result.failed else ""
    console.print(f"{escape(str(output / REPORT))}{failed}", soft_wrap=True)
    return not result.failed


def _cases(study: Study, studies: str, options: EvaluateOptions, opened: contextlib.ExitStack) -> EvaluationCases:
    """Cases of the options; the datastore of the study is closed with ``opened``."""
    if options.images is not None and options.labels is not None:
        return cases_of_folders(options.images, options.labels, study.task)
    # Here, not above: the host takes seconds, and folders do not need it.
    from samstudent.server.open_datastore import open_datastore

    datastore = open_datastore(study, studies)
    opened.callback(datastore.close)
    return cases_of_study(study, datastore, Part(options.cases))


def _print(summary: Summary) -> None:
    """Print Dice by structure, and of two models the interval of their difference."""
    table = Table("structure", *(f"Dice, {model}" for model in summary.models))
    comparison = summary.comparison
    if comparison is not None:
        table.add_column("difference")
        table.add_column("95 % interval")
    for name in [*summary.structures, "mean"]:
        row = [escape(name), *(percent(summary.dice[model][name]) for model in summary.models)]
        if comparison is not None:
            change = comparison.mean if name == "mean" else comparison.structures.get(name)
            low, high = (None, None) if change is None else change.interval
            row.append("-" if change is None else points(change.difference))
            row.append("-" if low is None or high is None else f"{points(low)} to {points(high)}")
        table.add_row(*row)
    console.print(table)
    if comparison is not None:
        console.print(finding(comparison, *summary.models), soft_wrap=True, markup=False)
