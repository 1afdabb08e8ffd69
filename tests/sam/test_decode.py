from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from samstudent.sam.decode import DecodedStructure, DecodePlan, Jitter, decode_structures, dice, stability
from samstudent.sam.embedding import DecodedMask, Embedding
from samstudent.sam.prompts import Prompt
from samstudent.task import Recipe, Stage

BOX = (Stage(prompts=("box",)),)
POINTS = (Stage(prompts=("positive", "negative")),)


class Filler:
    """Fills the box, or a square around the point, and keeps what it was asked."""

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


def test_structures_that_are_absent_or_without_a_plan_are_not_decoded() -> None:
    sam = Filler()
    decoded = decode_structures(blocks(), embedding(), plans(sam, 3))
    assert decoded[2] is None and [len(call) for call in sam.calls] == [2]
    for found, mask in zip(existing(decoded), blocks(), strict=False):
        np.testing.assert_array_equal(found.logits > 0, mask)
        assert found.predicted_iou == 0.8 and found.jitter is None
    decoded = decode_structures(blocks(), embedding(), [None, *plans(sam, 2)])
    assert decoded[0] is None and decoded[1] is not None and len(sam.calls[-1]) == 1
    assert decode_structures(np.zeros_like(blocks()), embedding(), plans(sam, 3)) == [None] * 3


def test_structures_of_equal_decoder_and_stages_are_decoded_together() -> None:
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


def test_jittered_boxes_are_those_of_sams_training() -> None:
    sam = Filler()
    decode_structures(blocks(), embedding(side=1024), plans(sam, 3), jitter=Jitter(400, 3))
    original, jittered = sam.calls
    for i, mask_side in enumerate((40, 20)):
        shift = np.array([p.box for p in jittered[400 * i : 400 * (i + 1)]]) - np.array(original[i].box)
        # 20 of the model's 1024 pixels are 1.95 of the image's 100: half a standard deviation of the large box.
        assert np.abs(shift).max() <= 20 / 1024 * 100 + 1e-9
        assert np.abs(shift.mean(axis=0)).max() < 0.3
        assert (np.abs(shift) > 1.95).mean() == pytest.approx(0.626 if mask_side == 40 else 0.329, abs=0.04)
    sam = Filler()
    decode_structures(blocks(), embedding(side=50), plans(sam, 3), jitter=Jitter(400, 3))
    assert np.abs(np.array([p.box for p in sam.calls[1]])[:400] - [10, 10, 49, 49]).max() == pytest.approx(
        1.95, abs=0.01
    )


def test_jitter_stays_in_the_image_and_depends_on_seed_and_structure_alone() -> None:
    masks = np.zeros((2, 100, 100), bool)
    masks[0, :30, :3] = True
    masks[1, 60:, 50:] = True

    def boxes(seed: int, second_only: bool = False) -> list[Any]:
        sam = Filler()
        chosen = [None, *plans(sam, 1)] if second_only else plans(sam, 2)
        decode_structures(masks, embedding(side=1024), chosen, jitter=Jitter(20, seed))
        return [p.box for p in sam.calls[1]]

    both = np.array(boxes(0))
    assert both.min() >= 0 and both.max() <= 99
    assert (both[:, :2] <= both[:, 2:]).all()
    assert boxes(0) == boxes(0) != boxes(1)
    assert boxes(0, second_only=True) == boxes(0)[20:]
    # Two structures of equal size are not jittered alike.
    masks[:] = False
    masks[0, 20:40, 20:40] = masks[1, 60:80, 60:80] = True
    assert np.abs(np.array(boxes(0)[:20]) + 40 - boxes(0)[20:]).max() > 0.5


def test_the_jitter_figure_is_the_mean_dice_with_the_masks_of_jittered_boxes() -> None:
    sam = Filler()
    decoded = existing(decode_structures(blocks(), embedding(), plans(sam, 3), jitter=Jitter(5, 1)))
    again = sam.decode_many(embedding(), sam.calls[1])
    for k, structure in enumerate(decoded):
        masks = [other.logits > 0 for other in again[5 * k : 5 * (k + 1)]]
        expected = np.mean([dice(structure.logits > 0, mask) for mask in masks])
        assert structure.jitter == pytest.approx(float(expected)) and 0.8 < expected < 1
    # A point is not jittered.
    sam = Filler()
    (first, *_) = existing(
        decode_structures(blocks(), embedding(), plans(sam, 3, Recipe(stages=POINTS)), jitter=Jitter(5))
    )
    assert first.jitter is None and len(sam.calls) == 1


def test_stability_is_the_overlap_of_a_narrow_and_a_wide_mask() -> None:
    logits = np.full((10, 10), -3, np.float32)
    logits[:6] = 0.5
    logits[:3] = 2
    assert stability(logits) == 0.5
    assert stability(np.full((4, 4), -9, np.float32)) == 0


def test_dice_of_nothing_is_0() -> None:
    empty, full = np.zeros((2, 2), bool), np.ones((2, 2), bool)
    assert (
        dice(empty, empty) == 0 and dice(full, full) == 1 and dice(full, np.eye(2, dtype=bool)) == pytest.approx(2 / 3)
    )
