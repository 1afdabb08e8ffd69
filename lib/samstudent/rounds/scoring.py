"""Students on the hold-out: what decides which of them is served, and the weight of the previous champion."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from samstudent.imaging.annotations import LabelledMasks
from samstudent.imaging.case import CaseImage
from samstudent.metrics import dice_where_known, mean_of
from samstudent.pseudolabels.case import binarize
from samstudent.pseudolabels.cross_fitting import CrossFit
from samstudent.pseudolabels.out_of_fold import on_working_grid, size_of, spread_out
from samstudent.pseudolabels.teacher import CHAMPION_WEIGHT, Teacher
from samstudent.rounds.cases import CaseFiles, leave_out, read_truth
from samstudent.student.predict import Student
from samstudent.task import Task

logger = logging.getLogger(__name__)

#: Case id -> Dice of each structure in the order of the task; None where neither truth nor answer shows it.
CaseDice = dict[str, list[float | None]]
#: Weights of the previous champion that are compared; of equal ones the first is taken.
CHAMPION_WEIGHTS = (CHAMPION_WEIGHT, 0.25, 0.75, 0.0, 1.0)
#: Hold-out cases that this is decided on, at most.
MOST_WEIGHED = 20
#: Labels that a student trained on and is asked about again, at most; and the Dice below which it has not learnt them.
#: Of drawn teeth, 8 labels: 53 % there went with 33 on new films, 92 with 75. No other figure tells an unconverged
#: student, which pseudo labels ruin, from one that has too few labels.
MOST_REMEMBERED = 5
LEARNT = 0.7


def readable_truths(
    cases: Iterable[CaseFiles], task: Task, left_out: dict[str, str] | None = None
) -> Iterator[tuple[CaseFiles, CaseImage, LabelledMasks]]:
    """The cases with their images and labels. One that cannot be read is logged and left out.

    Args:
        left_out: gets case id -> reason.
    """
    for files in cases:
        try:
            image, truth = read_truth(files, task)
        except Exception as error:  # as in ``load_cases``
            leave_out(files.id, error, left_out)
        else:
            yield files, image, truth


def compare(
    students: Sequence[Student], cases: Sequence[CaseFiles], task: Task, left_out: dict[str, str] | None = None
) -> list[CaseDice]:
    """Dice of each student's own masks, on the same cases in the image's own pixels.

    A case that cannot be read is logged and left out for all students; ``left_out`` gets the reason.
    """
    scores: list[CaseDice] = [{} for _ in students]
    for files, image, truth in readable_truths(cases, task, left_out):
        for student, found in zip(students, scores, strict=True):
            found[files.id] = without_nan(dice_where_known(truth, binarize(student.predict(image), task)))
    return scores


def out_of_fold(cross: CrossFit, cases: Sequence[CaseFiles], task: Task) -> CaseDice:
    """Dice on the labelled cases that were cross-fitted, each of the student that did not train on it."""
    scores: CaseDice = {}
    for files in cases:
        if files.id in cross.folds:
            scores |= compare([cross.student_for(files.id)], [files], task)[0]
    return scores


def without_nan(dice: NDArray[np.float64]) -> list[float | None]:
    """Dice float (S,) for JSON."""
    return [None if np.isnan(value) else round(float(value), 6) for value in dice]


def weigh_champion(teacher: Teacher, champion: Student, cases: Sequence[CaseFiles], task: Task) -> dict[float, float]:
    """Weight of the previous champion beside a teacher -> mean Dice of what both predict together.

    Looked at are up to ``MOST_WEIGHED`` of the cases, from all over the list, on the working grid. One that cannot be
    read is told of and left out. The best weight is the first of the highest value; empty: no case could be read.

    Args:
        cases: human-labelled, and nobody trained on them.
    """
    dice: list[list[NDArray[np.float64]]] = []
    some = spread_out(cases, MOST_WEIGHED)
    for _, image, truth in readable_truths(some, task):
        size = size_of(image, task)
        truth = on_working_grid(truth, size)
        own, known = teacher.predict(image, size), champion.predict(image, size)
        dice.append([dice_where_known(truth, binarize(own + w * (known - own), task)) for w in CHAMPION_WEIGHTS])
    if not dice:
        return {}
    means = [mean_of(np.array(dice)[:, i].ravel()) for i in range(len(CHAMPION_WEIGHTS))]
    return dict(zip(CHAMPION_WEIGHTS, np.nan_to_num(means).tolist(), strict=True))


def fit_of(student: Student, known: Iterable[tuple[CaseImage, LabelledMasks]], task: Task) -> float:
    """How well a student has learnt what it was taught: its mean Dice on human-labelled cases that it trained on.

    Args:
        known: images and labels.
    """
    dice = [dice_where_known(truth, binarize(student.predict(image), task)) for image, truth in known]
    return mean_of(np.array(dice).ravel())


def not_learnt(fit: float) -> str | None:
    """What to tell of a student with such a fit (``fit_of``); None: nothing."""
    if not fit < LEARNT:
        return None
    return f"Dice on labels that it trained on is only {fit:.2f}: it has not converged; raise training.steps"
