"""Which recipe each structure takes, from Dice on honest predictions of few cases: in doubt the simpler one.

The evidence is one number per case, structure and recipe; recipes come sorted, the simplest first. What keeps thirty
structures times ten cases from picking lucky ones among hundreds of recipes:

- a structure's own gain is drawn towards the gain over all structures, the more, the less its cases tell (random
  effects, DerSimonian and Laird 1986; variances are drawn to the common one too, as in limma, Smyth 2004);
- few compete at first: the student's own masks, and what can be made of the base recipe's answer. The best of them
  must beat the student's by what the luckiest of these few would show if none differed from the student, found by
  resampling the cases, and by half a standard error of the paired difference;
- another of the many takes that one's place only if it leads it by a whole standard error (Breiman et al. 1984) and by
  what the luckiest of so many would show;
- a SAM that alone is far below the student has no vote where the two are fused.

How these rules compare with others: docs/explanation/recipe-search.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Array = NDArray[np.float64]

#: A structure that fewer cases show is judged by all structures together.
MIN_CASES = 3
#: The common variance counts as much as this many cases of a structure's own.
_PRIOR_CASES = 4
_RESAMPLES = 200
#: Of a standard error, by which the student's mask must be beaten beyond luck: what is won where SAM is better and lost
#: where it is not was compared for 0, 0.5 and 1 (docs/explanation/recipe-search.md).
_DOUBT = 0.5
#: SAM's masks need this share of the student's Dice to be fused with it: what does not know the structure at all only
#: shifts the student's threshold, or adds noise.
_VOTE = 2 / 3


@dataclass(frozen=True)
class Evidence:
    """Dice of C recipes on n cases with S structures.

    Attributes:
        dice: float (n, S, C), no nan. Where a recipe rightly drew nothing, its own mean stands, so that means are those
            of ``metrics`` (false alarms count 0, a right silence does not count).
        valid: bool (n, S), whether the truth or any recipe shows the structure.
        shown: bool (n, S), whether the truth does.
    """

    dice: Array
    valid: NDArray[np.bool_]
    shown: NDArray[np.bool_]

    @classmethod
    def of(cls, dice: NDArray[Any], shown: NDArray[np.bool_]) -> Evidence:
        """From Dice (n, S, C) with nan where truth and recipe both show nothing."""
        silent = np.isnan(dice)
        valid = ~silent.all(axis=2)
        # A recipe that is silent in all its cases of a structure takes its mean over all structures, else that of any.
        for axes in ((0,), (0, 1), (0, 1, 2)):
            count = (~np.isnan(dice)).sum(axis=axes, keepdims=True)
            mean = np.nansum(dice, axis=axes, keepdims=True) / np.maximum(count, 1)
            dice = np.where(silent & np.isnan(dice) & (count > 0), mean, dice)
        return cls(np.where(valid[..., None], dice, 0.0), valid, shown)

    def rows(self, keep: NDArray[np.bool_]) -> Evidence:
        """Some of the cases."""
        return Evidence(self.dice[keep], self.valid[keep], self.shown[keep])

    def means(self) -> Array:
        """Mean Dice (S, C) over a structure's cases; nan where it has none."""
        count = self.valid.sum(axis=0)[:, None]
        return np.where(count > 0, self.dice.sum(axis=0) / np.maximum(count, 1), np.nan)


@dataclass(frozen=True)
class Verdict:
    """What is decided of one structure; recipes are indices into the evidence's last axis.

    Attributes:
        recipe: the chosen one.
        best: the one of the highest shrunken mean; more complex than ``recipe``, or equal to it.
        gain: shrunken mean difference of ``recipe`` to the simplest recipe, in Dice.
        standard_error: of ``gain``.
        margin: shrunken mean difference of ``best`` to the simplest recipe.
        luck: what the best of so many recipes would lead the simplest by if none were better.
    """

    recipe: int
    best: int
    gain: float
    standard_error: float
    margin: float
    luck: float


