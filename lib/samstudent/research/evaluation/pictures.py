"""Pictures of an evaluation: the cases on which two models differ most, or the best, median and worst of one model."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from samstudent.imaging.case import for_sam
from samstudent.research.evaluation.measure import EvaluatedModel, MeasuredCase, mean_dice
from samstudent.research.evaluation.summary import counted_cases
from samstudent.research.html import Picture, percent
from samstudent.research.pictures import Panel, best_median_worst, case_panels, fullest_slice
from samstudent.rounds.case_store import CaseSource
from samstudent.task import Task

#: Titles of the pictures of two models.
_RANKS = ("largest", "second largest", "third largest", "fourth largest", "fifth largest", "sixth largest")
#: Longest side of a picture, in pixels of the image.
_LONGEST = 512


def chosen_cases(cases: Sequence[MeasuredCase], models: Sequence[EvaluatedModel]) -> dict[str, str]:
    """Cases to show: id -> reason."""
    counted = counted_cases(cases)
    if len(models) == 1:
        name = models[0].name
        found = best_median_worst({case.id: mean_dice(case, name) for case in counted})
        return {case: f"{word} case of {name}" for word, case in found.items()}
    first, second = (model.name for model in models)
    apart = {case.id: _difference(case, first, second) for case in counted}
    ranked = sorted((case for case, value in apart.items() if value > 0), key=lambda case: (-apart[case], case))
    return {case: f"{rank} difference" for case, rank in zip(ranked, _RANKS, strict=False)}


def case_picture(
    source: CaseSource, reason: str, measured: MeasuredCase, models: Sequence[EvaluatedModel], task: Task
) -> Picture:
    """Picture of a case: the image, its label, and the masks of the models, which predict it again.

    Args:
        source: the case.
        reason: why it is shown.
        measured: its figures.
        models: the models.
        task: the task.
    """
    image, truth = source.read(task)
    assert truth is not None  # it was measured
    stacks = {"label": truth.masks, **{model.name: model.predict(image) for model in models}}
    pixels = for_sam(image, task.image)
    if task.dimension == 3:
        predictions = [stacks[model.name] for model in models]
        differ = predictions[0] ^ predictions[1] if len(models) == 2 else np.zeros_like(truth.masks)
        z = fullest_slice([differ, truth.masks], len(pixels))
        pixels, stacks = pixels[z], {title: masks[:, z] for title, masks in stacks.items()}
    step = max(1, math.ceil(max(pixels.shape[:2]) / _LONGEST))
    panels = [Panel("image")]
    for title, masks in stacks.items():
        figure = "" if title == "label" else f": {percent(mean_dice(measured, title))}"
        panels.append(Panel(f"{title}{figure}", masks[:, ::step, ::step]))
    png = case_panels(pixels[::step, ::step], panels, task.names, height=3.0)
    return Picture(f"{source.id}: {reason}", png, _caption(measured, task.names))


def _difference(case: MeasuredCase, first: str, second: str) -> float:
    """Mean absolute difference of Dice over the structures that one of the models or the label has."""
    pairs = zip(case.scores[first].dice, case.scores[second].dice, strict=True)
    values = [
        abs((1.0 if a is None else a) - (1.0 if b is None else b)) for a, b in pairs if a is not None or b is not None
    ]
    return float(np.mean(values)) if values else 0.0


def _caption(measured: MeasuredCase, structures: Sequence[str]) -> str:
    """Structures with the lowest Dice of each model."""
    texts = []
    for model, scores in measured.scores.items():
        known: Mapping[str, float] = {
            name: value for name, value in zip(structures, scores.dice, strict=True) if value is not None
        }
        lowest = sorted(known, key=lambda name: known[name])[:3]
        texts.append(f"{model}: {', '.join(f'{name} {percent(known[name])}' for name in lowest)}")
    return f"Dice in percent, mean over the structures. Lowest of {'; of '.join(texts)}."
