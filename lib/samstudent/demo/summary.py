"""Results of the demo: table on the terminal, and report.html."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from samstudent.demo.loop import RESUBMITTED
from samstudent.imaging.case import for_sam, read_image
from samstudent.metrics import dice_per_structure, mean_of
from samstudent.research.html import Picture, percent
from samstudent.research.pictures import Panel, best_median_worst, case_panels
from samstudent.research.report import Method, Report, RoundLine, write_report
from samstudent.task import Task
from samstudent.util.progress import Report as ProgressReport
from samstudent.util.progress import StepReport

if TYPE_CHECKING:
    from samstudent.demo.server import Annotator

#: Record of the round that trained a student, by the student's column in the table.
Arms = Mapping[str, dict[str, Any]]
#: Maximum number of hold-out cases that are segmented for the pictures; each takes SAM one to two seconds.
MAX_SEGMENTED = 6
CHANCE = "One seed, few cases, short training: differences of a few percentage points are within random variation."


def scores(record: dict[str, Any], who: str = "challenger") -> dict[str, float]:
    """Dice on the hold-out by structure and "mean"; nan: not measured.

    Args:
        record: record of a round.
        who: "challenger" or "champion".
    """
    table = record["dice"].get(who) or {}
    return {name: math.nan if value is None else float(value) for name, value in table.items()}


def show_table(console: Console, task: Task, arms: Arms) -> None:
    """Print the table of Dice on the hold-out: one row per structure, one column per student."""
    first = next(iter(arms.values()))
    cases, labels = len(first["holdout_ids"]), len(first["labels_used"])
    caption = f"{labels} labels, {_length(task)}. {CHANCE}"
    table = Table(title=f"Dice on the hold-out ({cases} cases), in %", caption=caption, caption_justify="left")
    table.add_column("structure")
    for arm in arms:
        table.add_column(arm, justify="right")
    columns = [scores(record) for record in arms.values()]
    for name in [*task.names, "mean"]:
        cells = [f"{100 * column.get(name, math.nan):.1f}" for column in columns]
        table.add_row(name, *cells, style="bold" if name == "mean" else None)
    console.print(table)


def write_demo_report(
    path: Path,
    annotator: Annotator,
    arms: Arms,
    command: str,
    timings: Mapping[str, float],
    progress: ProgressReport,
) -> None:
    """Write report.html: procedure, table, rounds, and pictures of three hold-out cases.

    Args:
        path: destination.
        annotator: client of the server; the served models segment the cases in the pictures.
        arms: records of the compared students.
        command: command line that repeats the demo.
        timings: durations in seconds by their name.
        progress: receiver of the progress of the pictures.
    """
    task = annotator.task
    first = next(iter(arms.values()))
    labels, holdout = len(first["labels_used"]), len(first["holdout_ids"])
    report = Report(
        title=f"samstudent demo: {len(task.names)} structures from {labels} labels",
        procedure=_procedure(annotator, arms),
        command=command,
        structures=task.names,
        methods=[Method(name, scores(record), _note(record)) for name, record in arms.items()],
        holdout=holdout,
        rounds=[_line(record) for record in arms.values()],
        pictures=_pictures(annotator, first["holdout_ids"], progress),
        timings=timings,
        warnings=_warnings(annotator, arms),
    )
    write_report(path, report)


def _procedure(annotator: Annotator, arms: Arms) -> list[str]:
    """Paragraphs of the report: set-up, the three students, and the limits of the comparison."""
    labels_only, _, scheduled = arms.values()
    labels, holdout = len(labels_only["labels_used"]), len(labels_only["holdout_ids"])
    others = len(annotator.study.train) - labels
    return [
        "A MONAI Label server with the samstudent app ran on this machine. The demo used it over HTTP, like 3D Slicer. "
        f"A simulated annotator submitted the true masks of {holdout} hold-out cases, which are used to compare "
        f"students and never for training, and of {labels} cases that the server offered. {others} cases remained "
        "unlabelled; the pseudo labels are of these cases.",
        f"labels only: a student was trained on the {labels} labels.",
        "+ raw pseudo labels: this student segmented the unlabelled cases, and a second student was trained on the "
        "labels and these masks.",
        f"+ SAM pseudo labels: the annotator submitted {RESUBMITTED} labels again, and the schedule started a round "
        "with the default settings. Students and heads on SAM's embeddings are cross-fitted on the labels, SAM's "
        "decoder is adapted to them, the recipe of each structure is selected by out-of-fold Dice, the unlabelled "
        "cases are labelled, and a third student was trained on the labels and "
        f"{scheduled['pseudo_used']['n']} pseudo labels.",
        f"All three students were trained on the same labels, {_length(annotator.task)}. This report shows that the "
        "complete loop works on this machine. The effect of SAM's pseudo labels on the Dice is measured on real images "
        "with several seeds (docs/results), not by this table.",
    ]


def _note(record: dict[str, Any]) -> str:
    return f"{len(record['labels_used'])} labels, {record['pseudo_used']['n']} pseudo labels"


def _line(record: dict[str, Any]) -> RoundLine:
    return RoundLine(
        id=record["id"],
        reason=record["reason"],
        labels=len(record["labels_used"]),
        pseudo=record["pseudo_used"]["n"],
        challenger=scores(record).get("mean", math.nan),
        champion=scores(record, "champion").get("mean", math.nan),
        promoted=record["promoted"],
        decision=record["decision"],
    )


def _warnings(annotator: Annotator, arms: Arms) -> list[str]:
    warnings = [CHANCE]
    if annotator.task.name == "phantom":
        warnings.append("The images are synthetic: this demo does not measure the quality on patients' images.")
    unreadable = {case for record in arms.values() for case in record.get("unreadable") or {}}
    if unreadable:
        warnings.append(f"Cases that could not be read: {', '.join(sorted(unreadable))}.")
    return warnings


def _pictures(annotator: Annotator, holdout: list[str], progress: ProgressReport) -> list[Picture]:
    """Pictures of the best, median and worst hold-out case by mean Dice of the served student with SAM."""
    segmented: dict[str, tuple[NDArray[np.bool_], NDArray[np.bool_], dict[str, Any]]] = {}
    dice: dict[str, float] = {}
    report = StepReport(progress, "segmenting hold-out cases")
    for number, case in enumerate(holdout[:MAX_SEGMENTED], 1):
        student, _ = annotator.infer("student", case)
        refined, result = annotator.infer("student+sam", case)
        segmented[case] = student, refined, result
        dice[case] = _mean_dice(refined, annotator.truth(case))
        report(number, len(holdout[:MAX_SEGMENTED]))
    pictures = []
    for rank, case in best_median_worst(dice).items():
        student, refined, result = segmented[case]
        prompts = {name: s["prompts"] for name, s in result["structures"].items() if s["present"]}
        panels = [
            Panel("image"),
            Panel("truth", annotator.truth(case)),
            Panel("student", student),
            Panel("prompts", None, prompts),
            Panel("student + SAM", refined),
        ]
        image = for_sam(read_image(annotator.image_path(case), annotator.task.dimension), annotator.task.image)
        png = case_panels(image, panels, annotator.task.names)
        student_dice = percent(_mean_dice(student, annotator.truth(case)))
        caption = (
            "Student: masks of the student that is served at the end. Prompts: input of SAM, from these masks. "
            f"Student + SAM: result of the model student+sam. Mean Dice: {student_dice} % and {percent(dice[case])} %."
        )
        pictures.append(Picture(f"{rank}: {case}", png, caption))
    return pictures


def _mean_dice(masks: NDArray[np.bool_], truth: NDArray[np.bool_]) -> float:
    return mean_of(dice_per_structure(truth, masks))


def _length(task: Task) -> str:
    return "each until it had converged" if task.training.steps == "auto" else "for the same number of steps"
