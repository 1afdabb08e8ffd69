"""Teacher of a round: an ensemble of students and embedding heads, cross-fitted on the labelled cases.

Its predictions of a labelled case are out of fold, those of the members that did not train on it; of any other case
they are those of all members. Students and embedding heads have different encoders, and their agreement is a feature of
quality, so the means of both kinds are separate.

A student trained on an earlier teacher's pseudo labels is mostly better than that teacher, and has other errors: in a
second round it is a member beside the students, with a head trained on the predictions of all of them beside the heads
(docs/explanation/pseudo-labels.md).
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from samstudent.imaging.annotations import LabelledMasks
from samstudent.imaging.case import CaseImage
from samstudent.pseudolabels.case import Predictor, mix
from samstudent.pseudolabels.cross_fitting import CrossFit, StepsOfAll, is_made, write_inputs
from samstudent.pseudolabels.embedding_head import EmbeddingHead
from samstudent.pseudolabels.ensemble import Ensemble
from samstudent.pseudolabels.head_training import (
    DEFAULT_TRAINING,
    HeadCase,
    HeadTraining,
    head_cases,
    train_head,
)
from samstudent.pseudolabels.out_of_fold import LearningCases, Read, Size, read_each, size_of
from samstudent.sam.cached_sam import CachedSam
from samstudent.student.data import HUMAN_FRACTION
from samstudent.student.predict import Student, binarize
from samstudent.task import Task

#: Weight of the student of all labels among those of the folds, each of which lacks a part of the labels
#: (docs/decisions/0013-a-student-of-all-labels.md).
FULL_STUDENT_WEIGHT = 0.75
#: Default weight of the previous champion: that of all other members together.
CHAMPION_WEIGHT = 0.5
#: Largest number of images with predictions of the teacher that train the champion's head: each takes at least 2 MB of
#: memory.
MAX_TEACHER_LABELLED = 200
#: Training steps of the champion's head, as a multiple of another head's, for its many more images.
_CHAMPION_HEAD_STEPS = 3


@dataclass
class Teacher:
    """Students and embedding heads, one of each for a fold; a ``Predictor`` for cases without a label.

    Attributes:
        folds: fold of each labelled case, by id.
        students: one for each fold.
        heads: one for each fold; empty: none.
        head_weight: weight of the heads in the mean of both kinds, 0 to 1.
        full_student: student trained on all labelled cases, with ``FULL_STUDENT_WEIGHT`` among the students.
        previous_champion: student that may have trained on all labelled cases and on pseudo labels of others; used for
            cases without a label only.
        champion_weight: its weight among students and heads, 0 to 1; 1: it is the only model.
        champion_head: its counterpart among the heads.
    """

    folds: Mapping[str, int]
    students: Sequence[Student]
    heads: Sequence[EmbeddingHead] = ()
    head_weight: float = 0.5
    full_student: Student | None = None
    previous_champion: Student | None = None
    champion_weight: float = CHAMPION_WEIGHT
    champion_head: EmbeddingHead | None = None

    @property
    def version(self) -> str:
        """SHA-256, hex, of all members and their weights."""
        members: list[Predictor] = [*self.students, *self.heads]
        members += [] if self.full_student is None else [self.full_student]
        parts = [*(member.version for member in members), f"{self.head_weight:.3f}"]
        if self.previous_champion is not None and self.uses_champion:
            parts += [self.previous_champion.version, f"{self.champion_weight:.3f}"]
            parts += [] if self.champion_head is None else [self.champion_head.version]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()

    @property
    def uses_champion(self) -> bool:
        """Whether the previous champion is a member with a weight above 0."""
        return self.previous_champion is not None and self.champion_weight > 0

    @property
    def is_single_model(self) -> bool:
        """Whether the previous champion is the only model."""
        return self.uses_champion and self.champion_weight == 1

    def predict(self, image: CaseImage, size: Size = None) -> NDArray[Any]:
        """Probabilities float32 (S, *spatial), or (S, *size)."""
        return mix(self.predict_members(image, size, heads=self.head_weight > 0), self.head_weight)

    def predict_members(self, image: CaseImage, size: Size = None, *, heads: bool = True) -> NDArray[Any]:
        """Mean probabilities of the students and, where there are any, of the heads.

        Args:
            image: of a case without a label.
            size: (y, x) of another grid that covers a 2D image; None: the image's own.
            heads: False: without the heads and SAM's encoder.

        Returns:
            float32 (1 or 2, S, *spatial).
        """
        if self.previous_champion is None or self.champion_weight == 0:
            return self._predict_cross_fitted(image, size, heads)
        champion = self.previous_champion.predict(image, size).astype(np.float32)[None]
        if self.is_single_model:
            return champion
        members = self._predict_cross_fitted(image, size, heads)
        if len(members) == 2 and self.champion_head is not None:
            champion = np.stack([champion[0], self.champion_head.predict(image, size)])
        return members + np.float32(self.champion_weight) * (champion - members)

    def _predict_cross_fitted(self, image: CaseImage, size: Size, heads: bool) -> NDArray[Any]:
        """``predict_members`` without the previous champion."""
        members = _means(self.students, self.heads if heads else [], image, size)
        if self.full_student is not None:
            members[0] += np.float32(FULL_STUDENT_WEIGHT) * (self.full_student.predict(image, size) - members[0])
        return members

    def predict_oof(self, case_id: str, image: CaseImage, size: Size = None) -> NDArray[Any]:
        """Out-of-fold ``predict_members`` of a labelled case, by the members that did not train on it.

        Raises:
            KeyError: the case is not one of ``folds``; use ``predict_members``.
        """
        return self.predict_fold(self.folds[case_id], image, size)

    def predict_fold(self, fold: int, image: CaseImage, size: Size = None, *, heads: bool = True) -> NDArray[Any]:
        """``predict_members`` of one fold's student and head."""
        head = list(self.heads)[fold : fold + 1] if heads else []
        return _means([self.students[fold]], head, image, size)


