"""Pseudo labels of other methods: a student's masks of an image, unchanged or refined."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage.segmentation import random_walker

from samstudent.imaging.case import CaseImage, for_sam
from samstudent.sam.cache import EmbeddingCache
from samstudent.sam.model import SamModel
from samstudent.sam.prompts import Mask
from samstudent.sam.refiner import Refiner, RefinerOptions
from samstudent.sam.volume_refinement import SliceOptions
from samstudent.sam.working_grid import enlarged, reduced, working_size
from samstudent.student.predict import binarize
from samstudent.task import PAPER_STAGES, Recipe, Task

#: Masks bool (S, *spatial) from an image and a student's probabilities float (S, *spatial).
RefineMasks = Callable[[CaseImage, NDArray[Any]], Mask]
#: The recipe of the paper (arXiv 2411.12602), section 2.2, also for SAMs that were trained with boxes only.
PAPER = Recipe(component="probable", stages=PAPER_STAGES, source="plain_sam")
#: Random walker (Grady 2006): pixels with at least this probability of structure or background are seeds.
WALKER_SURE = 0.8
#: Penalty of the walker on edges; scikit-image's default.
WALKER_BETA = 130.0
#: Margin in pixels around the pixels without a seed.
_WALKER_MARGIN = 5


def raw(task: Task) -> RefineMasks:
    """The student's own masks."""
    return lambda image, probabilities: binarize(probabilities, task)


def largest(task: Task) -> RefineMasks:
    """The largest component of each of the student's masks."""
    return lambda image, probabilities: np.stack([largest_component(m) for m in binarize(probabilities, task)])


def walker(task: Task) -> RefineMasks:
    """The student's masks refined by a random walker; 2D images on SAM's working grid."""

    def refine(image: CaseImage, probabilities: NDArray[Any]) -> Mask:
        grey = for_sam(image, task.image).mean(-1)[None] / 255
        full = grey.shape[1:]
        if len(full) == 2:
            probabilities, grey = (reduced(a, working_size(full)) for a in (probabilities, grey))
        walked = np.stack([random_walk(grey[0], p) for p in probabilities])
        if walked.shape[1:] != full:
            walked = np.stack([enlarged(plane, full)[0] for plane in walked])
        return walked >= 0.5 if task.overlap else binarize(walked / np.maximum(walked.sum(0), 1), task)

    return refine


def paper(task: Task, backend: SamModel, cache: EmbeddingCache) -> RefineMasks:
    """The student's masks refined by SAM as published: every structure in the paper's two stages."""
    task = task.model_copy(update={"recipe": PAPER})

    options = RefinerOptions(prompt_all=False, slices=SliceOptions.of(PAPER))
    refiner = Refiner.for_task(task, backend, cache, options=options)

    def refine(image: CaseImage, probabilities: NDArray[Any]) -> Mask:
        return refiner.refine(probabilities, for_sam(image, task.image)).masks

    return refine


def largest_component(mask: Mask) -> Mask:
    """The largest component (neighbours also across corners) of a mask; an empty one stays empty."""
    labels, count = ndimage.label(mask, np.ones((3,) * mask.ndim))
    return mask if count < 2 else np.asarray(labels == 1 + np.bincount(labels.ravel())[1:].argmax())


def random_walk(grey: NDArray[Any], probability: NDArray[Any]) -> NDArray[Any]:
    """Probability that a random walker reaches the structure first.

    Seeds are the pixels where the student's probability is at least ``WALKER_SURE`` (structure) or at most 1 minus that
    (not the structure). Without seeds of the structure it counts as absent, because scikit-image needs seeds of both.

    Args:
        grey: the image in [0, 1], float (*spatial).
        probability: the student's, float (*spatial).

    Returns:
        float (*spatial); seeds are 0 and 1.
    """
    sure, uncertain = probability >= WALKER_SURE, (probability < WALKER_SURE) & (probability > 1 - WALKER_SURE)
    result = sure.astype(np.float64)
    if not sure.any() or not uncertain.any():
        return result
    # Only around pixels without a seed: an image has millions of pixels, of which the walker needs thousands.
    window = tuple(
        slice(max(part.start - _WALKER_MARGIN, 0), part.stop + _WALKER_MARGIN)
        for part in ndimage.find_objects((sure | uncertain).astype(np.uint8))[0]
    )
    seeds = np.where(sure[window], 1, np.where(uncertain[window], 0, 2))
    if not (seeds == 2).any():
        return result
    walked = random_walker(grey[window], seeds, beta=WALKER_BETA, mode="cg_j", tol=1e-5, return_full_prob=True)
    result[window] = np.clip(walked[0], 0, 1)
    return result
