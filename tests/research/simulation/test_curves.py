"""Learning curves and their comparison."""

from __future__ import annotations

import numpy as np
import pytest

from samstudent.research.simulation.curves import area, compared, curves_of


def test_area_is_the_mean_dice_between_the_first_and_the_last_number_of_labels() -> None:
    assert area([5, 10, 15], [0.5, 0.7, 0.7]) == pytest.approx((0.6 + 0.7) / 2)
    assert area([5, 15, 20], [0.0, 1.0, 1.0]) == pytest.approx((10 * 0.5 + 5) / 15)
    assert area([5], [0.4]) == 0.4


def test_strategies_are_compared_with_baselines_of_the_same_seed() -> None:
    rounds = [
        {"strategy": strategy, "seed": seed, "round": r, "labelled": ["x"] * (2 + 2 * r), "dice": dice}
        for strategy, by_seed in {"random": [0.5, 0.7], "entropy": [0.6, 0.78], "mixed": [0.9]}.items()
        for seed, dice in enumerate(by_seed)
        for r in range(2)
    ]
    unfinished = {"strategy": "mixed", "seed": 1, "round": 0, "labelled": ["x"], "dice": 0.1}
    curves = curves_of([*rounds, unfinished], 1)
    mixed, entropy, random = compared(curves)
    assert [row["strategy"] for row in (mixed, entropy, random)] == ["mixed", "entropy", "random"]
    assert entropy["mean"] == pytest.approx(0.69) and entropy["spread"] == pytest.approx(0.127, abs=1e-3)
    assert entropy["over_random"]["mean"] == pytest.approx(0.09)
    assert entropy["over_random"]["spread"] == pytest.approx(np.std([0.1, 0.08], ddof=1))
    assert (entropy["over_random"]["ahead"], entropy["over_random"]["seeds"]) == (2, 2)
    assert mixed["over_random"]["seeds"] == 1 and mixed["spread"] is None and "over_foreground" not in mixed
    assert "over_random" not in random
