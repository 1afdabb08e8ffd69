"""One training run of SAM's mask decoder: options, loss and steps. ``adapt`` makes several."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch.nn import functional as F

from samstudent.sam.adapt_samples import Example, PromptSample, batches, decodable_together
from samstudent.sam.decoder_run import DecoderRun, jittered
from samstudent.sam.embedding import Embedding, low_res_fraction
from samstudent.sam.model import SamModel
from samstudent.sam.prompts import Box
from samstudent.task import Stage, Steps
from samstudent.util.device import autocast

#: Largest shift of a box's side, in standard deviations.
_LARGEST_SHIFT = 2.5


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


class Run(DecoderRun):
    """One training of a private copy of a backend's mask decoder with boxes.

    Args:
        plain: the backend; loaded, not changed.
        examples: labelled images, to which the samples refer by index.
        samples: at least one of them positive.
        stages: of prompts.
        options: of the training.
        seed: numbers that seed order and jitter.
    """

    purpose = "adapting SAM"
    consequence = "; the plain SAM stays"

    def __init__(
        self,
        plain: SamModel,
        examples: Sequence[Example],
        samples: Sequence[PromptSample],
        stages: Sequence[Stage],
        options: AdaptationOptions,
        seed: Sequence[int],
    ) -> None:
        super().__init__(plain, lambda name: name.startswith("mask_decoder."), options)
        self._examples, self._stages, self._options = examples, stages, options
        self._rng = np.random.default_rng(seed)
        self._batches = batches(examples, samples, options.batch_size, self._rng)

    def _gradients(self) -> float:
        groups = decodable_together(next(self._batches))
        return sum(self._backward(self._loss(group) / self._options.batch_size) for group in groups)

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
        return jittered(box, embedding.image_size, self._rng, self._options.jitter, _LARGEST_SHIFT)


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
    height, width = embedding.low_res_size
    logits, truth = low_res[:, :height, :width].flatten(1), target[:, :height, :width].flatten(1)
    probability = logits.sigmoid()
    common, size = (probability * truth).sum(1), probability.sum(1) + truth.sum(1)
    dice_loss = 1 - (2 * common + 1) / (size + 1)
    entropy = F.binary_cross_entropy_with_logits(logits, truth, reduction="none").mean(1)
    with torch.no_grad():
        drawn, expected = logits > 0, truth >= 0.5
        real = (drawn & expected).sum(1) / (drawn | expected).sum(1).clamp(min=1)
    return (positive * (dice_loss + entropy) + (iou - real) ** 2).sum()
