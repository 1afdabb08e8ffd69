"""What the demo shows at its end: the table on the terminal and report.html."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from rich.table import Table

from samstudent.metrics import dice_per_structure, mean_of
from samstudent.research.html import Picture
from samstudent.research.pictures import Panel, best_median_worst, case_panels
from samstudent.research.report import Method, Report, RoundLine, write_report
from samstudent.imaging.case import for_sam, read_image
from samstudent.task import Task

if TYPE_CHECKING:
    from samstudent.demo.server import Annotator

#: Name of a column of the table -> the record of the round that trained that student.
Arms = Mapping[str, dict[str, Any]]
#: Hold-out cases that are looked at for the pictures; each takes a second or two of SAM.
LOOKED_AT = 6


def scores(record: dict[str, Any], who: str = "challenger") -> dict[str, float]:
    """Dice per structure and "mean" on the hold-out, nan where nothing was measured."""
    table = record["dice"].get(who) or {}
    return {name: math.nan if value is None else float(value) for name, value in table.items()}


def show_table(console: Console, task: Task, arms: Arms) -> None:
    """Print Dice on the hold-out: a row a structure, a column a student."""
    cases = len(next(iter(arms.values()))["holdout_ids"])
    table = Table(title=f"Dice on the hold-out ({cases} cases), in %")
    table.add_column("structure")
    for arm in arms:
        table.add_column(arm, justify="right")
    columns = [scores(record) for record in arms.values()]
    for name in [*task.names, "mean"]:
        cells = [f"{100 * column.get(name, math.nan):.1f}" for column in columns]
        table.add_row(name, *cells, style="bold" if name == "mean" else None)
    console.print(table)


def write_demo_report(
    path: Path, annotator: Annotator, arms: Arms, command: str, timings: Mapping[str, float]
) -> None:
    """Write report.html: what was done, the table, the rounds, and pictures of three hold-out cases."""
    task = annotator.task
    first = next(iter(arms.values()))
    labels, holdout = len(first["labels_used"]), len(first["holdout_ids"])
    report = Report(
        title=f"samstudent: {task.name}, from {labels} labels",
        done=[
            f"A real MONAI Label server with the samstudent app; the demo spoke to it over HTTP as a client does. An "
            f"annotator who knows the truth labelled {holdout} cases of the hold-out and the {labels} cases that the "
            f"server offered. A student was trained on these labels alone; its masks became raw pseudo labels of all "
            f"other cases, and a second student was trained on both.",
            "Then the annotator submitted three labels again, and the schedule started a round by itself: students are "
            "cross-fitted on the labels, SAM's decoder is adapted, each structure's recipe is chosen by out-of-fold "
            "Dice, SAM redraws the student's masks, and a student learns from labels and pseudo labels. All three "
            "students learn from the same labels in as many optimisation steps.",
            "What this shows: that the whole loop works here, and how it is driven. Whether SAM's pseudo labels help, and "
            "by how much, is measured on real images with several seeds (docs/results), not by this table.",
        ],
        command=command,
        structures=task.names,
        methods=[Method(name, scores(record), _note(record)) for name, record in arms.items()],
        holdout=holdout,
        rounds=[_line(record) for record in arms.values()],
        pictures=_pictures(annotator, first["holdout_ids"]),
        timings=timings,
        warnings=_warnings(annotator, arms),
    )
    write_report(path, report)


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
    warnings = ["One seed, few cases and short trainings: differences of a few points are chance."]
    if annotator.task.name == "phantom":
        warnings.append("These are synthetic films: they show that the loop works, not how well it works on patients.")
    unreadable = {case for record in arms.values() for case in record.get("unreadable") or {}}
    if unreadable:
        warnings.append(f"Cases that could not be read: {', '.join(sorted(unreadable))}.")
    return warnings


def _pictures(annotator: Annotator, holdout: list[str]) -> list[Picture]:
    """Best, median and worst case of the served student with SAM, by mean Dice over structures."""
    drawn: dict[str, tuple[NDArray[np.bool_], NDArray[np.bool_], dict[str, Any]]] = {}
    dice: dict[str, float] = {}
    for case in track(holdout[:LOOKED_AT], description="looking at hold-out cases"):
        student, _ = annotator.infer("student", case)
        refined, result = annotator.infer("student+sam", case)
        drawn[case] = student, refined, result
        dice[case] = _mean_dice(refined, annotator.truth(case))
    pictures = []
    for rank, case in best_median_worst(dice).items():
        student, refined, result = drawn[case]
        prompts = {name: s["prompts"] for name, s in result["structures"].items() if s["present"]}
        panels = [
            Panel("image"),
            Panel("truth", annotator.truth(case)),
            Panel("student", student),
            Panel("prompts", None, prompts),
            Panel("SAM", refined),
        ]
        shown = for_sam(read_image(annotator.image_path(case), annotator.task.dimension), annotator.task.image)
        png = case_panels(shown, panels, annotator.task.names)
        caption = f"Mean Dice: student {_percent(_mean_dice(student, annotator.truth(case)))}, with SAM {_percent(dice[case])}."
        pictures.append(Picture(f"{rank}: {case}", png, caption))
    return pictures


def _mean_dice(masks: NDArray[np.bool_], truth: NDArray[np.bool_]) -> float:
    return mean_of(dice_per_structure(truth, masks))


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %"
