"""Selection strategies on synthetic tables with known results."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from samstudent.active_learning.state import Tables
from samstudent.active_learning.strategies import STRATEGIES, CasePool, select_case
from samstudent.errors import UserError


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def points(**xy: tuple[float, float]) -> dict[str, np.ndarray]:
    return {case: np.array(v, dtype=np.float32) for case, v in xy.items()}


def select(strategy: Any, candidates: Any, labelled: Any, tables: Tables, rng: Any, *pool: Any, **first: Any) -> Any:
    return select_case(strategy, CasePool(candidates, labelled, *pool, **first), tables, rng)


LINE = points(a=(0, 0), b=(1, 0), c=(2, 0), d=(10, 0))
FULL = Tables({"a": 0.1, "b": 0.9, "c": 0.5}, {"a": 0.8, "b": 0.2, "c": 0.3}, LINE)

names = st.sampled_from([f"case{i}" for i in range(8)])
share = st.floats(0, 1, width=32)
tables = st.builds(
    Tables,
    st.dictionaries(names, share),
    st.dictionaries(names, share),
    st.dictionaries(names, st.lists(share, min_size=3, max_size=3).map(lambda v: np.array(v, dtype=np.float32))),
)


@given(
    strategy=st.sampled_from(STRATEGIES),
    candidates=st.sets(names),
    labelled=st.sets(names),
    tables=tables,
    holdout=st.frozensets(names),
    fraction=st.sampled_from([0.0, 0.2, 0.5]),
    seed=st.integers(0, 5),
)
def test_selection_is_valid_for_any_missing_data(strategy, candidates, labelled, tables, holdout, fraction, seed):
    """A selection exactly if there is a candidate, independent of their order, with the share of the hold-out."""

    def ask(order):
        return select(strategy, order, labelled, tables, rng(seed), holdout, fraction)

    choice = ask(sorted(candidates))
    assert choice == ask(sorted(candidates, reverse=True))
    pool = candidates - labelled
    assert (choice is None) == (not pool)
    if choice is None:
        return
    assert choice.case in pool
    short = len(labelled & holdout) < fraction * len(labelled)
    wants_holdout = bool(pool & holdout) and (short or not pool - holdout)
    assert (choice.case in holdout) == wants_holdout == (choice.by == "hold-out")


def test_least_certain_case_is_selected():
    assert select("entropy", "abcd", [], FULL, rng()).case == "b"
    assert select("disagreement", "abcd", [], FULL, rng()).case == "a"
    assert select("entropy", "ac", [], FULL, rng()).score == 0.5


def test_farthest_case_is_selected():
    assert select("diversity", "bcd", "a", FULL, rng()).case == "d"
    assert select("diversity", "bc", "ad", FULL, rng()).case == "c"


def test_first_case_is_the_most_typical():
    square = points(a=(0, 0), b=(0, 2), c=(2, 0), d=(2, 2), middle=(1, 1.1))
    choice = select("diversity", square, [], Tables(vectors=square), rng())
    assert (choice.case, choice.by) == ("middle", "diversity")
    # A labelled case without a vector says nothing about where.
    assert select("diversity", square, ["unknown"], Tables(vectors=square), rng()).case == "middle"


def test_hold_out_cases_do_not_count_as_covered():
    """A labelled hold-out case does not train, so a case similar to it is as valuable as any other."""
    near = points(held=(10, 0), d=(10, 0.1), b=(1, 0), a=(0, 0))
    assert select("diversity", "bd", ["a", "held"], Tables(vectors=near), rng(), frozenset(["held"])).case == "d"


def test_mixed_strategy_weighs_ranks():
    vectors = points(x=(0, 0), near=(1, 0), middle=(5, 0), far=(1000, 0))
    scores = {"near": 0.9, "middle": 0.8, "far": 0.1}
    # near: ranks 3 and 1; middle: 2 and 2; far: 1 and 3 -> equal by entropy; disagreement decides.
    tables = Tables(scores, {"near": 0.1, "middle": 0.9, "far": 0.2}, vectors)
    choice = select("mixed", ["near", "middle", "far"], ["x"], tables, rng())
    assert (choice.case, choice.by) == ("middle", "mixed")


@pytest.mark.parametrize(
    ("strategy", "tables", "by"),
    [
        ("mixed", FULL, "mixed"),
        ("mixed", Tables(FULL.entropy, {}, {}), "mixed"),
        ("mixed", Tables({}, {}, LINE), "diversity"),
        ("mixed", Tables(), "uniform"),
        ("entropy", Tables({}, {}, LINE), "diversity"),
        ("disagreement", Tables(), "uniform"),
        ("diversity", Tables(FULL.entropy, {}, {}), "uniform"),
        ("uniform", FULL, "uniform"),
    ],
)
def test_strategies_fall_back_without_data(strategy: str, tables: Tables, by: str):
    assert select(strategy, "abc", [], tables, rng()).by == by


@pytest.mark.parametrize("tables", [Tables(), Tables(dict.fromkeys("abcd", 0.5))])
def test_ties_are_broken_uniformly(tables: Tables):
    draws = Counter(select("entropy", "abcd", [], tables, rng(seed)).case for seed in range(400))
    assert set(draws) == set("abcd") and min(draws.values()) > 60


def test_hold_out_cases_are_selected_independently_of_scores():
    hard = Tables({"hard": 1.0, "easy": 0.0, "free": 0.5})
    drawn = Counter(
        select("entropy", ["hard", "easy", "free"], ["l"], hard, rng(seed), frozenset(["hard", "easy"]), 0.2).case
        for seed in range(200)
    )
    assert set(drawn) == {"hard", "easy"} and min(drawn.values()) > 60


def test_labelling_selected_cases_preserves_the_share_of_the_hold_out():
    cases = {f"{i:02}" for i in range(50)}
    holdout = frozenset(sorted(cases)[::5])
    labelled: set[str] = set()
    for n in range(1, 51):
        labelled.add(select("uniform", cases - labelled, labelled, Tables(), rng(n), holdout, 0.2).case)
        assert abs(len(labelled & holdout) - 0.2 * n) <= 1
    assert select("uniform", [], labelled, Tables(), rng(), holdout, 0.2) is None


def test_an_unknown_strategy_is_named():
    with pytest.raises(UserError, match=r"'best'.*uniform, entropy"):
        select("best", "a", [], Tables(), rng())


def test_sent_cases_are_selected_first() -> None:
    """Before hold-out cases, in the order of the review, and only if they are candidates."""

    def ask(*candidates: str) -> tuple[str, str]:
        choice = select("entropy", candidates, ["z"], FULL, rng(), frozenset("d"), 1.0, first=["x", "c", "a"])
        assert choice is not None
        return choice.case, choice.by

    assert ask("a", "b", "c", "d") == ("c", "review")
    assert ask("a", "b", "d") == ("a", "review")
    assert ask("b", "d") == ("d", "hold-out")