def decide(
    evidence: Evidence, seed: int, sam: Sequence[int | None] | None = None, few: int | None = None
) -> list[Verdict]:
    """Choose a recipe for each structure.

    Args:
        evidence: recipes sorted, the simplest first.
        seed: of the resampling.
        sam: for each recipe None where it asks SAM nothing (those come first), else the index of the recipe that takes
            SAM's own mask of the same decoding. None: all but the first are SAM's own masks.
        few: how many recipes, from the first, are the student's own masks or made of the base recipe's answer. None:
            all.
    """
    recipes = evidence.dice.shape[2]
    sam = [None, *range(1, recipes)] if sam is None else sam
    few = recipes if few is None else few
    free = sum(index is None for index in sam)
    gains = evidence.dice - evidence.dice[..., :1]
    shrunk = _shrink(gains, evidence)
    student = evidence.means()[:, :1]
    student = np.where(np.isnan(student), np.nanmean(student) if evidence.valid.any() else 0.0, student)
    worth = student + shrunk.mean[:, [0 if index is None else index for index in sam]]
    allowed = worth >= _VOTE * student
    possible = np.where(allowed, shrunk.mean, -np.inf)
    best = possible.argmax(axis=1)
    luck, luck_of_few = _luck(gains, evidence, shrunk, allowed, (recipes, few), np.random.default_rng(seed))

    chosen = possible[:, :few].argmax(axis=1)
    for s, index in enumerate(chosen):
        lead = _shrink(gains[..., index, None] - gains[..., : min(free, index)], evidence)
        near = (lead.mean[s] <= _DOUBT * lead.error[s] + luck_of_few[s]) & allowed[s, : min(free, index)]
        chosen[s] = near.argmax() if near.any() else index
    for s, index in enumerate(best):
        lead = _shrink(gains[..., index, None] - gains[..., chosen[s], None], evidence)
        if lead.mean[s, 0] > lead.error[s, 0] + luck[s]:
            chosen[s] = index
    return [
        Verdict(
            recipe=int(c),
            best=int(b),
            gain=float(shrunk.mean[s, c]),
            standard_error=float(shrunk.error[s, c]),
            margin=float(shrunk.mean[s, b]),
            luck=float(luck[s]),
        )
        for s, (c, b) in enumerate(zip(chosen, best, strict=True))
    ]


@dataclass(frozen=True)
class HonestGain:
    """What choosing wins over the simplest recipe on cases that did not choose, in Dice.

    Attributes:
        gain: mean over all cases and structures; nan without cases.
        standard_error: of that, cases being independent and their structures not; nan with fewer than two cases.
        structures: mean per structure, nan where none.
    """

    gain: float
    standard_error: float
    structures: list[float]


def honest_gain(
    evidence: Evidence,
    folds: Sequence[int],
    seed: int,
    sam: Sequence[int | None] | None = None,
    few: int | None = None,
) -> HonestGain:
    """Leave out one fold after the other, decide on the rest, and score the choice on what was left out.

    Args:
        evidence: as for ``decide``.
        folds: of the n cases. All the same: each case is a fold.
        seed, sam, few: as for ``decide``.
    """
    groups = np.asarray(folds)
    if len(np.unique(groups)) < 2:
        groups = np.arange(len(groups))
    gains = np.zeros(evidence.valid.shape)
    for group in np.unique(groups):
        held = groups == group
        if not evidence.valid[~held].any():
            continue  # Nothing to choose by: the simplest stays.
        for s, verdict in enumerate(decide(evidence.rows(~held), seed, sam, few)):
            gains[held, s] = evidence.dice[held, s, verdict.recipe] - evidence.dice[held, s, 0]
    gains *= evidence.valid
    counts = evidence.valid.sum(axis=0)
    each = [
        float(total / count) if count else float("nan") for total, count in zip(gains.sum(axis=0), counts, strict=True)
    ]
    mean, variance = _clustered(gains[..., None], evidence.valid)
    return HonestGain(float(mean[0]), float(np.sqrt(variance[0])), each)


