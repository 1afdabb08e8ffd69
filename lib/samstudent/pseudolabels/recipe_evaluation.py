"""Out-of-fold refinement of labelled cases, for the choice of recipes and the quality model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from samstudent.metrics import dice_where_known
from samstudent.pseudolabels.case import mix
from samstudent.pseudolabels.labelling import refine_case
from samstudent.pseudolabels.out_of_fold import OutOfFoldCase, spread_out
from samstudent.pseudolabels.quality_features import ShapeStatistics, quality_features_of
from samstudent.pseudolabels.quality_model import Row
from samstudent.pseudolabels.recipe_choice import (
    RecipeChoice,
    StructureChoice,
    candidates_of,
    choose,
    cross_validated_gain,
)
from samstudent.sam.cached_sam import CachedSam
from samstudent.sam.model import SamBackend
from samstudent.sam.results import Refinement
from samstudent.task import Recipe, Task
from samstudent.util.device import on_all_cores

Float = NDArray[np.float64]

#: Largest number of labelled volumes for the comparison of recipes: each takes minutes, and more change it little.
_MOST_VOLUMES = 10


@dataclass(frozen=True)
class RecipeEvaluator:
    """Out-of-fold refinements of labelled cases.

    Attributes:
        cases: with out-of-fold predictions.
        task: with the axis of slices.
        head_weight: weight of the embedding heads, 0 to 1.
        sam: the plain SAM.
        adapted: by fold, the SAM that was adapted on the other folds; folds without comparable structures are missing;
            None: the plain one is used.
    """

    cases: Sequence[OutOfFoldCase]
    task: Task
    head_weight: float
    sam: CachedSam
    adapted: Mapping[int, SamBackend] | None = None

    def dice(self, recipes: Mapping[str, Recipe]) -> Float:
        """Dice float (cases, S) of the masks of these recipes; nan where truth and mask are empty, or unknown."""

        def of(case: OutOfFoldCase) -> NDArray[np.float64]:
            members = case.members.astype(np.float32)
            refined = self._refine(case, members, recipes, figures=False)
            return dice_where_known(case.truth, refined.masks)

        return np.stack(on_all_cores(of, self.cases))

    def quality_rows(self, recipes: Mapping[str, Recipe], statistics: ShapeStatistics, uses_sam: bool) -> list[Row]:
        """Quality features and Dice of each structure that a refinement shows.

        Args:
            recipes: of each structure.
            statistics: of all the cases.
            uses_sam: whether SAM is run on unlabelled cases; otherwise labelled ones must not have SAM's features.
        """

        def of(item: tuple[int, OutOfFoldCase]) -> list[Row]:
            number, case = item
            members = case.members.astype(np.float32)[: None if uses_sam else 1]
            refined = self._refine(case, members, recipes, figures=uses_sam)
            probabilities = mix(members, self.head_weight)
            features = quality_features_of(refined, probabilities, statistics.without(number), members)
            dice = dice_where_known(case.truth, refined.masks)
            return [
                Row(name, case.id, found, float(value))
                for name, found, value in zip(self.task.names, features, dice, strict=True)
                if found is not None
            ]

        return [row for rows in on_all_cores(of, list(enumerate(self.cases))) for row in rows]

    def _refine(
        self, case: OutOfFoldCase, members: NDArray[Any], recipes: Mapping[str, Recipe], *, figures: bool
    ) -> Refinement:
        adapted = self.adapted.get(case.fold) if self.adapted else None
        probabilities = mix(members, self.head_weight)
        return refine_case(case.image, probabilities, self.task, (self.sam, adapted), recipes, figures=figures)


def choose_recipes(
    evaluator: RecipeEvaluator, *, fusion: bool = True, progress: Callable[[int, int], None] | None = None
) -> RecipeChoice:
    """Choose the recipe of each structure (``recipe_choice``).

    Args:
        evaluator: of all labelled cases; of volumes, some of them are used.
        fusion: whether SAM fused with the student is a candidate.
        progress: called with the number of candidates done and of all.
    """
    task = evaluator.task
    if task.dimension == 3:
        evaluator = replace(evaluator, cases=spread_out(evaluator.cases, _MOST_VOLUMES))
    candidates = candidates_of(task.recipe, adapted=evaluator.adapted is not None, fusion=fusion)
    columns = []
    for number, candidate in enumerate(candidates):
        if progress is not None:
            progress(number, len(candidates))
        columns.append(evaluator.dice(dict.fromkeys(task.names, candidate)))
    if progress is not None:
        progress(len(candidates), len(candidates))
    dice = np.stack(columns, axis=-1)
    chosen, gain, error = choose(dice)
    validated = cross_validated_gain(dice, [case.fold for case in evaluator.cases])
    fallback = None
    if validated < 0:
        fallback = "on folds left out of the choice, the chosen recipes are worse than the student's masks"
    elif not task.overlap and len(set(chosen.tolist())) > 1:
        # Where structures compete for pixels, the recipe of one changes the others.
        mixed = evaluator.dice({name: candidates[c] for name, c in zip(task.names, chosen, strict=True)})
        if np.nanmean(mixed) < np.nanmean(dice[..., 0]):
            fallback = "where structures share no pixel, the chosen recipes together are worse than the student's masks"
    if fallback is not None:
        chosen, gain = np.zeros_like(chosen), np.zeros_like(gain)
    known = np.isfinite(dice)
    means = np.where(known, dice, 0).sum(axis=0) / np.maximum(known.sum(axis=0), 1)
    structures = {
        name: StructureChoice(
            recipe=candidates[chosen[s]],
            dice={
                candidate.source: _number(means[s, c]) if known[:, s, c].any() else None
                for c, candidate in enumerate(candidates)
            },
            gain=round(float(gain[s]), 6),
            standard_error=_number(error[s]) if chosen[s] else None,
            cases=int(known[:, s].any(axis=-1).sum()),
        )
        for s, name in enumerate(task.names)
    }
    return RecipeChoice(structures, _number(validated), fallback)


def _number(value: float) -> float | None:
    """A number for JSON, which has neither nan nor infinity."""
    return round(float(value), 6) if np.isfinite(value) else None
