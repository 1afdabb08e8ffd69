"""The next cases to label, by a strategy of the product or a baseline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from samstudent.active_learning.state import Tables
from samstudent.active_learning.strategies import CasePool, select_case

#: Share of ``foreground``'s draws from cases with a structure: nnActive's better variant draws 66 %.
FOREGROUND_SHARE = 2 / 3
#: Scores that a strategy needs of the unlabelled cases: each costs time.
NEEDS = {
    "foreground": {"seen"},
    "entropy": {"entropy"},
    "disagreement": {"disagreement"},
    "diversity": {"vectors"},
    "mixed": {"entropy", "disagreement", "vectors"},
}


@dataclass(frozen=True)
class Scores:
    """Scores of the unlabelled cases.

    Attributes:
        tables: for the product's strategies.
        seen: case -> structures, by number, that the current student sees in it.
    """

    tables: Tables
    seen: Mapping[str, Sequence[int]]


def pick(
    strategy: str, pool: Sequence[str], labelled: Sequence[str], scores: Scores, count: int, rng: np.random.Generator
) -> list[str]:
    """The next cases to label, one after the other as an annotator asks for them.

    Args:
        strategy: one of ``BASELINES`` or ``active_learning.strategies.STRATEGIES``.
        pool: unlabelled cases.
        labelled: labelled ones.
        scores: of the pool.
        count: how many; fewer come back when the pool is smaller.
        rng: for all that is drawn.
    """
    chosen: list[str] = []
    for _ in range(min(count, len(pool))):
        rest = sorted(set(pool) - set(chosen))
        if strategy == "random":
            case = str(rng.choice(rest))
        elif strategy == "foreground":
            case = _with_foreground(rest, scores.seen, rng)
        else:
            selected = select_case(strategy, CasePool(rest, [*labelled, *chosen]), scores.tables, rng)
            assert selected is not None
            case = selected.case
        chosen.append(case)
    return chosen


def first_cases(cases: Sequence[str], count: int, seed: int) -> list[str]:
    """The cases that are labelled at first: drawn, the same for every strategy."""
    return [str(case) for case in np.random.default_rng(seed).permutation(sorted(cases))[:count]]


def _with_foreground(rest: Sequence[str], seen: Mapping[str, Sequence[int]], rng: np.random.Generator) -> str:
    if rng.random() < FOREGROUND_SHARE and (present := sorted({s for case in rest for s in seen.get(case, ())})):
        structure = rng.choice(present)
        rest = [case for case in rest if structure in seen.get(case, ())]
    return str(rng.choice(list(rest)))
