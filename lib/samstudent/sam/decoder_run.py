"""Training of a private copy of a part of SAM: steps, optimizer and learning rate, for boxes (``adapt_run``) and clicks
(``click_training``)."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Protocol

import numpy as np
import torch

from samstudent.errors import UserError
from samstudent.sam.adapted import Weights, over_model, private_copy
from samstudent.sam.model import SamModel
from samstudent.sam.prompts import Box
from samstudent.util.device import half_precision

#: Fraction of the steps over which the learning rate rises.
_WARM_UP = 0.1
_WEIGHT_DECAY = 1e-4
#: Largest norm of a gradient.
_CLIP = 1.0


class RunOptions(Protocol):
    """Options of every training: number of steps, and the highest learning rate (``rate_factor``)."""

    @property
    def steps(self) -> int: ...
    @property
    def learning_rate(self) -> float: ...


class DecoderRun(ABC):
    """One training of a private copy of a backend.

    Args:
        plain: the backend; loaded, not changed.
        is_trained: whether a weight of this name is trained; all others are shared with ``plain``.
        options: of the training.

    Attributes:
        purpose, consequence: of the training, and of its failure, for the error.
        backend: backend with the copy; may decode at any time.
    """

    purpose: str
    consequence: str = ""

    def __init__(self, plain: SamModel, is_trained: Callable[[str], bool], options: RunOptions) -> None:
        model = plain.load()
        copy = private_copy(model, [name for name, _ in model.named_parameters() if is_trained(name)])
        self.backend = over_model(plain, copy)
        self._steps, self._rate = options.steps, options.learning_rate
        self._parameters = {name: parameter for name, parameter in copy.named_parameters() if parameter.requires_grad}
        self._optimizer = torch.optim.AdamW(
            self._parameters.values(), lr=options.learning_rate, weight_decay=_WEIGHT_DECAY
        )
        # Only float16 loses small gradients.
        half = half_precision(plain.device)
        self._scaler = torch.amp.GradScaler(plain.device.type, enabled=half == torch.float16)
        self._step = 0

    def train(self, until: int, on_step: Callable[[int, float], None] = lambda step, loss: None) -> None:
        """Train until ``until`` steps are done; ``on_step`` is called with their number and the loss.

        Raises:
            UserError: the loss is not finite.
        """
        while self._step < until:
            for group in self._optimizer.param_groups:
                group["lr"] = self._rate * rate_factor(self._step, self._steps)
            self._optimizer.zero_grad(set_to_none=True)
            loss = self._gradients()
            if not math.isfinite(loss):
                raise UserError(f"{self.purpose}: the loss is {loss} at step {self._step + 1}{self.consequence}")
            # None of an example whose masks are too thin for the low resolution; the scaler needs one.
            if any(parameter.grad is not None for parameter in self._parameters.values()):
                self._scaler.unscale_(self._optimizer)
                torch.nn.utils.clip_grad_norm_(self._parameters.values(), _CLIP)
                self._scaler.step(self._optimizer)
                self._scaler.update()
            self._step += 1
            on_step(self._step, loss)

    def weights(self) -> Weights:
        """Copy of the current weights."""
        return {name: parameter.detach().clone().cpu() for name, parameter in self._parameters.items()}

    @abstractmethod
    def _gradients(self) -> float:
        """Gradients of one step, by ``_backward``; returns the loss."""

    def _backward(self, loss: torch.Tensor) -> float:
        """Add the gradients of a part of the loss; returns its value."""
        self._scaler.scale(loss).backward()
        return float(loss.detach())


def rate_factor(step: int, steps: int) -> float:
    """Learning rate of a step (from 0) relative to the highest: a rise, then half a cosine down to nearly 0."""
    rise = max(1, round(_WARM_UP * steps))
    if step < rise:
        return (step + 1) / rise
    return 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1, steps - rise)))


def jittered(box: Box, size: tuple[int, int], rng: np.random.Generator, deviation: float, largest: float) -> Box:
    """A box whose sides are shifted independently, inside the image.

    Args:
        box: inclusive pixels.
        size: (y, x) of the image.
        rng: random generator.
        deviation: standard deviation of the shift of a side, relative to the box's width or height.
        largest: largest shift, in standard deviations.
    """
    height, width = size
    x0, y0, x1, y1 = box
    sides = np.array([x1 - x0 + 1, y1 - y0 + 1] * 2)
    noise = np.clip(rng.normal(size=4), -largest, largest) * deviation
    moved = np.clip(np.array(box) + noise * sides, 0, np.array([width - 1, height - 1] * 2))
    low, high = np.minimum(moved[:2], moved[2:]), np.maximum(moved[:2], moved[2:])
    return float(low[0]), float(low[1]), float(high[0]), float(high[1])
