from __future__ import annotations

import numpy as np

from samstudent.sam.embedding import Embedding, mask_input


def test_mask_input_is_aligned_with_the_mask() -> None:
    mask = np.zeros((120, 60), np.bool_)
    mask[30:90, 15:45] = True
    embedding = Embedding(np.zeros((1, 256, 64, 64), np.float32), mask.shape, (1024, 512), 1024)
    logits = mask_input(mask, embedding)
    assert logits.shape == (256, 256) and logits.dtype == np.float32
    np.testing.assert_array_equal(logits[64:192, 32:96] > 0, True)
    assert (logits > 0).sum() == 128 * 64 and logits.max() < 7 and logits.min() > -7


def test_pooled_vector_excludes_the_padding() -> None:
    features = np.zeros((1, 256, 64, 64), np.float32)
    features[:, :, :32, :] = 2
    features[:, :, 32:, :] = 99
    pooled = Embedding(features, (50, 100), (128, 256), 256).pooled()
    assert pooled.shape == (256,) and pooled.dtype == np.float32
    np.testing.assert_allclose(pooled, 2)
