"""Students on the hold-out: what decides which of them is served."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from samstudent.errors import UserError
from samstudent.evaluation.metrics import dice_per_structure
from samstudent.pseudolabels.case import own_masks
from samstudent.student.cases import CaseFiles, read_truth
from samstudent.student.crossfit import CrossFit
from samstudent.student.predict import Student
from samstudent.task import Task

logger = logging.getLogger(__name__)

#: Case id -> Dice of each structure in the order of the task; None where neither truth nor answer shows it.
CaseDice = dict[str, list[float | None]]


def compare(students: Sequence[Student], cases: Sequence[CaseFiles], task: Task) -> list[CaseDice]:
    """Dice of each student's own masks, on the same cases in the image's own pixels.

    A case that cannot be read is told of and left out for all students.
    """
    scores: list[CaseDice] = [{} for _ in students]
    for files in cases:
        try:
            image, truth = read_truth(files, task)
        except (UserError, OSError) as error:
            logger.warning("hold-out case %s is not compared on: %s", files.id, error)
            continue
        for student, found in zip(students, scores, strict=True):
            found[files.id] = without_nan(dice_per_structure(truth, own_masks(student.predict(image), task)))
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
