"""Labelled cases on the working grid with out-of-fold predictions: of models that did not train on the case.

Everything that is chosen or fitted on labelled cases (head weight, SAM's adaptation, recipes, quality model) uses them.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from samstudent.errors import UserError
from samstudent.imaging.annotations import LabelledMasks
from samstudent.imaging.case import CaseImage, for_sam
from samstudent.pseudolabels.case import mix
from samstudent.sam.adapt_samples import Example
from samstudent.sam.cached_sam import CachedSam
from samstudent.sam.embedding import Embedding
from samstudent.sam.prompts import coarse_masks, one_vs_rival
from samstudent.sam.volumes import slice_axis
from samstudent.sam.working_grid import reduced, working_size
from samstudent.task import Task

logger = logging.getLogger(__name__)

#: Slices of labelled volumes on which SAM is adapted: in all, and at least of each volume. All slices would take hours
#: and, with 4 MB for an embedding, too much memory.
_SLICES, _SLICES_EACH = 160, 4

Size = tuple[int, ...] | None
#: Case id -> its image and its human label.
Read = Callable[[str], tuple[CaseImage, LabelledMasks]]


@dataclass(frozen=True)
class LearningCases:
    """Cases to which a policy or a head is fitted.

    Attributes:
        read: returns image and human label of a labelled case.
        unlabelled: images on which no model trained; iterated once.
    """

    read: Read
    unlabelled: Iterable[CaseImage] = ()


class MemberPredictor(Protocol):
    """A teacher or a student with the predictions of its members, float32 (1 or 2, S, *spatial)."""

    @property
    def version(self) -> str: ...
    @property
    def is_single_model(self) -> bool:
        """Whether it is one student, not an ensemble."""

    def predict_members(self, image: CaseImage, size: Size = None, *, heads: bool = True) -> NDArray[Any]: ...


class CrossFittedPredictor(MemberPredictor, Protocol):
    """A teacher with out-of-fold predictions (``teacher.Teacher``)."""

    @property
    def folds(self) -> Mapping[str, int]: ...
    def predict_oof(self, case_id: str, image: CaseImage, size: Size = None) -> NDArray[Any]: ...
    def predict_fold(self, fold: int, image: CaseImage, size: Size = None, *, heads: bool = True) -> NDArray[Any]: ...


@dataclass(frozen=True)
class OutOfFoldCase:
    """A labelled case on the working grid, with predictions of the members that did not train on it.

    Attributes:
        id: of the case.
        fold: of the cross-fitting.
        image: on its own grid.
        members: probabilities float16 (M, S, *size): of the students, and of the embedding heads where there are any.
        truth: the human label, masks bool (S, *size).
    """

    id: str
    fold: int
    image: CaseImage
    members: NDArray[np.float16]
    truth: LabelledMasks

    @classmethod
    def of(
        cls, case: str, image: CaseImage, truth: LabelledMasks, teacher: CrossFittedPredictor, task: Task
    ) -> OutOfFoldCase:
        """Predict a labelled case; ``truth`` is on the image's own grid."""
        size = size_of(image, task)
        members = teacher.predict_oof(case, image, size).astype(np.float16)
        return cls(case, teacher.folds[case], image, members, on_working_grid(truth, size))


def read_each(cases: Iterable[str], read: Read) -> Iterator[tuple[str, CaseImage, LabelledMasks]]:
    """Image and label of each case; a case that cannot be read any more is logged and left out."""
    for case in cases:
        try:
            image, label = read(case)
        except Exception as error:  # any error of a PACS, a disk or a decoder
            logger.warning("case %s is left out: %s", case, error, exc_info=not isinstance(error, (UserError, OSError)))
        else:
            yield case, image, label


def on_working_grid(label: LabelledMasks, size: tuple[int, ...]) -> LabelledMasks:
    """A label on the working grid, ``size_of`` its image.

    In 2D a pixel belongs to a structure that covers at least half of it, and is unknown where any part of it is. Labels
    of volumes are unchanged.
    """
    if len(size) == 3:
        return label
    masks = reduced(label.masks, (size[0], size[1])) >= 0.5
    if label.unknown is None:
        return LabelledMasks(masks)
    unknown = reduced(label.unknown, (size[0], size[1])) > 0
    return LabelledMasks(masks & ~unknown, unknown)


def size_of(image: CaseImage, task: Task) -> tuple[int, ...]:
    """Size of the working grid of an image; that of a volume is its own grid."""
    shape = image.grid.spatial_shape
    return working_size((shape[0], shape[1])) if task.dimension == 2 else tuple(shape)


def spread_out(cases: Sequence[Any], most: int) -> list[Any]:
    """At most ``most`` of the cases, evenly spread over the list."""
    count = min(most, len(cases))
    return [cases[i * len(cases) // count] for i in range(count)]


def common_axis(cases: Sequence[OutOfFoldCase], task: Task) -> str:
    """Axis of the slices of all volumes of a study: the most frequent ``slice_axis`` of the labelled ones."""
    if task.dimension == 2 or task.recipe.axis != "auto":
        return task.recipe.axis
    axes = [slice_axis(case.truth.masks, case.image.grid.spacing) for case in cases]
    return "zyx"[int(np.bincount(axes).argmax())]


def with_axis(task: Task, axis: str) -> Task:
    """The task with another ``recipe.axis``."""
    return task.model_copy(update={"recipe": task.recipe.model_copy(update={"axis": axis})})


def examples_of(case: OutOfFoldCase, head_weight: float, task: Task, sam: CachedSam, cases: int) -> list[Example]:
    """Examples of a case for SAM's adaptation: the image, or evenly spread slices of a volume that are not empty.

    Args:
        case: the labelled case.
        head_weight: weight of the embedding heads, 0 to 1.
        task: with the axis of slices.
        sam: computes the embeddings.
        cases: number of all labelled cases, among which the largest number of slices is divided.
    """
    probabilities = one_vs_rival(mix(case.members, head_weight), task.overlap)
    pixels = for_sam(case.image, task.image)
    if task.dimension == 2:
        height, width = case.truth.masks.shape[1:]
        embedding = replace(sam.embed(pixels), image_size=(height, width))
        return [_example(case, embedding, probabilities, case.truth, task)]
    axis = "zyx".index(task.recipe.axis)
    images, truths = np.moveaxis(pixels, axis, 0), case.truth.slices(axis)
    predictions = np.moveaxis(probabilities, 1 + axis, 0)
    full = [z for z, p in enumerate(predictions) if truths[z].masks.any() or (p >= task.recipe.threshold).any()]
    most = max(_SLICES_EACH, _SLICES // cases)
    chosen = sorted({full[round(i)] for i in np.linspace(0, len(full) - 1, min(most, len(full)))})
    return [_example(case, sam.embed(images[z]), predictions[z], truths[z], task) for z in chosen]


def _example(
    case: OutOfFoldCase, embedding: Embedding, probabilities: NDArray[Any], truth: LabelledMasks, task: Task
) -> Example:
    coarse = coarse_masks(probabilities, task.recipe)
    # A structure with an unknown part has no complete border.
    known = None if truth.unknown is None else truth.complete
    return Example(case.id, case.fold, embedding, truth.masks, coarse, known)
