"""Pseudo labels of unlabelled cases by a labeling policy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from numpy.typing import NDArray

from samstudent.imaging.case import CaseImage, for_sam
from samstudent.pseudolabels.cached_sam import CachedSam, adapted_decoders
from samstudent.pseudolabels.case import PseudoLabel, mix, pseudo_label_of
from samstudent.pseudolabels.out_of_fold import MemberPredictor, size_of
from samstudent.pseudolabels.policy import LabelingPolicy
from samstudent.pseudolabels.provenance import provenance_of
from samstudent.pseudolabels.quality_features import quality_features_of
from samstudent.sam.model import SamBackend
from samstudent.sam.refiner import Refiner, RefinerOptions
from samstudent.sam.results import Refinement
from samstudent.sam.volume_refinement import SliceOptions
from samstudent.task import Recipe, Task

#: Jittered boxes a case are limited to about this many calls of the decoder: 32 teeth would take a second a box.
_DECODES = 16
_MOST_JITTERS = 2


@dataclass(frozen=True)
class RefineOptions:
    """What a refinement does beside the masks.

    Attributes:
        figures: also run SAM on structures whose mask the student keeps, for the quality features.
        jitter: also decode jittered boxes, for the quality feature of that name.
        seed: of the jitter.
    """

    figures: bool = True
    jitter: bool = True
    seed: int = 0


def label_case(
    image: CaseImage, teacher: MemberPredictor, policy: LabelingPolicy, sam: CachedSam, *, seed: int = 0
) -> PseudoLabel:
    """Pseudo label of one unlabelled case; of a 2D image on the working grid, see ``produce.on_image``.

    Args:
        image: of the case.
        teacher: predicts it.
        policy: how its predictions are refined and judged.
        sam: the plain SAM.
        seed: of jittered boxes.
    """
    members = teacher.predict_members(image, size_of(image, policy.task), heads=policy.uses_sam)
    quality = policy.quality
    if quality is not None and not teacher.is_single_model:
        quality = quality.shifted(policy.ensemble_offset)
    refined, probabilities, estimates = refine_and_estimate(image, members, replace(policy, quality=quality), sam, seed)
    provenance = provenance_of(teacher.version, policy.adapted or sam.backend, policy.task, policy.digest)
    return pseudo_label_of(refined, probabilities, policy.task, provenance, estimates)


def refine_and_estimate(
    image: CaseImage, members: NDArray[Any], policy: LabelingPolicy, sam: CachedSam, seed: int = 0
) -> tuple[Refinement, NDArray[Any], dict[str, float] | None]:
    """Refinement of an unlabelled case, the probabilities float32 (S, *size) that were refined, and the estimated Dice
    of each structure that is there; None without a quality model.

    Args:
        image: of the case.
        members: probabilities (1 or 2, S, *size), as of ``MemberPredictor.predict_members``.
        policy: its quality model is used as it is, without the ensemble offset.
        sam: the plain SAM.
        seed: of jittered boxes.
    """
    probabilities = mix(members, policy.head_weight)
    options = RefineOptions(policy.uses_sam, policy.quality is not None, seed)
    refined = refine_case(image, probabilities, policy.task, (sam, policy.adapted), policy.choice.recipes, options)
    if policy.quality is None:
        return refined, probabilities, None
    features = quality_features_of(refined, probabilities, policy.quality.atlas, members if len(members) > 1 else None)
    return refined, probabilities, policy.quality.estimates(policy.task.names, features)


def refine_case(
    image: CaseImage,
    probabilities: NDArray[Any],
    task: Task,
    sam: tuple[CachedSam, SamBackend | None],
    recipes: Mapping[str, Recipe],
    options: RefineOptions = RefineOptions(),
) -> Refinement:
    """Refinement on the working grid.

    Args:
        image: of the case.
        probabilities: (S, *size) on the working grid.
        task: the task.
        sam: the plain SAM, and the adapted one of the same encoder or None.
        recipes: of each structure, by name.
        options: what is done beside the masks.
    """
    plain, adapted = sam
    jitters = max(0, min(_MOST_JITTERS, _DECODES // len(task.names) - 1)) if options.jitter else 0
    refiner = Refiner.for_task(
        task,
        plain.backend,
        plain.cache,
        recipes,
        adapted_decoders(recipes, adapted),
        RefinerOptions(options.figures, jitters, SliceOptions.of(task.recipe)),
    )
    return refiner.refine(probabilities, for_sam(image, task.image), image.grid.spacing, options.seed)
