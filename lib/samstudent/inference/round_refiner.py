"""Refiner of a round: SAM with the recipes and the quality model of the round's labeling policy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray

from samstudent.imaging.case import CaseImage, for_sam
from samstudent.pseudolabels.dice_bound import DiceEstimate
from samstudent.pseudolabels.policy import LabelingPolicy
from samstudent.pseudolabels.quality_features import quality_features_of
from samstudent.pseudolabels.quality_filter import structure_quality
from samstudent.rounds.study import Study
from samstudent.sam.cache import EmbeddingCache
from samstudent.sam.refiner import Refiner, RefinerOptions, adapted_decoders
from samstudent.sam.results import Refinement, StructureResult
from samstudent.sam.volume_refinement import SliceOptions
from samstudent.task import Task


@dataclass(frozen=True)
class RoundRefiner:
    """SAM that refines the masks of a round's student.

    Attributes:
        refiner: SAM, recipes, and the cache of embeddings.
        task: the task.
        policy: labeling policy of the round; None: the task's recipe is used.
        facts: ``backend`` and ``digest`` of the SAM, ``adapted`` (digest of the adapted decoder, or None), and the
            round whose ``recipes`` are used, or "task".
    """

    refiner: Refiner
    task: Task
    policy: LabelingPolicy | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, study: Study, round_id: str | None, cache: EmbeddingCache | None) -> RoundRefiner:
        """Refiner of a round of a study.

        Args:
            study: the study.
            round_id: the round; None: no round, so that the active SAM and the task's recipe are used.
            cache: stores the embeddings; see ``EmbeddingCache`` for their rounding, which changes masks by pixels.
        """
        sam, policy = (study.sam(), None) if round_id is None else study.refiner_of(round_id)
        task = study.task
        facts = {
            "backend": sam.name,
            "digest": sam.digest,
            "adapted": policy.adapted.digest if policy and policy.adapted else None,
            "recipes": round_id if policy else "task",
        }
        if policy is None:
            return cls(Refiner.for_task(task, sam, cache), task, None, facts)
        recipes = policy.choice.recipes
        options = RefinerOptions(policy.uses_sam, SliceOptions.of(policy.task.recipe))
        adapted = adapted_decoders(recipes, policy.adapted)
        return cls(Refiner.for_task(policy.task, sam, cache, recipes, adapted, options), task, policy, facts)

    def refine(self, probabilities: NDArray[Any], image: CaseImage) -> Refinement:
        """Refine probabilities or masks, float (S, *spatial), on the image's canonical grid."""
        return self.refiner.refine(probabilities, for_sam(image, self.task.image), image.grid.spacing)

    def estimates(self, refinement: Refinement, probabilities: NDArray[Any]) -> dict[str, DiceEstimate]:
        """Estimated Dice of the refined masks by the quality model of the round.

        Args:
            refinement: of ``probabilities``.
            probabilities: a student's, float (S, *spatial).

        Returns:
            Estimates of the structures that the coarse masks show, by name; empty: there is no quality model.
        """
        if self.policy is None or self.policy.quality is None:
            return {}
        quality = self.policy.quality
        # A served model is one student, which the quality model estimates without the ensemble offset.
        features = quality_features_of(refinement, probabilities, quality.statistics, probabilities[None])
        return quality.estimates(self.task.names, features)


def formula_quality(result: StructureResult) -> float | None:
    """Quality of a refined structure by the formula (``quality_filter``), 0 to 1; None: SAM was not run on it, so that
    the quality is unknown, not low."""
    return structure_quality(result) if result.present and result.agreement is not None else None
