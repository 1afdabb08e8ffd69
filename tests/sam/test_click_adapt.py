"""Adaptation of a click decoder: used where it is better on left-out cases, and only there."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from samstudent.sam import click_adapt
from samstudent.sam.click_adapt import MIN_CASES, adapt_clicks, dice_by_clicks, mean_dice
from samstudent.sam.click_training import ClickExample, ClickTrainingOptions
from samstudent.sam.prompts import Mask, Prompt

SIDE = 64


def example(backend: Any, number: int) -> ClickExample:
    """A bright rectangle at a random place."""
    rng = np.random.default_rng(number)
    (y, x), (height, width) = rng.integers(4, 30, 2), rng.integers(14, 28, 2)
    mask = np.zeros((1, SIDE, SIDE), dtype=bool)
    mask[0, y : y + height, x : x + width] = True
    grey = np.where(mask[0], 210, 50).astype(np.uint8)
    return ClickExample(backend.embed(np.repeat(grey[..., None], 3, axis=2)), mask)


@pytest.fixture(scope="module")
def examples(small: Any) -> dict[str, list[ClickExample]]:
    return {f"case{number}": [example(small, number)] for number in range(MIN_CASES)}


def test_better_decoder_is_used(small: Any, examples: dict[str, list[ClickExample]]) -> None:
    seen: list[tuple[int, int]] = []
    found = adapt_clicks(
        small, examples, ClickTrainingOptions(60, learning_rate=1e-3), 0, lambda done, total: seen.append((done, total))
    )
    assert found.used and found.weights and found.cases == sorted(examples)
    assert found.after > found.before and found.gain > found.error
    assert seen[-1] == (120, 120)
    assert "weights" not in found.record()


def test_decoder_without_a_gain_is_not_used(
    small: Any, examples: dict[str, list[ClickExample]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(click_adapt, "mean_dice", lambda backend, examples: 0.5)
    found = adapt_clicks(small, examples, ClickTrainingOptions(1), 0)
    assert not found.used and not found.weights and not found.cases
    assert found.gain == 0 and "a gain of 0.0000" in found.reason


def test_too_few_cases_are_not_compared(small: Any, examples: dict[str, list[ClickExample]]) -> None:
    found = adapt_clicks(small, dict(list(examples.items())[:-1]), ClickTrainingOptions(1), 0)
    assert not found.used and f"{MIN_CASES} are needed" in found.reason
    assert found.record()["gain"] is None


def test_clicks_are_placed_where_the_mask_is_wrong(small: Any) -> None:
    one = example(small, 0)
    asked: list[Prompt] = []

    def half_then_all(prompt: Prompt) -> Mask:
        asked.append(prompt)
        truth = one.masks[0].copy()
        if len(asked) == 1:
            truth[:, : int(np.flatnonzero(truth.any(0)).mean())] = False
        return truth

    found = dice_by_clicks(half_then_all, one, 0, 2)
    assert 0.5 < found[0] < 0.8 and found[1] == 1
    assert len(asked[1].positive) == 2 and not asked[1].negative
    assert asked[1].positive[1][0] < asked[1].positive[0][0]


def test_mean_counts_one_two_three_and_five_clicks(small: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(click_adapt, "dice_by_clicks", lambda *_: [0.1, 0.2, 0.3, 9.0, 0.5])
    assert mean_dice(small, [example(small, 0)]) == pytest.approx(1.1 / 4)
