"""Simulated clicks, and a training on drawn shapes with a small SAM."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from samstudent.sam.click_training import ClickExample, ClickRun, ClickTrainingOptions, is_trained, next_click
from samstudent.sam.embedding import low_res_fraction
from samstudent.sam.prompts import Prompt

SIDE = 64


def rectangle(x0: int, y0: int, x1: int, y1: int) -> np.ndarray:
    mask = np.zeros((SIDE, SIDE), dtype=bool)
    mask[y0 : y1 + 1, x0 : x1 + 1] = True
    return mask


@pytest.fixture(scope="module")
def example(small: Any) -> ClickExample:
    """Two bright rectangles on a dark image that is not square."""
    masks = np.stack([rectangle(5, 8, 24, 27), rectangle(34, 30, 57, 41)])[:, :48]
    grey = np.where(masks.any(0), 200, 40).astype(np.uint8)
    return ClickExample(small.embed(np.repeat(grey[..., None], 3, axis=2)), masks)


def test_first_click_is_in_the_middle_of_the_structure() -> None:
    assert next_click(rectangle(10, 20, 20, 30), rectangle(0, 0, -1, -1)) == ((15.0, 25.0), True)


def test_further_clicks_are_in_the_largest_error() -> None:
    truth = rectangle(10, 10, 30, 30)
    (x, y), is_positive = next_click(truth, truth | rectangle(31, 10, 45, 24))
    assert not is_positive and 31 <= x <= 45 and 10 <= y <= 24
    (x, y), is_positive = next_click(truth, rectangle(10, 10, 14, 30) | rectangle(60, 60, 62, 62))
    assert is_positive and 15 <= x <= 30 and 10 <= y <= 30


@given(seed=st.integers(0, 50), x1=st.integers(12, 60), y1=st.integers(12, 60))
def test_random_clicks_are_on_the_error_they_mend(seed: int, x1: int, y1: int) -> None:
    truth, mask = rectangle(10, 10, x1, y1), rectangle(0, 0, 11, 11)
    (x, y), is_positive = next_click(truth, mask, np.random.default_rng(seed))
    wrong = truth & ~mask if is_positive else mask & ~truth
    assert wrong[round(y), round(x)]


def test_click_on_a_right_mask_is_on_the_structure() -> None:
    truth = rectangle(0, 0, 5, 5)
    (x, y), is_positive = next_click(truth, truth)
    assert is_positive and truth[round(y), round(x)]


def test_training_teaches_clicks_and_leaves_the_given_sam_alone(small: Any, example: ClickExample) -> None:
    before = {name: weight.clone() for name, weight in small.load().state_dict().items()}
    run = ClickRun(small, [example], ClickTrainingOptions(40, learning_rate=1e-3), [0])
    losses: list[float] = []
    run.train(40, lambda step, loss: losses.append(loss))
    assert np.mean(losses[-5:]) < 0.8 * np.mean(losses[:5])
    assert all(torch.equal(weight, before[name]) for name, weight in small.load().state_dict().items())
    assert set(run.weights()) == {name for name, _ in small.load().named_parameters() if is_trained(name)}
    prompt = Prompt(positive=((14.0, 17.0),))
    truth = low_res_fraction(example.masks[0], example.embedding)

    def error(backend: Any) -> float:
        shown = 1 / (1 + np.exp(-backend.decode(example.embedding, prompt).low_res))
        return float(np.abs(shown - truth)[:24].mean())

    assert error(run.backend) < error(small)


def test_equal_seeds_give_equal_weights(small: Any, example: ClickExample) -> None:
    weights = []
    for seed in (3, 3, 4):
        run = ClickRun(small, [example], ClickTrainingOptions(2), [seed])
        run.train(2)
        weights.append(run.weights())
    same, different = (all(torch.equal(weights[0][name], w[name]) for name in weights[0]) for w in weights[1:])
    assert same and not different


def test_weights_of_the_image_encoder_are_not_trained(small: Any) -> None:
    names = [name for name, _ in small.load().named_parameters()]
    assert not any(is_trained(name) for name in names if name.startswith("image_encoder."))
    assert is_trained("prompt_encoder.point_embeddings.1.weight") and is_trained("mask_decoder.iou_token.weight")
