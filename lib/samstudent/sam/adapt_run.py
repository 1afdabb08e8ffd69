"""One training run of SAM's mask decoder: options, loss and steps. ``adapt`` makes several."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch.nn import functional as F

from samstudent.errors import UserError
from samstudent.sam.adapt_samples import Example, PromptSample, batches, decodable_together
from samstudent.sam.adapted import Weights, over_model, private_copy
from samstudent.sam.embedding import Embedding, low_res_fraction
from samstudent.sam.model import SamModel
from samstudent.sam.prompts import Box
from samstudent.task import Stage, Steps
from samstudent.util.device import autocast, half_precision

#: Largest shift of a box's side, in standard deviations.
_LARGEST_SHIFT = 2.5
#: Fraction of the steps over which the learning rate rises.
_WARM_UP = 0.1
_WEIGHT_DECAY = 1e-4
#: Largest norm of a gradient.
_CLIP = 1.0


@dataclass(frozen=True)
class AdaptationOptions:
    """Options of the training of SAM's mask decoder.

    Attributes:
        steps: largest number of steps of each run; cross-validation selects the best.
        batch_size: prompts in each step.
        learning_rate: the highest; it rises over the first tenth of the steps and falls by half a cosine.
        jitter: standard deviation of the shift of each side of a box, relative to the box's width or height.
    """

    steps: int = 100
    batch_size: int = 6
    learning_rate: float = 2e-4
    jitter: float = 0.1

    @classmethod
    def for_training(cls, steps: Steps) -> AdaptationOptions:
        """Options for students that train for ``steps`` steps: a sixth of these, at most the default."""
        return cls() if steps == "auto" else cls(steps=min(cls.steps, math.ceil(steps / 6)))


class Run:
    """One training of a private copy of a backend's mask decoder.

    Args:
        plain: the backend; loaded, not changed.
        examples: labelled images, to which the samples refer by index.
        samples: at least one of them positive.
        stages: of prompts.
        options: of the training.
        seed: numbers that seed order and jitter.

    Attributes:
        backend: backend with the copy; may decode at any time.
    """

    def __init__(
        self,
        plain: SamModel,
        examples: Sequence[Example],
        samples: Sequence[PromptSample],
        stages: Sequence[Stage],
        options: AdaptationOptions,
        seed: Sequence[int],
    ) -> None:
        self._examples, self._stages, self._options = examples, stages, options
        self._rng = np.random.default_rng(seed)
        model = plain.load()
        copy = private_copy(model, [name for name, _ in model.named_parameters() if name.startswith("mask_decoder.")])
        self.backend = over_model(plain, copy)
        self._parameters = {name: parameter for name, parameter in copy.named_parameters() if parameter.requires_grad}
        self._optimizer = torch.optim.AdamW(
            self._parameters.values(), lr=options.learning_rate, weight_decay=_WEIGHT_DECAY
        )
        # Only float16 loses small gradients.
        half = half_precision(plain.device)
        self._scaler = torch.amp.GradScaler(plain.device.type, enabled=half == torch.float16)
        self._batches = batches(examples, samples, options.batch_size, self._rng)
        self._step = 0

    def train(self, until: int, on_step: Callable[[], None]) -> None:
        """Train until ``until`` steps are done.

        Raises:
            UserError: the loss is not finite.
        """
        while self._step < until:
            for group in self._optimizer.param_groups:
                group["lr"] = self._options.learning_rate * rate_factor(self._step, self._options.steps)
            self._optimizer.zero_grad(set_to_none=True)
            value = 0.0
            for group_of_samples in decodable_together(next(self._batches)):
                loss = self._loss(group_of_samples) / self._options.batch_size
                self._scaler.scale(loss).backward()
                value += float(loss.detach())
            if not math.isfinite(value):
                raise UserError(f"adapting SAM: the loss is {value} at step {self._step + 1}; the plain SAM stays")
            self._scaler.unscale_(self._optimizer)
            torch.nn.utils.clip_grad_norm_(self._parameters.values(), _CLIP)
            self._scaler.step(self._optimizer)
            self._scaler.update()
            self._step += 1
            on_step()

    def weights(self) -> Weights:
        """Copy of the current weights."""
        return {name: parameter.detach().clone().cpu() for name, parameter in self._parameters.items()}

    def _loss(self, samples: Sequence[PromptSample]) -> torch.Tensor:
        """Loss summed over samples of one example, and averaged over the stages, as each stage's mask is used."""
        example = self._examples[samples[0].example]
        embedding, device = example.embedding, self.backend.device
        sources = [replace(s.source, box=self._jittered(s.source.box, embedding)) for s in samples]
        truth = np.stack([low_res_fraction(example.truth[s.structure], embedding) for s in samples])
        target = torch.from_numpy(truth).to(device)
        positive = torch.tensor([float(s.is_positive) for s in samples], device=device)
        total = torch.zeros((), device=device)
        low_res: torch.Tensor | None = None
        features = torch.from_numpy(embedding.features).to(device)
        for stage in self._stages:
            earlier = [None] * len(sources) if low_res is None else list(low_res.detach().cpu().numpy())
            prompts = [s.prompt(stage, embedding, logits) for s, logits in zip(sources, earlier, strict=True)]
            with autocast(device):
                low_res, iou = (part.float() for part in self.backend.decode_low_res(embedding, features, prompts))
            total = total + sample_loss(low_res, iou, target, positive, embedding)
        return total / len(self._stages)

    def _jittered(self, box: Box, embedding: Embedding) -> Box:
        """A box whose sides are shifted independently, inside the image."""
        height, width = embedding.image_size
        x0, y0, x1, y1 = box
        sides = np.array([x1 - x0 + 1, y1 - y0 + 1] * 2)
        noise = np.clip(self._rng.normal(size=4), -_LARGEST_SHIFT, _LARGEST_SHIFT) * self._options.jitter
        moved = np.clip(np.array(box) + noise * sides, 0, np.array([width - 1, height - 1] * 2))
        low, high = np.minimum(moved[:2], moved[2:]), np.maximum(moved[:2], moved[2:])
        return float(low[0]), float(low[1]), float(high[0]), float(high[1])


