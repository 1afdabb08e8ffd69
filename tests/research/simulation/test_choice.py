"""Selection of the next cases to label."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest

from samstudent.active_learning.state import Tables
from samstudent.research.simulation.choice import Scores, first_cases, pick

POOL = ["a", "b", "c", "d", "e", "f"]


def scores(**tables: Any) -> Scores:
    predicted = tables.pop("predicted", {})
    return Scores(Tables(**tables), predicted)


def test_strategies_of_the_server_select_cases_in_sequence() -> None:
    rng = np.random.default_rng(0)
    entropy = {case: i / 10 for i, case in enumerate(POOL)}
    assert pick("entropy", POOL, ["x"], scores(entropy=entropy), 3, rng) == ["f", "e", "d"]
    # c and d are alike: the second of them teaches little once the first is labelled.
    vectors = {case: np.array([v], np.float32) for case, v in zip([*POOL, "x"], [0, 1, 9, 9.1, 5, 2, 0], strict=True)}
    assert pick("diversity", POOL, ["x"], scores(vectors=vectors), 2, rng) == ["d", "e"]
    assert sorted(pick("random", POOL, [], scores(), 9, rng)) == POOL


def test_foreground_strategy_prefers_cases_with_rare_predicted_structures() -> None:
    pool = [f"case{i}" for i in range(100)]
    # One structure in 20 cases, another in one of them alone.
    predicted = {case: [0, 1] if i == 0 else [0] if i < 20 else [] for i, case in enumerate(pool)}
    drawn = Counter(
        pick("foreground", pool, [], scores(predicted=predicted), 1, np.random.default_rng(i))[0] for i in range(3000)
    )
    with_structure = sum(drawn[case] for case in pool[:20]) / 3000
    assert with_structure == pytest.approx(2 / 3 + 1 / 3 * 0.2, abs=0.03)
    assert drawn["case0"] / 3000 == pytest.approx(2 / 3 * (1 / 2 + 1 / 2 / 20) + 1 / 3 / 100, abs=0.03)
    assert len(pick("foreground", pool, [], scores(), 5, np.random.default_rng(0))) == 5  # a blind student


def test_all_strategies_of_a_seed_start_alike() -> None:
    assert first_cases(POOL, 3, 1) == first_cases(POOL[::-1], 3, 1) != first_cases(POOL, 3, 2)
