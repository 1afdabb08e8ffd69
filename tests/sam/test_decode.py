from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from samstudent.sam.decode import DecodedStructure, DecodePlan, decode_structures, dice, stability
from samstudent.sam.embedding import DecodedMask, Embedding
from samstudent.sam.prompts import Prompt
from samstudent.task import Recipe, Stage

BOX = (Stage(prompts=("box",)),)
POINTS = (Stage(prompts=("positive", "negative")),)


class Filler:
    """Backend that fills the box, or a square around the point, and records the prompts."""

    digest, preprocessing = "0" * 64, "filler"

    def __init__(self, name: str = "lite_medsam", iou: float = 0.8) -> None:
        self.name, self.iou = name, iou
        self.calls: list[list[Prompt]] = []

    def embed(self, image: Any) -> Embedding:
        raise AssertionError("the embedding is given")

    def decode(self, embedding: Embedding, prompt: Prompt) -> DecodedMask:
        return self.decode_many(embedding, [prompt])[0]

    def decode_many(self, embedding: Embedding, prompts: Sequence[Prompt]) -> list[DecodedMask]:
        self.calls.append(list(prompts))
        answers = []
        for prompt in prompts:
            low_res = np.full((embedding.side, embedding.side), -5, np.float32)
            x, y = prompt.positive[0] if prompt.positive else (0.0, 0.0)
            x0, y0, x1, y1 = (round(v) for v in prompt.box or (x - 2, y - 2, x + 2, y + 2))
            low_res[y0 : y1 + 1, x0 : x1 + 1] = 5
            answers.append(DecodedMask(low_res, self.iou, embedding.frame))
        return answers


def embedding(height: int = 100, width: int = 100, side: int = 100) -> Embedding:
    return Embedding(np.zeros((1, 256, 4, 4), np.float32), (height, width), (side, side), side)


def blocks() -> Any:
    """bool (3, 100, 100): two squares of 40 and 20 pixels, and an absent structure."""
    masks = np.zeros((3, 100, 100), bool)
    masks[0, 10:50, 10:50] = True
    masks[1, 70:90, 60:80] = True
    return masks


def existing(decoded: list[DecodedStructure | None]) -> list[DecodedStructure]:
    return [d for d in decoded if d is not None]


def plans(sam: Any, count: int, recipe: Recipe | None = None) -> list[DecodePlan | None]:
    return [DecodePlan(recipe or Recipe(), sam)] * count


def test_absent_or_unplanned_structures_are_not_decoded() -> None:
    sam = Filler()
    decoded = decode_structures(blocks(), embedding(), plans(sam, 3))
    assert decoded[2] is None and [len(call) for call in sam.calls] == [2]
    for found, mask in zip(existing(decoded), blocks(), strict=False):
        np.testing.assert_array_equal(found.logits > 0, mask)
        assert found.predicted_iou == 0.8
    decoded = decode_structures(blocks(), embedding(), [None, *plans(sam, 2)])
    assert decoded[0] is None and decoded[1] is not None and len(sam.calls[-1]) == 1
    assert decode_structures(np.zeros_like(blocks()), embedding(), plans(sam, 3)) == [None] * 3


def test_structures_with_equal_decoder_and_stages_are_one_batch() -> None:
    masks = np.concatenate([blocks()[:2], np.roll(blocks()[1:2], -50, axis=1)])
    plain, adapted = Filler(iou=0.1), Filler(iou=0.2)
    mixed = [
        DecodePlan(Recipe(stages=BOX, box_margin=0.1), plain),
        DecodePlan(Recipe(stages=POINTS), adapted),
        DecodePlan(Recipe(stages=BOX), plain),
    ]
    decoded = existing(decode_structures(masks, embedding(), mixed))
    assert [d.predicted_iou for d in decoded] == [0.1, 0.2, 0.1]
    assert [len(call) for call in plain.calls] == [2] and [len(call) for call in adapted.calls] == [1]
    assert plain.calls[0][0].box == (6, 6, 53, 53) and plain.calls[0][1].box == (60, 20, 79, 39)
    # Negative points come from all structures, whatever their own recipe.
    assert len(adapted.calls[0][0].negative) == 2 and adapted.calls[0][0].box is None


def test_stability_is_the_overlap_of_a_narrow_and_a_wide_mask() -> None:
    logits = np.full((10, 10), -3, np.float32)
    logits[:6] = 0.5
    logits[:3] = 2
    assert stability(logits) == 0.5
    assert stability(np.full((4, 4), -9, np.float32)) == 0


def test_dice_of_empty_masks_is_0() -> None:
    empty, full = np.zeros((2, 2), bool), np.ones((2, 2), bool)
    assert (
        dice(empty, empty) == 0 and dice(full, full) == 1 and dice(full, np.eye(2, dtype=bool)) == pytest.approx(2 / 3)
    )
