"""Selection of the case to label next: pure functions from tables of scores to a case."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import sklearn.metrics as metrics
from numpy.typing import NDArray
from scipy import stats

from samstudent.active_learning.state import Tables
from samstudent.errors import UserError

Strategy = Literal["uniform", "entropy", "disagreement", "diversity", "mixed"]
STRATEGIES: tuple[Strategy, ...] = get_args(Strategy)


@dataclass(frozen=True)
class CasePool:
    """Cases of a study from which one is selected.

    Attributes:
        candidates: cases without a label that this client may be given.
        labelled: cases with a label, or being labelled now.
        holdout: reserved cases.
        fraction: share of the labelled cases that the hold-out should be.
        first: cases that a reviewer sent; those among the candidates come before all others, in this order.
    """

    candidates: Collection[str]
    labelled: Collection[str] = ()
    holdout: frozenset[str] = frozenset()
    fraction: float = 0.0
    first: Sequence[str] = ()


@dataclass(frozen=True)
class SelectedCase:
    """A case to label.

    Attributes:
        case: its id.
        by: what selected it: the strategy, the one it fell back to, ``hold-out``, or ``review``: a reviewer sent it to
            the annotators.
        score: the strategy's own figure for it, higher is better; None where it was drawn.
    """

    case: str
    by: str
    score: float | None = None


def select_case(strategy: str, pool: CasePool, tables: Tables, rng: np.random.Generator) -> SelectedCase | None:
    """The case to label next.

    Strategies:
        - ``uniform``: drawn, each as likely.
        - ``entropy``: the highest entropy of the student's pixels.
        - ``disagreement``: the lowest agreement of student and SAM.
        - ``diversity``: the farthest, in SAM's embedding space, from everything labelled (farthest first, a greedy
          k-centre: Sener and Savarese, ICLR 2018). With nothing labelled, the most typical: closest to the mean.
        - ``mixed``: the highest mean of two ranks, that of uncertainty (the mean of entropy's and disagreement's) and
          that of diversity, so that neither scale outweighs the other.

    Entropy and disagreement fall back to diversity while no candidate has a score (no student yet), diversity to
    uniform while none has a vector. A candidate without a score while others have one counts as a middling one in
    ``mixed``, and is passed over by the rest. Ties are drawn.

    The strategy does not select cases of the hold-out: selected by it they would be an unfair sample, for instance the
    hardest ones. One is drawn, each as likely, while fewer than ``fraction`` of the labelled cases are of the
    hold-out, and when nothing else is left.

    Args:
        strategy: one of ``STRATEGIES``.
        pool: candidates, labelled and reserved cases.
        tables: scores and vectors.
        rng: for all that is drawn.

    Returns:
        None when there is no candidate.

    Raises:
        UserError: no such strategy.
    """
    if strategy not in STRATEGIES:
        raise UserError(f"strategy {strategy!r}: there are {', '.join(STRATEGIES)}")
    labelled, holdout = set(pool.labelled), pool.holdout
    # Sorted, so that the same state and seed select the same case whatever order the datastore lists them in.
    candidates = sorted(set(pool.candidates) - labelled)
    if sent := next((case for case in pool.first if case in candidates), None):
        return SelectedCase(sent, "review")
    reserved = [case for case in candidates if case in holdout]
    free = [case for case in candidates if case not in holdout]
    if reserved and (not free or len(labelled & holdout) < pool.fraction * len(labelled)):
        return SelectedCase(str(rng.choice(reserved)), "hold-out")
    if not free:
        return None
    # Cases of the hold-out do not train: to be like one is no reason to be passed over.
    ranked = _figures(strategy, free, labelled - holdout, tables)
    if ranked is None:
        return SelectedCase(str(rng.choice(free)), "uniform")
    by, figures = ranked
    best = max(figures.values())
    ties = [case for case, figure in figures.items() if figure == best]
    return SelectedCase(str(rng.choice(ties)), by, best)


def _figures(strategy: str, pool: list[str], labelled: set[str], tables: Tables) -> tuple[str, dict[str, float]] | None:
    """What was applied, and each case's figure by it; None: nothing to go by."""
    entropy, disagreement = _known(tables.entropy, pool), _known(tables.disagreement, pool)
    if strategy == "entropy" and entropy:
        return "entropy", entropy
    if strategy == "disagreement" and disagreement:
        return "disagreement", disagreement
    if strategy == "uniform":
        return None
    distance = _diversity(pool, labelled, tables.vectors)
    if strategy == "mixed" and (entropy or disagreement):
        uncertainty = [_ranks(scores, pool) for scores in (entropy, disagreement) if scores]
        mean = np.mean([np.mean(uncertainty, axis=0), _ranks(distance, pool)], axis=0)
        return "mixed", dict(zip(pool, mean.tolist(), strict=True))
    return ("diversity", distance) if distance else None


def _known(scores: Mapping[str, float], pool: list[str]) -> dict[str, float]:
    return {case: scores[case] for case in pool if case in scores}


def _diversity(pool: list[str], labelled: set[str], vectors: Mapping[str, NDArray[np.float32]]) -> dict[str, float]:
    """Each case's distance to the nearest labelled one; with none, minus its distance to the mean of the pool."""
    known = [case for case in pool if case in vectors]
    if not known:
        return {}
    points = np.stack([vectors[case] for case in known])
    covered = [vectors[case] for case in sorted(labelled) if case in vectors]
    if covered:
        _, distance = metrics.pairwise_distances_argmin_min(points, np.stack(covered))
    else:
        distance = -np.linalg.norm(points - points.mean(axis=0), axis=1)
    return dict(zip(known, distance.tolist(), strict=True))


def _ranks(scores: Mapping[str, float], pool: list[str]) -> NDArray[np.float64]:
    """Ranks of the pool's cases, scaled to [0, 1], equal for equals; 0.5 for those without a score."""
    known = [case for case in pool if case in scores]
    ranks = (stats.rankdata([scores[case] for case in known]) - 0.5) / max(len(known), 1)
    place = dict(zip(known, ranks.tolist(), strict=True))
    return np.array([place.get(case, 0.5) for case in pool])
