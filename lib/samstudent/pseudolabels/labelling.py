"""Pseudo labels of unlabelled cases by a labeling policy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from numpy.typing import NDArray

from samstudent.imaging.case import CaseImage, for_sam
from samstudent.pseudolabels.case import PseudoLabel, mix, pseudo_label_of
from samstudent.pseudolabels.dice_bound import DiceEstimate
from samstudent.pseudolabels.out_of_fold import MemberPredictor, size_of
from samstudent.pseudolabels.policy import LabelingPolicy
from samstudent.pseudolabels.provenance import provenance_of
from samstudent.pseudolabels.quality_features import quality_features_of
from samstudent.sam.cached_sam import CachedSam
from samstudent.sam.model import SamBackend
from samstudent.sam.refiner import Refiner, RefinerOptions, adapted_decoders
from samstudent.sam.results import Refinement
from samstudent.sam.volume_refinement import SliceOptions
from samstudent.task import Recipe, Task


def label_case(image: CaseImage, teacher: MemberPredictor, policy: LabelingPolicy, sam: CachedSam) -> PseudoLabel:
    """Pseudo label of one unlabelled case; of a 2D image on the working grid, see ``on_image.on_image``.

    Args:
        image: of the case.
        teacher: model of the predictions.
        policy: labeling policy.
        sam: the plain SAM.
    """
    members = teacher.predict_members(image, size_of(image, policy.task), heads=policy.uses_sam)
    quality = policy.quality
    if quality is not None and not teacher.is_single_model:
        quality = quality.shifted(policy.ensemble_offset)
    refined, probabilities, estimates = refine_and_estimate(image, members, replace(policy, quality=quality), sam)
    provenance = provenance_of(teacher.version, policy.adapted or sam.backend, policy.task, policy.digest)
    return pseudo_label_of(refined, probabilities, policy.task, provenance, estimates)


def refine_and_estimate(
    image: CaseImage, members: NDArray[Any], policy: LabelingPolicy, sam: CachedSam
) -> tuple[Refinement, NDArray[Any], dict[str, DiceEstimate] | None]:
    """Refinement of an unlabelled case, the refined probabilities float32 (S, *size), and the estimated Dice of each
    present structure; None without a quality model.

    Args:
        image: of the case.
        members: probabilities (1 or 2, S, *size), as of ``MemberPredictor.predict_members``.
        policy: labeling policy; its ensemble offset is not applied.
        sam: the plain SAM.
    """
    probabilities = mix(members, policy.head_weight)
    plain_and_adapted = sam, policy.adapted
    refined = refine_case(
        image, probabilities, policy.task, plain_and_adapted, policy.choice.recipes, figures=policy.uses_sam
    )
    if policy.quality is None:
        return refined, probabilities, None
    features = quality_features_of(refined, probabilities, policy.quality.statistics, members)
    return refined, probabilities, policy.quality.estimates(policy.task.names, features)


def refine_case(
    image: CaseImage,
    probabilities: NDArray[Any],
    task: Task,
    sam: tuple[CachedSam, SamBackend | None],
    recipes: Mapping[str, Recipe],
    *,
    figures: bool,
) -> Refinement:
    """Refinement on the working grid.

    Args:
        image: of the case.
        probabilities: (S, *size) on the working grid.
        task: the task.
        sam: the plain SAM, and the adapted one of the same encoder or None.
        recipes: of each structure, by name.
        figures: run SAM also on structures whose result is the student's mask, for the quality features.
    """
    plain, adapted = sam
    refiner = Refiner.for_task(
        task,
        plain.backend,
        plain.cache,
        recipes,
        adapted_decoders(recipes, adapted),
        RefinerOptions(figures, slices=SliceOptions.of(task.recipe)),
    )
    return refiner.refine(probabilities, for_sam(image, task.image), image.grid.spacing)
