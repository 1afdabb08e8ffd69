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
        candidates: cases without a label that may be offered to the client.
        labelled: cases with a label, or being labelled now.
        holdout: reserved cases.
        fraction: fraction of the labelled cases that should be of the hold-out.
        first: cases sent by a reviewer; candidates among them come first, in this order.
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
        by: the strategy that selected it (after fallbacks), ``hold-out``, or ``review`` for a case sent by a reviewer.
        score: score of the strategy, higher is better; None where the case was drawn at random.
    """

    case: str
    by: str
    score: float | None = None


def select_case(strategy: str, pool: CasePool, tables: Tables, rng: np.random.Generator) -> SelectedCase | None:
    """The case to label next.

    Strategies:
        - ``uniform``: at random.
        - ``entropy``: the highest entropy of the student's pixels.
        - ``disagreement``: the lowest agreement of student and SAM.
        - ``diversity``: the farthest, in SAM's embedding space, from everything labelled (farthest first, a greedy
          k-centre: Sener and Savarese, ICLR 2018). With nothing labelled, the most typical: closest to the mean.
        - ``mixed``: the highest mean of two ranks, that of uncertainty (the mean of entropy's and disagreement's) and
          that of diversity, so that neither scale outweighs the other.

    Entropy and disagreement fall back to diversity while no candidate has a score (no student yet), diversity to
    uniform while none has a vector. A candidate without a score while others have one has the middle rank in ``mixed``,
    and is not selected by the other strategies. Ties are resolved at random.

    A strategy does not select cases of the hold-out: they would be a biased sample, for instance the hardest ones. They
    are drawn at random while fewer than ``fraction`` of the labelled cases are of the hold-out, and when no other
    candidate is left.

    Args:
        strategy: one of ``STRATEGIES``.
        pool: candidates, labelled and reserved cases.
        tables: scores and vectors.
        rng: random generator.

    Returns:
        None when there is no candidate.

    Raises:
        UserError: no such strategy.
    """
    if strategy not in STRATEGIES:
        raise UserError(f"strategy {strategy!r}: there are {', '.join(STRATEGIES)}")
    labelled, holdout = set(pool.labelled), pool.holdout
    # Sorted, so that the selection does not depend on the order in the datastore.
    candidates = sorted(set(pool.candidates) - labelled)
    if sent := next((case for case in pool.first if case in candidates), None):
        return SelectedCase(sent, "review")
    reserved = [case for case in candidates if case in holdout]
    free = [case for case in candidates if case not in holdout]
    if reserved and (not free or len(labelled & holdout) < pool.fraction * len(labelled)):
        return SelectedCase(str(rng.choice(reserved)), "hold-out")
    if not free:
        return None
    # Cases of the hold-out do not train, so similarity to them does not count.
    ranked = _figures(strategy, free, labelled - holdout, tables)
    if ranked is None:
        return SelectedCase(str(rng.choice(free)), "uniform")
    by, figures = ranked
    best = max(figures.values())
    ties = [case for case, figure in figures.items() if figure == best]
    return SelectedCase(str(rng.choice(ties)), by, best)


def _figures(strategy: str, pool: list[str], labelled: set[str], tables: Tables) -> tuple[str, dict[str, float]] | None:
    """Strategy after fallbacks, and score of each case; None: uniform."""
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
    """Distance of each case to the nearest labelled one; without any, minus its distance to the mean of the pool."""
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
    """Ranks of the pool's cases, scaled to [0, 1], equal for equal scores; 0.5 for those without a score."""
    known = [case for case in pool if case in scores]
    ranks = (stats.rankdata([scores[case] for case in known]) - 0.5) / max(len(known), 1)
    place = dict(zip(known, ranks.tolist(), strict=True))
    return np.array([place.get(case, 0.5) for case in pool])
