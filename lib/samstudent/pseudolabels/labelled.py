"""Labelled cases as trust is learnt from them: on the working grid, with what honest models say of them."""

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
from samstudent.pseudolabels.bench import HonestCase
from samstudent.pseudolabels.case import mix
from samstudent.sam.adapt_samples import Example
from samstudent.sam.cache import EmbeddingCache
from samstudent.sam.embedding import Embedding
from samstudent.sam.model import SamBackend
from samstudent.sam.prompts import coarse_masks, contested
from samstudent.sam.volumes import slice_axis
from samstudent.sam.working import reduced, working_size
from samstudent.task import Task

logger = logging.getLogger(__name__)

#: Slices of labelled volumes from which adaptation and search learn, over all volumes, and at least of each. All would
#: take hours and, at 4 MB an embedding, all the memory.
_SLICES, _SLICES_EACH = 160, 4

Size = tuple[int, ...] | None


class Viewer(Protocol):
    """What pseudo labels need of a teacher or a student; views are float32 (1 or 2, S, *spatial)."""

    @property
    def version(self) -> str: ...
    @property
    def alone(self) -> bool:
        """Whether it is one student, not several that answer together."""

    def views(self, image: CaseImage, size: Size = None, *, readers: bool = True) -> NDArray[Any]: ...


class Teacher(Viewer, Protocol):
    """What is needed of ``samstudent.pseudolabels.teacher.Teacher``."""

    @property
    def folds(self) -> Mapping[str, int]: ...
    def honest_views(self, case_id: str, image: CaseImage, size: Size = None) -> NDArray[Any]: ...
    def fold_views(self, fold: int, image: CaseImage, size: Size = None, *, readers: bool = True) -> NDArray[Any]: ...


@dataclass(frozen=True)
class Seen:
    """A labelled case on the working grid, with honest views float16 (V, S, *size)."""

    id: str
    fold: int
    image: CaseImage
    views: NDArray[np.float16]
    truth: LabelledMasks


def see(case: str, image: CaseImage, truth: LabelledMasks, teacher: Teacher, task: Task) -> Seen:
    size = size_of(image, task)
    views = teacher.honest_views(case, image, size).astype(np.float16)
    return Seen(case, teacher.folds[case], image, views, on_working_grid(truth, size))


def read_each(
    cases: Iterable[str], read: Callable[[str], tuple[CaseImage, LabelledMasks]]
) -> Iterator[tuple[str, CaseImage, LabelledMasks]]:
    """Labelled cases that could be read before; one whose files broke or vanished since is logged and left out."""
    for case in cases:
        try:
            image, label = read(case)
        except Exception as error:  # whatever a PACS, a disk or a decoder comes up with
            logger.warning("case %s is left out: %s", case, error, exc_info=not isinstance(error, (UserError, OSError)))
        else:
            yield case, image, label


def on_working_grid(label: LabelledMasks, size: tuple[int, ...]) -> LabelledMasks:
    """A label on the working grid, ``size_of`` its image: of a 2D image a pixel belongs to a structure that covers half
    of it, and is unknown where any part of it is. Volumes stay as they are."""
    if len(size) == 3:
        return label
    masks = reduced(label.masks, (size[0], size[1])) >= 0.5
    if label.unknown is None:
        return LabelledMasks(masks)
    unknown = reduced(label.unknown, (size[0], size[1])) > 0
    return LabelledMasks(masks & ~unknown, unknown)


def size_of(image: CaseImage, task: Task) -> tuple[int, ...]:
    """The working grid of an image; volumes are worked on as they are, slice by slice."""
    shape = image.grid.spatial_shape
    return working_size((shape[0], shape[1])) if task.dimension == 2 else tuple(shape)


def spread_out(cases: Sequence[Any], most: int) -> list[Any]:
    """At most so many of them, from all over the list."""
    count = min(most, len(cases))
    return [cases[i * len(cases) // count] for i in range(count)]


def common_axis(cases: Sequence[Seen], task: Task) -> str:
    """The axis along which most of the labelled volumes are best cut; all of a study's are cut alike."""
    if task.dimension == 2 or task.recipe.axis != "auto":
        return task.recipe.axis
    axes = [slice_axis(case.truth.masks, case.image.grid.spacing) for case in cases]
    return "zyx"[int(np.bincount(axes).argmax())]


def with_axis(task: Task, axis: str) -> Task:
    return task.model_copy(update={"recipe": task.recipe.model_copy(update={"axis": axis})})


def honest_parts(
    case: Seen, share: float, task: Task, backend: SamBackend, cache: EmbeddingCache | None, cases: int
) -> list[tuple[HonestCase, NDArray[np.uint8]]]:
    """The case as the search takes it, with SAM's image: the image, or of a volume evenly some of the slices with
    anything on them.

    Args:
        cases: labelled ones in all, among which volumes share the slices that may be looked at.
    """
    probabilities = contested(mix(case.views, share), task.overlap).astype(np.float16)
    seen = for_sam(case.image, task.image)
    truth, unknown = case.truth.masks, case.truth.unknown
    if task.dimension == 2:
        height, width = truth.shape[1:]
        embedding = replace(embed(seen, backend, cache), image_size=(height, width))
        return [(HonestCase(case.id, case.fold, probabilities, truth, embedding, unknown=unknown), seen)]
    axis = "zyx".index(task.recipe.axis)
    images, truths = np.moveaxis(seen, axis, 0), np.moveaxis(truth, 1 + axis, 0)
    unsaid = None if unknown is None else np.moveaxis(unknown, 1 + axis, 0)
    answers = np.moveaxis(probabilities, 1 + axis, 0)
    full = [z for z, p in enumerate(answers) if truths[z].any() or (p >= task.recipe.threshold).any()]
    most = max(_SLICES_EACH, _SLICES // cases)
    chosen = sorted({full[round(i)] for i in np.linspace(0, len(full) - 1, min(most, len(full)))})
    whole = np.moveaxis(probabilities, 1 + axis, 1)
    parts = []
    for z in chosen:
        embedding = embed(images[z], backend, cache)
        left_open = None if unsaid is None else unsaid[z]
        parts.append((HonestCase(case.id, case.fold, answers[z], truths[z], embedding, whole, z, left_open), images[z]))
    return parts


def example_of(case: HonestCase, task: Task) -> Example:
    coarse = coarse_masks(case.probabilities.astype(np.float32), task.recipe)
    # Half a border is no border to learn.
    known = None if case.unknown is None else ~case.unknown.any(axis=(1, 2))
    return Example(case.id, case.fold, case.embedding, case.truth, coarse, known)


def embed(image: NDArray[np.uint8], backend: SamBackend, cache: EmbeddingCache | None) -> Embedding:
    return backend.embed(image) if cache is None else cache.embed(backend, image)