def sample_loss(
    low_res: torch.Tensor, iou: torch.Tensor, target: torch.Tensor, positive: torch.Tensor, embedding: Embedding
) -> torch.Tensor:
    """Dice loss and cross-entropy of the mask, and the squared error of the predicted IoU; summed over samples.

    Padding is ignored.

    Args:
        low_res: logits (N, L, L).
        iou: predicted (N,).
        target: fraction of each pixel that the truth covers (N, L, L).
        positive: (N,) 1 where mask and predicted IoU count, 0 where only the predicted IoU does.
        embedding: its sizes locate the padding.
    """
    per_pixel = low_res.shape[-1] / embedding.side
    height, width = (math.ceil(size * per_pixel) for size in embedding.input_size)
    logits, truth = low_res[:, :height, :width].flatten(1), target[:, :height, :width].flatten(1)
    probability = logits.sigmoid()
    common, size = (probability * truth).sum(1), probability.sum(1) + truth.sum(1)
    dice_loss = 1 - (2 * common + 1) / (size + 1)
    entropy = F.binary_cross_entropy_with_logits(logits, truth, reduction="none").mean(1)
    with torch.no_grad():
        drawn, expected = logits > 0, truth >= 0.5
        real = (drawn & expected).sum(1) / (drawn | expected).sum(1).clamp(min=1)
    return (positive * (dice_loss + entropy) + (iou - real) ** 2).sum()


def rate_factor(step: int, steps: int) -> float:
    """Learning rate of a step (from 0) relative to the highest: a rise, then half a cosine down to nearly 0."""
    rise = max(1, round(_WARM_UP * steps))
    if step < rise:
        return (step + 1) / rise
    return 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1, steps - rise)))
