"""Dice of students on prepared cases, for the comparison and for the weight of the champion."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from samstudent.imaging.annotations import LabelledMasks
from samstudent.imaging.case import CaseImage
from samstudent.metrics import dice_where_known, mean_of
from samstudent.pseudolabels.cross_fitting import CrossFit
from samstudent.pseudolabels.out_of_fold import on_working_grid, size_of, spread_out
from samstudent.pseudolabels.teacher import CHAMPION_WEIGHT
from samstudent.rounds.case_store import CaseStore, PreparedCase
from samstudent.student.convergence import Ending
from samstudent.student.predict import binarize
from samstudent.task import Task

#: Case id -> Dice of each structure in the order of the task; None where neither truth nor prediction shows it.
CaseDice = dict[str, list[float | None]]
#: Candidate weights of the champion; among equally good ones the first is chosen.
CHAMPION_WEIGHTS = (CHAMPION_WEIGHT, 0.25, 0.75, 0.0, 1.0)
#: Largest number of hold-out cases for this choice.
MAX_WEIGHT_CASES = 20
#: Largest number of training labels that are predicted again, and the Dice on them below which a student with a fixed
#: number of steps has not converged. Real panoramic films, 600 steps: 75 % (issue 20). Converged students of labels had
#: 92 to 98 % on ultrasound, hippocampus and drawn teeth. No other figure distinguishes a student that has not
#: converged, for which pseudo labels are harmful, from one with too few labels.
MAX_TRAIN_DICE_CASES = 5
CONVERGED = 0.85


class Predictor(Protocol):
    """A student or a teacher."""

    def predict(self, image: CaseImage, size: tuple[int, ...] | None = None) -> NDArray[np.float32]: ...


def compare(students: Sequence[Predictor], cases: Sequence[PreparedCase], store: CaseStore) -> list[CaseDice]:
    """Dice of each student's own masks, on the same cases in the image's own pixels.

    Args:
        students: to compare.
        cases: with human labels.
        store: of the cases.
    """
    scores: list[CaseDice] = [{} for _ in students]
    for case in cases:
        image, truth = store.labelled(case)
        for student, found in zip(students, scores, strict=True):
            found[case.id] = without_nan(dice_where_known(truth, binarize(student.predict(image), store.task)))
    return scores


def out_of_fold_dice(cross: CrossFit, cases: Sequence[PreparedCase], store: CaseStore) -> CaseDice:
    """Out-of-fold Dice of the cross-fitted labelled cases, each of the student that did not train on it."""
    scores: CaseDice = {}
    for case in cases:
        if case.id in cross.folds:
            scores |= compare([cross.student_for(case.id)], [case], store)[0]
    return scores


def without_nan(dice: NDArray[np.float64]) -> list[float | None]:
    """Dice float (S,) for JSON."""
    return [None if np.isnan(value) else round(float(value), 6) for value in dice]


def weigh_champion(
    teacher: Predictor, champion: Predictor, cases: Sequence[PreparedCase], store: CaseStore
) -> dict[float, float]:
    """Mean Dice of the weighted mean of teacher and champion by the champion's weight, on the working grid.

    Args:
        teacher, champion: the two models.
        cases: human-labelled cases on which neither trained; up to ``MAX_WEIGHT_CASES`` are used.
        store: of the cases.

    Returns:
        Weight -> mean Dice, in the order of ``CHAMPION_WEIGHTS``; empty without a case.
    """
    dice: list[list[NDArray[np.float64]]] = []
    for case in spread_out(cases, MAX_WEIGHT_CASES):
        image, truth = store.labelled(case)
        size = size_of(image, store.task)
        truth = on_working_grid(truth, size)
        first, second = teacher.predict(image, size), champion.predict(image, size)
        mixed = (first + weight * (second - first) for weight in CHAMPION_WEIGHTS)
        dice.append([dice_where_known(truth, binarize(probabilities, store.task)) for probabilities in mixed])
    if not dice:
        return {}
    means = [mean_of(np.array(dice)[:, i].ravel()) for i in range(len(CHAMPION_WEIGHTS))]
    return dict(zip(CHAMPION_WEIGHTS, np.nan_to_num(means).tolist(), strict=True))


def train_dice(student: Predictor, known: Iterable[tuple[CaseImage, LabelledMasks]], task: Task) -> float:
    """Mean Dice of a student on human-labelled training cases; nan: nothing could be measured.

    Args:
        student: trained on the cases.
        known: images and labels of the cases.
        task: the checked task.
    """
    dice = [dice_where_known(truth, binarize(student.predict(image), task)) for image, truth in known]
    return mean_of(np.array(dice).ravel())


def not_converged(dice: float, ending: Ending) -> str | None:
    """Warning about a student with this ``train_dice``; None: it has converged.

    Args:
        dice: on some of its training labels.
        ending: of its training. A budget of time has a warning of its own (``TrainedStudent.warning``).
    """
    if ending != "fixed" or not dice < CONVERGED:
        return None
    return f"Dice on training labels is only {dice:.2f}: the student has not converged; raise training.steps"
