"""Labelled examples for tests of SAM's adaptation."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from samstudent.sam.adapt_run import AdaptationOptions
from samstudent.sam.adapt_samples import Example
from samstudent.sam.embedding import Embedding
from samstudent.task import Recipe, Stage
from support.drawn import shapes

BOX = Recipe(stages=(Stage(prompts=("box",)),))
OPTIONS = AdaptationOptions(steps=48, learning_rate=3e-3, batch_size=4)


def rectangle(y0: int, x0: int, y1: int, x1: int) -> Any:
    mask = np.zeros((64, 64), np.bool_)
    mask[y0 : y1 + 1, x0 : x1 + 1] = True
    return mask


NOTHING = np.zeros((64, 64), np.bool_)
SHAPE = rectangle(10, 20, 29, 39)


def blank(truth: list[Any], coarse: list[Any], id: str = "a", fold: int = 0) -> Example:
    """Example without an image, for code that does not run SAM."""
    embedding = Embedding(np.zeros((1, 256, 16, 16), np.float32), (64, 64), (256, 256), 256)
    return Example(id, fold, embedding, np.stack(truth), np.stack(coarse))


@pytest.fixture(scope="session")
def examples(small: Any) -> list[Example]:
    """Six cases in three folds; coarse masks are the truth moved by two pixels."""
    made = []
    for seed in range(6):
        pixels, truth = shapes(seed)
        image = np.repeat(pixels[..., None], 3, axis=2)
        made.append(Example(f"case{seed}", seed % 3, small.embed(image), truth, np.roll(truth, 2, axis=2)))
    return made
