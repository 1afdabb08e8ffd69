"""Choice of the recipe of each structure among four candidates, by paired out-of-fold Dice of the labelled cases.

The candidates, from the simplest: the student's own mask, the mask of the published SAM, that of the adapted SAM, and
the adapted SAM fused with the student. The student's mask is the default. The rules:

- a candidate is eligible where it is better than the student's mask by more than one standard error of the paired
  difference;
- among those within one standard error of the best one the simplest is chosen (Breiman et al. 1984);
- a structure's own difference is shrunk towards that of all structures, the more, the larger its variance (random
  effects, DerSimonian and Laird 1986); with few cases it is the difference of all structures.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from samstudent.task import Recipe

Float = NDArray[np.float64]

#: Smallest number of cases for a structure's own difference.
MIN_CASES = 3
#: Weight of the common variance, in cases.
_PRIOR_CASES = 4


@dataclass(frozen=True)
class StructureChoice:
    """The recipe of one structure.

    Attributes:
        recipe: the chosen recipe.
        dice: mean out-of-fold Dice by candidate (``Recipe.source``), over cases where truth or mask show the structure.
        gain: estimated difference in Dice of the chosen and the student's mask, shrunk towards that of all structures.
        standard_error: of ``gain``; None where the student's mask was chosen.
        cases: number of cases whose truth or masks show it.
    """

    recipe: Recipe
    dice: Mapping[str, float | None] = field(default_factory=dict)
    gain: float = 0.0
    standard_error: float | None = None
    cases: int = 0


@dataclass(frozen=True)
class RecipeChoice:
    """Recipe of each structure, with the figures of the choice.

    Attributes:
        structures: by name.
        cross_validated_gain: mean gain in Dice of the choice over the student's masks on folds left out of the choice;
            None where nothing was compared.
        fallback: reason for the student's mask for all structures, whatever the choice; None: the choice is used.
    """

    structures: dict[str, StructureChoice]
    cross_validated_gain: float | None = None
    fallback: str | None = None

    @property
    def recipes(self) -> dict[str, Recipe]:
        """Structure -> recipe, for ``Refiner``."""
        return {name: structure.recipe for name, structure in self.structures.items()}

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        structures = {
            name: {
                "recipe": found.recipe.model_dump(mode="json"),
                "dice": dict(found.dice),
                "gain": found.gain,
                "standard_error": found.standard_error,
                "cases": found.cases,
            }
            for name, found in self.structures.items()
        }
        return {
            "structures": structures,
            "cross_validated_gain": self.cross_validated_gain,
            "fallback": self.fallback,
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> RecipeChoice:
        """The reverse of ``as_json``."""
        structures = {
            name: StructureChoice(**{**entry, "recipe": Recipe.model_validate(entry["recipe"])})
            for name, entry in content["structures"].items()
        }
        return cls(structures, content["cross_validated_gain"], content["fallback"])


def candidates_of(recipe: Recipe, *, adapted: bool, fusion: bool = True) -> list[Recipe]:
    """Candidate recipes, the simplest first; their ``source`` is their name.

    Args:
        recipe: the task's.
        adapted: whether SAM was adapted; otherwise ``sam`` is the published one.
        fusion: whether SAM fused with the student is a candidate.
    """
    sources = [*(("plain_sam",) if adapted else ()), "sam", *(("fused",) if fusion else ())]
    # All components of the student's mask: they are only dropped where SAM is prompted.
    student = recipe.model_copy(update={"source": "student", "component": "all"})
    return [student, *(recipe.model_copy(update={"source": source}) for source in sources)]


def choose(dice: Float) -> tuple[NDArray[np.intp], Float, Float]:
    """Chosen candidate of each structure.

    Args:
        dice: out-of-fold Dice, float (cases, S, C), candidates from the simplest, the student's mask first; nan where
            neither truth nor mask shows the structure, or the truth is not known.

    Returns:
        int (S,), number of the candidate; float (S,), its estimated gain over the student's mask; float (S,), standard
        error of the gain.
    """
    structures, candidates = dice.shape[1:]
    lead = {
        (a, b): paired_difference(dice[..., a] - dice[..., b]) for a in range(candidates) for b in range(candidates)
    }
    chosen = np.zeros(structures, dtype=np.intp)
    for s in range(structures):
        eligible = [c for c in range(1, candidates) if lead[c, 0][0][s] > lead[c, 0][1][s]]
        if eligible:
            best = max(eligible, key=lambda c: lead[c, 0][0][s])
            chosen[s] = next(c for c in eligible if lead[best, c][0][s] <= lead[best, c][1][s])
    gain, error = (np.array([lead[c, 0][part][s] for s, c in enumerate(chosen)]) for part in (0, 1))
    return chosen, gain, error


def cross_validated_gain(dice: Float, folds: Sequence[int]) -> float:
    """Mean gain in Dice of the choice over the student's masks by cross-validation: for each fold the choice is made on
    the others. nan where no difference is known.

    Args:
        dice: as of ``choose``.
        folds: fold of each case. If all are equal, each case is a fold.
    """
    groups = np.asarray(folds)
    if len(np.unique(groups)) < 2:
        groups = np.arange(len(groups))
    gains = np.full(dice.shape[:2], np.nan)
    for group in np.unique(groups):
        held = groups == group
        chosen, _, _ = choose(dice[~held])
        picked = np.take_along_axis(dice[held], chosen[None, :, None], axis=2)[..., 0]
        gains[held] = picked - dice[held][..., 0]
    known = np.isfinite(gains)
    return float(gains[known].mean()) if known.any() else float("nan")


def paired_difference(differences: Float) -> tuple[Float, Float]:
    """Mean difference of each structure and its standard error, both shrunk towards those of all structures together.

    Args:
        differences: float (cases, S), nan where unknown.

    Returns:
        float (S,) and float (S,); the error is infinite where fewer than two cases are known.
    """
    known = np.isfinite(differences)
    values, count = np.where(known, differences, 0.0), known.sum(axis=0)
    pooled, pooled_variance = _clustered_mean(values, known)
    mean = np.where(count > 0, values.sum(axis=0) / np.maximum(count, 1), pooled)
    freedom = np.maximum(count - 1, 0)
    squares = (known * (values - mean) ** 2).sum(axis=0)
    common = squares.sum() / max(freedom.sum(), 1)
    variance = (squares + _PRIOR_CASES * common) / (freedom + _PRIOR_CASES) / np.maximum(count, 1)
    enough = count >= MIN_CASES
    own = np.zeros(len(mean))
    if enough.sum() > 1:
        between = max(float(mean[enough].var(ddof=1) - variance[enough].mean()), 0.0)
        total = between + variance[enough]
        own[enough] = np.divide(between, total, out=np.zeros_like(total), where=total > 0)
    error = np.sqrt(own * variance + (1 - own) ** 2 * pooled_variance)
    return own * mean + (1 - own) * pooled, error


def _clustered_mean(values: Float, known: NDArray[np.bool_]) -> tuple[float, float]:
    """Mean over all cases and structures, and its variance clustered by case.

    The variance is increased so that one standard error has the coverage of the normal distribution (Student's t); it
    is infinite with a single case.
    """
    total, cases = int(known.sum()), int(known.any(axis=1).sum())
    mean = float(values[known].sum() / max(total, 1))
    if cases < 2:
        return mean, float("inf")
    off = (known * (values - mean)).sum(axis=1)
    widen = float(stats.t.ppf(stats.norm.cdf(1), cases - 1))
    return mean, widen**2 * cases / (cases - 1) * float((off**2).sum()) / total**2
