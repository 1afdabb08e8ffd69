"""Length of a training and learning rate of its steps: a fixed number of steps, or until the student has converged.

A cosine needs the number of steps in advance. Where it is not known, the rate stays constant until Dice has stopped
rising, and then falls (warm-up, stable, decay: Hu et al., MiniCPM, 2024, arXiv:2404.06395).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import variance
from typing import Literal, Protocol

#: Fraction of the steps over which the learning rate rises.
WARM_UP = 0.05
#: Steps of the rise where their number is not known.
_WARM_UP_STEPS = 30
#: Steps between two points of the curve.
INTERVAL = 25
#: A training has not converged while Dice of the last quarter of its steps is higher than that of the quarter before by
#: at least this much (``rise_of``).
RISE = 0.005
_QUARTER = 0.25
#: Steps before which no training ends.
_LEAST = 300
#: Steps at a falling rate, as a share of those at a constant one.
DECAY = 0.4

#: Share of a fixed number of steps with smaller images.
COARSE = 0.6

Ending = Literal["fixed", "converged", "budget"]


@dataclass(frozen=True)
class Point:
    """Point of a training's curve.

    Attributes:
        step: number of the step, from 1.
        train: mean soft Dice of the batches since the point before, augmented and with their pseudo labels.
        validation: Dice on cases that do not train; None: not measured at this step.
    """

    step: int
    train: float
    validation: float | None = None


class Length(Protocol):
    """Length of a training, decided before or during it."""

    def factor(self, step: int) -> float:
        """Learning rate of a step (from 0) relative to the highest."""

    def done(self, step: int, dice: float) -> bool:
        """Take the soft Dice of a step (from 1); whether it was the last one."""

    def expected(self, step: int) -> int:
        """Number of all steps, as far as it is known after a step."""

    def ramp(self, step: int) -> float:
        """Progress, 0 to 1, of a part of the loss whose weight rises over the steps (from 1)."""

    def coarse(self, step: int) -> bool:
        """Whether a step (from 0) takes smaller images (``network.coarse_size``)."""


def cosine(step: int, steps: int) -> float:
    """Relative learning rate of a step (from 0): a short rise, then half a cosine down to nearly 0."""
    rise = max(1, round(WARM_UP * steps))
    if step < rise:
        return (step + 1) / rise
    return 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1, steps - rise)))


@dataclass
class FixedSteps:
    """A number of steps."""

    steps: int
    curve: list[Point] = field(default_factory=list)
    ending: Ending = "fixed"
    rise: float | None = None
    _recent: list[float] = field(default_factory=list)

    def factor(self, step: int) -> float:
        """See ``cosine``."""
        return cosine(step, self.steps)

    def done(self, step: int, dice: float) -> bool:
        """See ``Length``."""
        self._recent.append(dice)
        if step % INTERVAL == 0 or step == self.steps:
            self.curve.append(Point(step, _mean(self._recent)))
            self._recent.clear()
        return step >= self.steps

    def expected(self, step: int) -> int:
        """See ``Length``."""
        return self.steps

    def ramp(self, step: int) -> float:
        """See ``Length``."""
        return step / self.steps

    def coarse(self, step: int) -> bool:
        """See ``Length``."""
        return step < COARSE * self.steps


class UntilConverged:
    """As many steps as it takes until Dice has stopped rising, within a budget of time.

    Args:
        budget: seconds for the whole training.
        validate: Dice on cases that do not train, computed at growing distances, with smaller images or not
            (``coarse``); None: there are none.
        fine: time of a step relative to a ``coarse`` one.
        clock: seconds.
    """

    def __init__(
        self,
        budget: float,
        validate: Callable[[bool], float] | None = None,
        fine: float = 1.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.curve: list[Point] = []
        self.ending: Ending | None = None
        #: Rise of Dice (``rise_of``) when the constant rate ended; None: too few points.
        self.rise: float | None = None
        self._budget, self._validate, self._fine, self._clock = budget, validate, fine, clock
        self._start: float | None = None
        self._recent: list[float] = []
        self._validated = 0
        #: Steps at a constant rate, and of all; None: not yet known.
        self._constant: int | None = None
        self.steps: int | None = None

    def factor(self, step: int) -> float:
        """Rise, constant rate, and from the decision on a line down to nearly 0."""
        if self._start is None:
            self._start = self._clock()
        if self._constant is None or self.steps is None or step < self._constant:
            return min(1.0, (step + 1) / _WARM_UP_STEPS)
        return max(0.01, 1 - (step - self._constant) / (self.steps - self._constant))

    def done(self, step: int, dice: float) -> bool:
        """See ``Length``."""
        self._recent.append(dice)
        if self.steps is not None:
            if step % INTERVAL == 0 or step >= self.steps:
                self._add(step, self._measure(step) if step >= self.steps else None)
            return step >= self.steps
        if step % INTERVAL and not self._out_of_time():
            return False
        # At growing distances: it takes time, and the windows that are compared grow, too.
        due = self._validate is not None and step >= self._validated + max(2 * INTERVAL, 0.1 * step)
        self._add(step, self._measure(step) if due else None)
        if due:
            self._validated = step
        if step >= _LEAST and not self.rising():
            self._decay(step, "converged")
        elif self._out_of_time():
            self._decay(step, "budget")
        return False

    def expected(self, step: int) -> int:
        """All steps; before the decision those that the budget allows."""
        if self.steps is not None:
            return self.steps
        elapsed = self._clock() - (self._start or 0.0)
        constant = step * self._constant_budget / max(elapsed, 1e-3)
        return max(step + 1, math.ceil((1 + DECAY) * constant))

    def ramp(self, step: int) -> float:
        """Over the fewest steps of a training, because their number is not known."""
        return min(1.0, step / _LEAST)

    def coarse(self, step: int) -> bool:
        """The steps at a constant rate."""
        return self._constant is None or step < self._constant

    def rising(self) -> bool:
        """Whether the Dice of training or validation still rises."""
        return rise_of(self.curve) >= RISE

    def _measure(self, step: int) -> float | None:
        if self._validate is None:
            return None
        dice = self._validate(self.coarse(step - 1))
        return dice if math.isfinite(dice) else None  # the cases show no structure

    def _add(self, step: int, validation: float | None) -> None:
        self.curve.append(Point(step, _mean(self._recent), validation))
        self._recent.clear()

    def _out_of_time(self) -> bool:
        assert self._start is not None
        return self._clock() - self._start >= self._constant_budget

    @property
    def _constant_budget(self) -> float:
        """Seconds for the steps at a constant rate, so that there is time for the rest."""
        return self._budget / (1 + DECAY * self._fine)

    def _decay(self, step: int, ending: Ending) -> None:
        rise = rise_of(self.curve)
        self.ending, self.rise, self._constant = ending, rise if math.isfinite(rise) else None, step
        self.steps = step + max(1, round(DECAY * step))


def rise_of(curve: Sequence[Point]) -> float:
    """Rise of Dice from the quarter before the last to the last quarter of the steps, less its standard error: the
    larger one of training and validation; infinite where it is not known yet.

    The error matters for validation: Dice on a few left-out cases changes by several points from one check to the next.
    """
    last = curve[-1].step
    train = [(point.step, point.train) for point in curve]
    checked = [(point.step, point.validation) for point in curve if point.validation is not None]
    return max(_rise(train, last), _rise(checked, last) if checked else -math.inf)


def _rise(points: Sequence[tuple[int, float]], last: int) -> float:
    """Mean of the last quarter of the steps less that of the quarter before and the standard error of the difference;
    infinite where one has no point."""
    span = _QUARTER * last
    late = [value for step, value in points if step > last - span]
    before = [value for step, value in points if last - 2 * span < step <= last - span]
    if not (late and before):
        return math.inf
    error = math.sqrt(sum(variance(part) / len(part) for part in (late, before) if len(part) > 1))
    return _mean(late) - _mean(before) - error


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else math.nan
