"""Pictures of the best, median and worst test case of a method."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from samstudent.imaging.case import for_sam
from samstudent.research.experiment import work
from samstudent.research.experiment.plan import Job
from samstudent.research.experiment.summary import Result, dice_of
from samstudent.research.html import Picture, percent
from samstudent.research.pictures import Panel, best_median_worst, case_panels, fullest_slice
from samstudent.research.setting import Setting
from samstudent.student.predict import Student, binarize

#: Longest side of a case's picture, in pixels of the image.
_LONGEST = 512


def case_pictures(setting: Setting, measured: Sequence[Job], results: Sequence[Result], main: str) -> list[Picture]:
    """Pictures of the main method and of labels only, with the smallest number of labels and the first seed.

    Args:
        setting: setting of the experiment.
        measured: jobs of the measurements.
        results: results of these jobs.
        main: name of the main method.

    Raises:
        UserError: a student was trained by another version of the program.
    """
    at = {(r["method"], r["labels"], r["seed"]): (job, r) for job, r in zip(measured, results, strict=True)}
    chosen = next((r for r in results if r["method"] == main), None)
    if chosen is None:
        return []
    n, seed, task = chosen["labels"], chosen["seed"], setting.task
    shown = {method: at[method, n, seed] for method in dict.fromkeys(["labels", main]) if (method, n, seed) in at}
    models = {
        method: Student.load(job.needs["student"].folder(setting.work) / work.MODEL, task)
        for method, (job, _) in shown.items()
    }
    pictures = []
    for word, case in best_median_worst(_case_means(chosen)).items():
        image, truth = setting.cases.labelled(case)
        stacks = {"truth": truth.masks, **{m: binarize(student.predict(image), task) for m, student in models.items()}}
        pixels = for_sam(image, task.image)
        if task.dimension == 3:
            z = fullest_slice([truth.masks], len(pixels))
            pixels, stacks = pixels[z], {title: masks[:, z] for title, masks in stacks.items()}
        step = max(1, math.ceil(max(pixels.shape[:2]) / _LONGEST))
        panels = [Panel("image")]
        for title, masks in stacks.items():
            figure = "" if title == "truth" else f": {percent(_case_means(shown[title][1])[case])}"
            name = "labels only" if title == "labels" else title
            panels.append(Panel(f"{name}{figure}", masks[:, ::step, ::step]))
        caption = f"Case {case}; Dice in percent, mean over the structures that truth or prediction contain."
        png = case_panels(pixels[::step, ::step], panels, task.names, height=3.0)
        pictures.append(Picture(f"{word} test case of {main}, {n} labels, seed {seed}".capitalize(), png, caption))
    return pictures


def _case_means(result: Result) -> dict[str, float]:
    """Mean Dice over structures of each case."""
    rows = zip(result["cases"], dice_of(result), strict=True)
    return {case: float(np.nanmean(row)) if np.isfinite(row).any() else math.nan for case, row in rows}
