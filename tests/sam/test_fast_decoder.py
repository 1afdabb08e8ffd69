from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from samstudent.sam import fast_decoder
from samstudent.sam.prompts import Prompt

BOXES = [Prompt(box=(1, 2, 30, 40)), Prompt(box=(10, 20, 50, 60))]
LOW = np.random.default_rng(0).normal(0, 5, (64, 64)).astype(np.float32)
POINTS = [Prompt(positive=((5 + i, 9),), negative=((40, 50),), mask_input=LOW + i) for i in range(2)]


@pytest.mark.parametrize("prompts", [BOXES, BOXES[:1], POINTS], ids=["boxes", "one box", "points and logits"])
def test_masks_and_gradients_equal_those_of_the_library(tiny: Any, prompts: list[Prompt]) -> None:
    embedding = tiny.embed(np.random.default_rng(1).integers(0, 256, (80, 60, 3), dtype=np.uint8))
    features = torch.from_numpy(embedding.features)
    decoder, positions = tiny.load().mask_decoder, tiny.load().prompt_encoder.get_dense_pe().detach()
    expected, expected_iou = (part[:, 0] for part in tiny._decode_by_library(embedding, features, prompts))
    with torch.no_grad():
        sparse, dense = tiny.encode_prompts(embedding, prompts)
    if prompts[0].mask_input is None:
        dense = dense[:1]
    low_res, iou = fast_decoder.decode(decoder, fast_decoder.image_tokens(decoder, features, positions, dense), sparse)
    torch.testing.assert_close(low_res, expected, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(iou, expected_iou, atol=1e-4, rtol=1e-4)

    weights = [p for name, p in decoder.named_parameters() if not name.startswith("output_hypernetworks_mlps.")]
    gradients = [
        torch.autograd.grad((mask.sigmoid() * 3).mean() + quality.sum(), weights, allow_unused=True)
        for mask, quality in ((expected, expected_iou), (low_res, iou))
    ]
    assert sum(g is not None for g in gradients[0]) > 50
    for plain, ours in zip(*gradients, strict=True):
        assert (plain is None) == (ours is None)
        if plain is not None:
            torch.testing.assert_close(ours, plain, atol=1e-4, rtol=1e-3)


def test_reduced_precision_changes_little(lite: Any) -> None:
    embedding = lite.embed(np.random.default_rng(1).integers(0, 256, (80, 60, 3), dtype=np.uint8))
    features, prompts = torch.from_numpy(embedding.features), [Prompt(box=(10, 20, 50, 60))]
    decoder, positions = lite.load().mask_decoder, lite.load().prompt_encoder.get_dense_pe()
    with torch.no_grad():
        sparse, dense = lite.encode_prompts(embedding, prompts)
        exact, _ = fast_decoder.decode(decoder, fast_decoder.image_tokens(decoder, features, positions, dense), sparse)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            half, _ = fast_decoder.decode(
                decoder, fast_decoder.image_tokens(decoder, features, positions, dense), sparse
            )
    assert half.dtype == torch.bfloat16
    assert ((half > 0) != (exact > 0)).float().mean() < 0.02
