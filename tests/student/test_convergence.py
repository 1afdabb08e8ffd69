"""Trainings of drawn curves: the Dice of each step is known, and so is where they end."""

from __future__ import annotations

import math

import numpy as np
import pytest

from samstudent.student.convergence import DECAY, FixedSteps, Length, Point, UntilConverged, rise_of


class Clock:
    """A clock that a step moves by a second."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def run(length: Length, dice: list[float] | None = None, clock: Clock | None = None, flat_from: int = 10**9) -> int:
    """Steps of a training whose Dice rises by 0.001 a step up to ``flat_from``, or is as given."""
    for step in range(1, 100_000):
        length.factor(step - 1)
        if clock is not None:
            clock.now += 1
        value = dice[step - 1] if dice else 0.001 * min(step, flat_from)
        if length.done(step, value):
            return step
    raise AssertionError("it does not end")


def test_a_fixed_number_of_steps() -> None:
    length = FixedSteps(60)
    assert run(length) == 60 and length.ending == "fixed"
    assert [point.step for point in length.curve] == [25, 50, 60]
    assert length.curve[0].train == pytest.approx(0.013)  # mean of 0.001 to 0.025
    rates = [length.factor(step) for step in range(60)]
    assert rates[:3] == pytest.approx([1 / 3, 2 / 3, 1])
    assert rates[2:] == sorted(rates[2:], reverse=True) and 0 < rates[-1] < 0.01


def test_a_training_ends_after_its_dice_has_stopped_rising() -> None:
    length = UntilConverged(math.inf)
    steps = run(length, flat_from=400)
    assert length.ending == "converged" and length.steps == steps
    constant = round(steps / (1 + DECAY))
    # It compares quarters of the steps so far: flat from 400 on is seen between 533 (last quarter) and 800 (last two).
    assert 533 <= constant <= 800
    assert length.factor(constant - 1) == 1 and length.factor(steps - 1) < 0.02
    rates = [length.factor(step) for step in range(constant, steps)]
    assert rates == sorted(rates, reverse=True)
    assert length.curve[-1].step == steps


def test_a_training_that_is_slower_takes_longer() -> None:
    assert run(UntilConverged(math.inf), flat_from=1600) > 2.5 * run(UntilConverged(math.inf), flat_from=400)


def test_validation_that_still_rises_prolongs_a_training() -> None:
    values = iter([0.1 * i for i in range(1, 8)] + [0.8] * 1000)
    alone, checked = UntilConverged(math.inf), UntilConverged(math.inf, lambda coarse: next(values))
    assert run(checked, flat_from=100) > run(alone, flat_from=100)
    assert checked.ending == "converged" and checked.curve[-1].validation == 0.8


def test_the_budget_ends_a_training_in_time() -> None:
    clock = Clock()
    length = UntilConverged(1400, clock=clock)
    assert run(length, clock=clock) == pytest.approx(1400, abs=60)  # a step takes a second
    assert length.ending == "budget" and length.rise is not None and length.rise > 0.005


def test_the_expected_number_of_steps_is_that_of_the_budget_and_then_exact() -> None:
    clock = Clock()
    length = UntilConverged(1000, clock=clock)
    length.factor(0)
    clock.now += 10
    length.done(10, 0.1)
    assert length.expected(10) == 1000
    steps = run(length, clock=clock)
    assert length.expected(steps - 1) == steps


def test_cases_without_a_structure_give_no_validation_dice() -> None:
    length = UntilConverged(math.inf, lambda coarse: math.nan)
    run(length, flat_from=100)
    assert length.ending == "converged" and all(point.validation is None for point in length.curve)


def test_the_rise_of_a_curve_is_the_larger_of_training_and_validation() -> None:
    flat = [Point(step, 0.5, 0.2 if step < 80 else 0.3) for step in range(10, 101, 10)]
    assert rise_of(flat) == pytest.approx(0.1 * 3 / 3, abs=0.04)
    assert rise_of([Point(step, 0.5) for step in range(10, 101, 10)]) == 0
    assert rise_of([Point(25, 0.5)]) == math.inf


def test_noise_of_validation_does_not_prolong_a_training() -> None:
    rng = np.random.default_rng(0)
    lengths = [
        run(UntilConverged(math.inf, lambda coarse: 0.5 + float(rng.normal(0, 0.05))), flat_from=100) for _ in range(40)
    ]
    alone = run(UntilConverged(math.inf), flat_from=100)
    assert np.mean(lengths) < 1.6 * alone
