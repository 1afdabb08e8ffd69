"""Selection of the next cases to label, by a strategy of the product or a baseline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from samstudent.active_learning.state import Tables
from samstudent.active_learning.strategies import CasePool, select_case

#: Share of cases that ``foreground`` draws from those with a structure: 66 % in nnActive's better variant.
FOREGROUND_SHARE = 2 / 3
#: Scores of the unlabelled cases that a strategy needs; each costs time.
NEEDS = {
    "foreground": {"predicted"},
    "entropy": {"entropy"},
    "disagreement": {"disagreement"},
    "diversity": {"vectors"},
    "mixed": {"entropy", "disagreement", "vectors"},
}


@dataclass(frozen=True)
class Scores:
    """Scores of the unlabelled cases.

    Attributes:
        tables: scores for the product's strategies.
        predicted: case -> numbers of the structures that the current student predicts in it.
    """

    tables: Tables
    predicted: Mapping[str, Sequence[int]]


def pick(
    strategy: str, pool: Sequence[str], labelled: Sequence[str], scores: Scores, count: int, rng: np.random.Generator
) -> list[str]:
    """Select the next cases to label, one after the other as for an annotator.

    Args:
        strategy: one of ``BASELINES`` or ``active_learning.strategies.STRATEGIES``.
        pool: unlabelled cases.
        labelled: labelled cases.
        scores: scores of the pool.
        count: number of cases; fewer are returned if the pool is smaller.
        rng: random generator.
    """
    chosen: list[str] = []
    for _ in range(min(count, len(pool))):
        rest = sorted(set(pool) - set(chosen))
        if strategy == "random":
            case = str(rng.choice(rest))
        elif strategy == "foreground":
            case = _with_foreground(rest, scores.predicted, rng)
        else:
            selected = select_case(strategy, CasePool(rest, [*labelled, *chosen]), scores.tables, rng)
            assert selected is not None
            case = selected.case
        chosen.append(case)
    return chosen


def first_cases(cases: Sequence[str], count: int, seed: int) -> list[str]:
    """Cases that are labelled first: random, the same for every strategy."""
    return [str(case) for case in np.random.default_rng(seed).permutation(sorted(cases))[:count]]


def _with_foreground(rest: Sequence[str], predicted: Mapping[str, Sequence[int]], rng: np.random.Generator) -> str:
    if rng.random() < FOREGROUND_SHARE and (present := sorted({s for case in rest for s in predicted.get(case, ())})):
        structure = rng.choice(present)
        rest = [case for case in rest if structure in predicted.get(case, ())]
    return str(rng.choice(list(rest)))
