"""What the demo shows at its end: the table on the terminal and report.html."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from samstudent.metrics import dice_per_structure, mean_of
from samstudent.research.html import Picture, percent
from samstudent.research.pictures import Panel, best_median_worst, case_panels
from samstudent.research.report import Method, Report, RoundLine, write_report
from samstudent.imaging.case import for_sam, read_image
from samstudent.demo.walk import RESUBMITTED
from samstudent.task import Task
from samstudent.util.progress import Report as ProgressReport
from samstudent.util.progress import StepReport

if TYPE_CHECKING:
    from samstudent.demo.server import Annotator

#: Name of a column of the table -> the record of the round that trained that student.
Arms = Mapping[str, dict[str, Any]]
#: Hold-out cases that are looked at for the pictures; each takes a second or two of SAM.
LOOKED_AT = 6
CHANCE = "One seed, few cases and short trainings: differences of a few points are chance."


def scores(record: dict[str, Any], who: str = "challenger") -> dict[str, float]:
    """Dice per structure and "mean" on the hold-out, nan where nothing was measured."""
    table = record["dice"].get(who) or {}
    return {name: math.nan if value is None else float(value) for name, value in table.items()}


def show_table(console: Console, task: Task, arms: Arms) -> None:
    """Print Dice on the hold-out: a row a structure, a column a student."""
    first = next(iter(arms.values()))
    cases, labels = len(first["holdout_ids"]), len(first["labels_used"])
    caption = f"{labels} labels, and as many training steps for each student. {CHANCE}"
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
    """Write report.html: what was done, the table, the rounds, and pictures of three hold-out cases.

    Args:
        path: of the file.
        annotator: client of the server, which is asked for the masks in the pictures.
        arms: the students.
        command: that makes the report again.
        timings: seconds by what took them.
        progress: is called with the progress of the pictures.
    """
    task = annotator.task
    first = next(iter(arms.values()))
    labels, holdout = len(first["labels_used"]), len(first["holdout_ids"])
    report = Report(
        title=f"samstudent demo: {len(task.names)} structures from {labels} labels",
        done=_what_was_done(annotator, arms),
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


def _what_was_done(annotator: Annotator, arms: Arms) -> list[str]:
    """A paragraph each: the set-up, the three students, what the page shows."""
    alone, _, scheduled = arms.values()
    labels, holdout = len(alone["labels_used"]), len(alone["holdout_ids"])
    others = len(annotator.study.train) - labels
    return [
        f"A MONAI Label server with the samstudent app ran on this machine, and the demo spoke to it over HTTP as 3D "
        f"Slicer does. An annotator who knows the truth labelled the {holdout} cases of the hold-out, which compare "
        f"students and never train, and the {labels} cases that the server offered. {others} cases stayed without a "
        "label: pseudo labels are made of them.",
        f"labels only: a student learned from the {labels} labels alone.",
        "+ raw pseudo labels: this student's own masks of the other cases became labels, and a second student learned "
        "from both.",
        f"+ SAM pseudo labels: the annotator submitted {RESUBMITTED} labels again, and the schedule started a round by "
        "itself, the product's default. Students and heads on SAM's embeddings are cross-fitted on the labels, SAM's "
        "decoder is adapted to them, each structure's recipe is chosen by out-of-fold Dice, the other cases are "
        f"labelled, and a third student learned from the labels and {scheduled['pseudo_used']['n']} pseudo labels.",
        "All three students learned from the same labels in as many optimisation steps. This page shows that the whole "
        "loop works on this machine and how it is driven. Whether SAM's pseudo labels help, and by how much, is "
        "measured on real images with several seeds (docs/results), not by this table.",
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
        warnings.append("These are synthetic films: they show that the loop works, not how well it works on patients.")
    unreadable = {case for record in arms.values() for case in record.get("unreadable") or {}}
    if unreadable:
        warnings.append(f"Cases that could not be read: {', '.join(sorted(unreadable))}.")
    return warnings


def _pictures(annotator: Annotator, holdout: list[str], progress: ProgressReport) -> list[Picture]:
    """Best, median and worst case of the served student with SAM, by mean Dice over structures."""
    drawn: dict[str, tuple[NDArray[np.bool_], NDArray[np.bool_], dict[str, Any]]] = {}
    dice: dict[str, float] = {}
    segmented = StepReport(progress, "segmenting cases of the hold-out")
    for number, case in enumerate(holdout[:LOOKED_AT], 1):
        student, _ = annotator.infer("student", case)
        refined, result = annotator.infer("student+sam", case)
        drawn[case] = student, refined, result
        dice[case] = _mean_dice(refined, annotator.truth(case))
        segmented(number, len(holdout[:LOOKED_AT]))
    pictures = []
    for rank, case in best_median_worst(dice).items():
        student, refined, result = drawn[case]
        prompts = {name: s["prompts"] for name, s in result["structures"].items() if s["present"]}
        panels = [
            Panel("image"),
            Panel("truth", annotator.truth(case)),
            Panel("student", student),
            Panel("prompts", None, prompts),
            Panel("student + SAM", refined),
        ]
        shown = for_sam(read_image(annotator.image_path(case), annotator.task.dimension), annotator.task.image)
        png = case_panels(shown, panels, annotator.task.names)
        alone = percent(_mean_dice(student, annotator.truth(case)))
        caption = (
            "Student: masks of the student that is served at the end. Prompts: the input of SAM, boxes around these "
            f"masks. Student + SAM: what the server answers with. Mean Dice: {alone} % and {percent(dice[case])} %."
        )
        pictures.append(Picture(f"{rank}: {case}", png, caption))
    return pictures


def _mean_dice(masks: NDArray[np.bool_], truth: NDArray[np.bool_]) -> float:
    return mean_of(dice_per_structure(truth, masks))
