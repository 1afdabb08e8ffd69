from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from samstudent.sam.adapt_run import AdaptationOptions, Run, sample_loss
from samstudent.sam.adapt_samples import Example, prompt_samples
from samstudent.sam.decoder_run import rate_factor
from samstudent.sam.embedding import Embedding, low_res_fraction
from support.adapt_examples import BOX, OPTIONS, examples, rectangle

__all__ = ["examples"]


def test_equal_seeds_give_equal_weights(small: Any, examples: list[Example]) -> None:
    samples = [q for i, e in enumerate(examples) for q in prompt_samples(i, e, BOX, "vit_b")]
    weights = []
    for seed in (5, 5, 6):
        run = Run(small, examples, samples, BOX.stages_for("vit_b"), OPTIONS, [0, seed])
        run.train(3)
        weights.append(run.weights())
    same, different = (all(torch.equal(weights[0][name], w[name]) for name in weights[0]) for w in weights[1:])
    assert same and not different


def test_loss_excludes_padding_and_negative_samples() -> None:
    embedding = Embedding(np.zeros((1, 256, 16, 16), np.float32), (64, 32), (64, 32), 64)
    mask = rectangle(10, 5, 29, 24)[:, :32]
    target = torch.from_numpy(low_res_fraction(mask, embedding))[None]
    assert target[0, :, 32:].sum() == 0 and target.sum() == 20 * 20
    right = torch.where(target > 0.5, 20.0, -20.0)
    right[:, :, 32:] = 20.0  # padding
    one = torch.ones(1)
    assert sample_loss(right, one, target, one, embedding).item() == pytest.approx(0, abs=2e-3)
    assert sample_loss(right, one * 0.25, target, one, embedding).item() == pytest.approx(0.5625, abs=2e-3)
    wrong = torch.where(target > 0.5, -20.0, 20.0)
    assert sample_loss(wrong, one, target, one, embedding).item() > 20
    assert sample_loss(wrong, one, target, one * 0, embedding).item() == pytest.approx(1)
    # An absent structure: its predicted IoU should be 0.
    assert sample_loss(right, one * 0, target * 0, one * 0, embedding).item() == 0


def test_boxes_are_jittered_within_the_image(small: Any, examples: list[Example]) -> None:
    samples = prompt_samples(0, examples[0], BOX, "vit_b")
    run = Run(small, examples[:1], samples, BOX.stages_for("vit_b"), AdaptationOptions(jitter=0.1), [1])
    box = (30.0, 20.0, 49.0, 59.0)
    moved = np.array([run._jittered(box, examples[0].embedding) for _ in range(300)])
    assert moved.min() >= 0 and moved.max() <= 63 and (moved[:, 0] <= moved[:, 2]).all()
    np.testing.assert_allclose(moved.mean(axis=0)[:3], box[:3], atol=0.6)
    np.testing.assert_allclose(moved.std(axis=0)[:3], [2, 4, 2], rtol=0.2)


def test_adaptation_is_short_for_short_trainings() -> None:
    assert [AdaptationOptions.for_training(n).steps for n in (600, 2000, 300, 1)] == [100, 100, 50, 1]


def test_learning_rate_rises_and_falls() -> None:
    rates = [rate_factor(step, 50) for step in range(50)]
    assert rates[0] == pytest.approx(0.2) and max(rates) == 1 and rates[-1] < 0.01
    assert rate_factor(0, 1) == 1