def fit_teacher(
    fitted: CrossFit,
    read: Read,
    sam: CachedSam | None,
    training: HeadTraining = DEFAULT_TRAINING,
) -> Teacher:
    """Teacher of cross-fitted students, with an embedding head for each.

    Args:
        fitted: the students; heads are written beside their models, and reused where the inputs are the same.
        read: returns image and human label of a case.
        sam: computes the embeddings for the heads; None: no heads.
        training: seed, device and progress of the heads; ``on_step`` is called with the steps of all of them.
    """
    students = [p for p in fitted.ensemble.predictors if isinstance(p, Student)]
    full = None if fitted.full_student is None else Student.load(fitted.full_student, fitted.task, training.device)
    if sam is None:
        return Teacher(fitted.folds, students, full_student=full)
    heads = []
    slices: dict[str, list[HeadCase]] = {}
    for fold, model in enumerate(fitted.models):
        path, on_step = model.with_name(f"head{fold}.pt"), training.on_step
        if on_step is not None:
            on_step = StepsOfAll(on_step, fold, len(fitted.models))
        own = replace(training, seed=training.seed + fold, on_step=on_step)
        train = sorted(case for case, other in fitted.folds.items() if other != fold)
        inputs = _inputs(train, model, fitted.task, sam, own)
        if not is_made(path, inputs):
            for case, image, label in read_each([case for case in train if case not in slices], read):
                slices[case] = head_cases(image, label, fitted.task, sam)
            version = train_head([s for case in train for s in slices.get(case, [])], fitted.task, path, own)
            write_inputs(path, inputs, version)
        heads.append(EmbeddingHead.load(path, fitted.task, sam, training.device))
    return Teacher(fitted.folds, students, heads, full_student=full)


def fit_champion_head(
    teacher: Teacher,
    cases: LearningCases,
    task: Task,
    sam: CachedSam,
    path: Path,
    training: HeadTraining = DEFAULT_TRAINING,
) -> None:
    """Train the teacher's ``champion_head`` on the labelled cases and on predictions of teacher and champion of others.

    Nothing is done where it would not be used: without a champion beside other members, where heads have no weight, and
    for volumes, whose slices would all have to be embedded.

    Args:
        teacher: changed.
        cases: those of ``teacher.folds``, and images of cases without a label, of which the first
            ``MAX_TEACHER_LABELLED`` are used.
        task: the task.
        sam: computes the embeddings.
        path: model file of the head.
        training: seed, device and progress.
    """
    is_member = teacher.uses_champion and not teacher.is_single_model
    if not (is_member and teacher.heads and teacher.head_weight > 0) or task.dimension == 3:
        return
    predicted = []
    for image in islice(cases.unlabelled, MAX_TEACHER_LABELLED):
        # On the working grid, where a radiograph takes much less memory.
        masks = binarize(teacher.predict(image, size_of(image, task)), task)
        predicted += head_cases(image, LabelledMasks(masks), task, sam)
    if not predicted:
        return
    labelled = read_each(sorted(teacher.folds), cases.read)
    human = [part for _, image, label in labelled for part in head_cases(image, label, task, sam)]
    if not human:
        return
    # Repeated until their fraction equals that of human labels in a student's batches.
    human *= max(1, math.ceil(HUMAN_FRACTION / (1 - HUMAN_FRACTION) * len(predicted) / len(human)))
    steps = _CHAMPION_HEAD_STEPS * training.steps_of(task)
    train_head([*human, *predicted], task, path, replace(training, steps=steps))
    teacher.champion_head = EmbeddingHead.load(path, task, sam, training.device)


def _inputs(train: Iterable[str], model: Path, task: Task, sam: CachedSam, training: HeadTraining) -> str:
    """Digest of the inputs of a head; the content of the cases is part of the digest of the student's inputs."""
    student = json.loads(model.with_suffix(".json").read_text(encoding="utf-8"))["inputs"]
    parts = [student, list(train), task.recipe.axis, sam.backend.embedding_digest, sam.backend.preprocessing]
    parts += [training.steps_of(task), training.seed]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _means(students: Sequence[Student], heads: Sequence[EmbeddingHead], image: CaseImage, size: Size) -> NDArray[Any]:
    means = [Ensemble(students).predict(image, size)]
    if heads:
        means.append(Ensemble(heads).predict(image, size))
    return np.stack(means)