@dataclass(frozen=True)
class _Shrunk:
    """Per structure and recipe, float (S, C): estimate, standard error, and the share of the structure's own cases."""

    mean: Array
    error: Array
    own: Array


def _shrink(values: Array, evidence: Evidence) -> _Shrunk:
    """Draw each structure's mean of ``values`` (n, S, C) towards the mean over all structures."""
    valid = evidence.valid.astype(float)
    count = valid.sum(axis=0)
    pooled, pooled_variance = _clustered(values, evidence.valid)
    mean = _means(values, valid, pooled)
    freedom = np.maximum(count - 1, 0)[:, None]
    squares = np.einsum("ns,nsc->sc", valid, (values - mean) ** 2)
    common = squares.sum(axis=0) / max(freedom.sum(), 1)
    variance = (squares + _PRIOR_CASES * common) / (freedom + _PRIOR_CASES) / np.maximum(count, 1)[:, None]
    enough = (evidence.shown.sum(axis=0) >= MIN_CASES) & (count > 0)
    own = np.zeros_like(mean)
    if enough.sum() > 1:
        differ = ((mean[enough] - mean[enough].mean(axis=0)) ** 2).sum(axis=0) / (enough.sum() - 1)
        between = np.maximum(differ - variance[enough].mean(axis=0), 0)
        total = between + variance[enough]
        own[enough] = np.divide(between, total, out=np.zeros_like(total), where=total > 0)
    shrunk = own * mean + (1 - own) * pooled
    return _Shrunk(shrunk, np.sqrt(own * variance + (1 - own) ** 2 * pooled_variance), own)


def _clustered(values: Array, valid: NDArray[np.bool_]) -> tuple[Array, Array]:
    """Mean (C,) over all cases and structures, and its variance: structures of one case are not independent.

    The variance is widened so that one standard error covers as much as one of many cases does (Student's t); it is
    infinite with a single case.
    """
    total = valid.sum()
    mean = np.einsum("ns,nsc->c", valid, values) / max(total, 1)
    rows = valid.any(axis=1)
    cases = int(rows.sum())
    if cases < 2:
        return mean, np.full_like(mean, np.inf)
    off = np.einsum("ns,nsc->nc", valid, values - mean)
    widen = stats.t.ppf(stats.norm.cdf(1), cases - 1)
    return mean, widen**2 * cases / (cases - 1) * (off**2).sum(axis=0) / total**2


def _means(values: Array, weights: Array, otherwise: Array) -> Array:
    """Weighted means (S, C) over cases; ``otherwise`` (C,) for structures of no weight."""
    count = weights.sum(axis=0)[:, None]
    return np.where(count > 0, np.einsum("ns,nsc->sc", weights, values) / np.maximum(count, 1), otherwise)


def _luck(
    gains: Array, evidence: Evidence, shrunk: _Shrunk, allowed: NDArray[np.bool_], counts: Sequence[int],
    rng: np.random.Generator,
) -> Array:  # fmt: skip
    """What the best of the ``allowed`` recipes (S, C) would gain if every recipe's true gain were 0, found on resampled
    cases: float (len(counts), S), among so many of the first recipes each."""
    cases = len(gains)
    luck = np.zeros((len(counts), gains.shape[1]))
    for draw in rng.multinomial(cases, np.full(cases, 1 / cases), size=_RESAMPLES):
        weights = evidence.valid * draw[:, None]
        pooled = np.einsum("ns,nsc->c", weights, gains) / max(weights.sum(), 1)
        estimate = shrunk.own * _means(gains, weights, pooled) + (1 - shrunk.own) * pooled
        off = np.where(allowed, estimate - shrunk.mean, 0)
        luck += [off[:, :count].max(axis=1) for count in counts]
    return luck / _RESAMPLES
