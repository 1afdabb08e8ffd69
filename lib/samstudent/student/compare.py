"""Students on the hold-out: what decides which of them is served."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from samstudent.errors import UserError
from samstudent.evaluation.metrics import dice_per_structure, mean_of
from samstudent.pseudolabels.case import own_masks
from samstudent.student.cases import CaseFiles, read_truth
from samstudent.student.predict import Student
from samstudent.task import Task

logger = logging.getLogger(__name__)

#: Structure -> Dice, and "mean"; nan where no case shows the structure.
DiceTable = dict[str, float]


def compare(students: Sequence[Student], cases: Sequence[CaseFiles], task: Task) -> list[DiceTable]:
    """Dice of each student's own masks, on the same cases in the image's own pixels.

    A structure's Dice is its mean over the cases where it is in truth or answer; "mean" is the mean over structures. A
    case that cannot be read is told of and left out for all students.
    """
    scores: list[list[NDArray[np.float64]]] = [[] for _ in students]
    for files in cases:
        try:
            image, truth = read_truth(files, task)
        except (UserError, OSError) as error:
            logger.warning("hold-out case %s is not compared on: %s", files.id, error)
            continue
        for student, rows in zip(students, scores, strict=True):
            rows.append(dice_per_structure(truth, own_masks(student.predict(image), task)))
    return [_table(rows, task) for rows in scores]


def _table(rows: Sequence[NDArray[np.float64]], task: Task) -> DiceTable:
    table = {name: mean_of(row[index] for row in rows) for index, name in enumerate(task.names)}
    return table | {"mean": mean_of(table.values())}
