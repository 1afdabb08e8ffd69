"""Training case: an image on the student's grid with its label."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from samstudent.imaging.case import CaseImage, for_student
from samstudent.student.grid import Placement, masks_to_student_grid, place, resize, to_student_grid
from samstudent.task import Task


@dataclass(frozen=True)
class TrainingCase:
    """Image and label of one case on the student's grid.

    Attributes:
        id: of the case.
        image: float32 (C, *grid).
        masks: bool (S, *grid).
        ignore: bool (S, *grid), pixels that the loss ignores.
        weights: float32 (S,), weight of each structure in the loss; 0: nothing is known of it (``student.loss``). Human
            labels have 1 for every annotated structure.
        human: whether the label is a human's.
        soft: float16 (S, *grid) in [0, 1], probabilities that are the targets instead of ``masks``, which then only
            locate the structures; None: ``masks`` are the targets.
    """

    id: str
    image: NDArray[Any]
    masks: NDArray[Any]
    ignore: NDArray[Any]
    weights: NDArray[Any]
    human: bool
    soft: NDArray[Any] | None = None


@dataclass(frozen=True)
class CaseLabel:
    """Label of a case on the image's canonical grid, a human's or a pseudo label.

    Attributes:
        masks: bool (S, *spatial).
        ignore: bool (S, *spatial), pixels that the loss ignores; None: none.
        weights: (S,), as of ``TrainingCase``; None: 1 for all.
        soft: probabilities (S, *spatial) that are the targets instead of the masks. Where structures may not overlap
            and their sum exceeds 1, they are scaled down to it. None: the masks are the targets.
        human: whether it is a human's.
    """

    masks: NDArray[Any]
    ignore: NDArray[Any] | None = None
    weights: Sequence[float] | NDArray[Any] | None = None
    soft: NDArray[Any] | None = None
    human: bool = True


def prepare_case(id: str, image: CaseImage, label: CaseLabel, task: Task) -> TrainingCase:
    """Resample image and label of one case to the student's grid."""
    masks, overlap = label.masks, task.overlap
    placement = place(image.grid.spatial_shape, image.grid.spacing, task)
    pixels = to_student_grid(for_student(image, task.image), placement)
    if label.ignore is None or not label.ignore.any():
        ignore = np.zeros((len(masks), *placement.outer), dtype=bool)
    else:
        # Ignore regions may share pixels even where structures may not.
        ignore = masks_to_student_grid(label.ignore, placement, overlap=True)
    ones = np.ones(len(masks), dtype=np.float32)
    weights = ones if label.weights is None else np.asarray(label.weights, dtype=np.float32)
    soft = None if label.soft is None else _soft_to_student_grid(label.soft, placement, overlap)
    hard = masks_to_student_grid(masks, placement, overlap)
    return TrainingCase(id, pixels, hard, ignore, weights, label.human, soft)


def without_label(id: str, image: CaseImage, task: Task) -> TrainingCase:
    """A case without a label: the weight of every structure is 0."""
    masks = np.zeros((len(task.names), *image.grid.spatial_shape), dtype=bool)
    return prepare_case(id, image, CaseLabel(masks, weights=np.zeros(len(masks)), human=False), task)


def _soft_to_student_grid(soft: NDArray[Any], placement: Placement, overlap: bool) -> NDArray[Any]:
    inner = np.clip(resize(soft, placement.inner), 0, 1)
    if not overlap:
        inner /= np.maximum(inner.sum(axis=0, keepdims=True), 1)
    result = np.zeros((len(soft), *placement.outer), dtype=np.float16)
    result[(slice(None), *placement.window)] = inner
    return result
