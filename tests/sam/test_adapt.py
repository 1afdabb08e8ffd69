"""Adaptation of a small SAM with random weights to synthetic shapes: it improves only by training."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from samstudent.errors import UserError
from samstudent.sam import adapt as module
from samstudent.sam.adapt import adapt
from samstudent.sam.adapt_run import Run
from samstudent.sam.adapt_samples import Example, prompt_samples
from samstudent.sam.adapted import with_weights
from samstudent.sam.decode import DecodePlan, decode_structures, dice
from support.adapt_examples import BOX, NOTHING, OPTIONS, SHAPE, blank, examples

__all__ = ["examples"]


class Learned:
    """Replacement of ``Run``: adapted after the first step, without a further gain."""

    sam: Any

    def __init__(self, plain: Any, *_: Any) -> None:
        self.backend = plain

    def train(self, until: int, on_step: Any) -> None:
        self.backend = self.sam

    def weights(self) -> dict[str, Any]:
        return {"mask_decoder.x": torch.ones(1)}


@pytest.fixture
def learned(small: Any, examples: list[Example], monkeypatch: pytest.MonkeyPatch) -> type[Learned]:
    """Its SAM was trained for a few steps."""
    samples = [q for i, e in enumerate(examples) for q in prompt_samples(i, e, BOX, "vit_b")]
    run = Run(small, examples, samples, BOX.stages_for("vit_b"), OPTIONS, [0])
    run.train(40)
    monkeypatch.setattr(module, "Run", Learned)
    monkeypatch.setattr(Learned, "sam", run.backend, raising=False)
    return Learned


@pytest.mark.training
def test_adaptation_improves_dice_and_does_not_change_the_plain_sam(small: Any, examples: list[Example]) -> None:
    before = {name: value.clone() for name, value in small.load().state_dict().items()}
    seen: list[tuple[int, int]] = []
    result = adapt(small, examples, BOX, 0, OPTIONS, lambda done, total: seen.append((done, total)))
    assert result.used and result.steps in (24, 32, 40, 48)
    assert result.adapted > result.plain + 0.2 and result.gain == pytest.approx(result.adapted - result.plain)
    assert [point["step"] for point in result.curve] == list(range(0, 49, 8))
    assert set(result.curve[-1]["folds"]) == {0, 1, 2} and result.labels == [f"case{i}" for i in range(6)]
    assert seen[-1] == (192, 192) and [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert set(result.folds) == {0, 1, 2} and all(name.startswith("mask_decoder.") for name in result.weights)

    for name, value in small.load().state_dict().items():
        assert torch.equal(before[name], value), name
    assert all(parameter.grad is None for parameter in small.load().parameters())
    # The weights of a fold are those whose Dice on its cases is in the curve.
    chosen = next(point for point in result.curve if point["step"] == result.steps)
    for fold, weights in result.folds.items():
        sam = with_weights(small, weights)
        cases = [e for e in examples if e.fold == fold]
        drawn = [(e, decode_structures(e.coarse, e.embedding, [DecodePlan(BOX, sam)] * 2)) for e in cases]
        values = [dice(d[s].logits > 0, e.truth[s]) for e, d in drawn for s in (0, 1)]  # type: ignore[union-attr]
        assert np.mean(values) == pytest.approx(chosen["folds"][fold], abs=1e-3)


def test_adaptation_that_is_not_better_is_not_used(small: Any, examples: list[Example]) -> None:
    options = replace(OPTIONS, steps=2, learning_rate=1e-12)
    result = adapt(small, examples, BOX, 0, options)
    assert not result.used and not result.weights and not result.folds and result.steps == 0
    assert result.plain == result.adapted and "no checkpoint was better" in result.reason


def test_adaptation_is_used_only_if_the_gain_exceeds_its_error(
    small: Any, examples: list[Example], learned: type[Learned], monkeypatch: pytest.MonkeyPatch
) -> None:
    sure = adapt(small, examples, BOX, 0, OPTIONS)
    assert sure.used and sure.steps == 8 and sure.gain > sure.error and set(sure.folds) == {0, 1, 2}
    assert len(sure.curve) == 5, "after three looks without a gain the runs end"
    monkeypatch.setattr(module, "_paired", lambda *_: (0.01, 0.02))
    unsure = adapt(small, examples, BOX, 0, OPTIONS)
    assert not unsure.used and not unsure.weights and not unsure.folds and unsure.steps == 8
    assert unsure.reason == "a gain of 0.0100 with a standard error of 0.0200 on 6 left-out cases"


def test_gain_and_error_are_computed_over_cases() -> None:
    examples = [blank([SHAPE], [SHAPE], id) for id in ("a", "a", "a", "b")]
    before = {(i, 0): 0.5 for i in range(4)}
    after = {(0, 0): 0.6, (1, 0): 0.7, (2, 0): 0.8, (3, 0): 0.6}
    gain, error = module._paired(before, after, examples)
    assert (gain, error) == (pytest.approx(0.15), pytest.approx(0.05))
    assert module._mean(after, examples) == pytest.approx(0.65)


def test_too_few_samples_are_not_an_error(small: Any, examples: list[Example]) -> None:
    two = adapt(small, examples[:2], BOX, 0, OPTIONS)
    assert not two.used and two.reason.startswith("2 labelled cases in 2 folds") and math.isnan(two.plain)
    assert two.record()["plain"] is None and "weights" not in two.record()
    # Six slices of two cases are two cases.
    slices = [replace(e, id=f"case{e.fold % 2}", fold=e.fold % 2) for e in examples]
    assert adapt(small, slices, BOX, 0, OPTIONS).reason.startswith("2 labelled cases")
    blind = [replace(e, coarse=np.zeros_like(e.coarse)) for e in examples]
    assert "in 0 cases" in adapt(small, blind, BOX, 0, OPTIONS).reason


def test_invalid_arguments_are_named(small: Any, examples: list[Example]) -> None:
    odd = replace(examples[1], coarse=examples[1].coarse[:, :32])
    with pytest.raises(UserError, match="case1: masks of shapes"):
        adapt(small, [examples[0], odd], BOX, 0, OPTIONS)
    with pytest.raises(UserError, match="case0: its slices are in different folds"):
        adapt(small, [examples[0], replace(examples[0], fold=1)], BOX, 0, OPTIONS)


def test_comparison_samples_are_spread_over_cases() -> None:
    examples = [blank([SHAPE] * 40, [SHAPE] * 39 + [NOTHING], f"case{i}") for i in range(5)]
    compared = module._compared(examples, np.random.default_rng(0))
    assert len(set(compared)) == len(compared) == 120
    assert Counter(i for i, _ in compared) == dict.fromkeys(range(5), 24)
    assert all(s != 39 for _, s in compared) and len({s for _, s in compared}) > 30
