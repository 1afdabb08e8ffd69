from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from samstudent.sam.prompts import box_of
from samstudent.sam.working_grid import (
    as_half,
    enlarged,
    enlarged_masks,
    enlarged_soft,
    prompts_on_image,
    reduced,
    working_size,
)
from support.drawn import dice


@pytest.mark.parametrize(
    ("image", "working"),
    [
        ((512, 300), (512, 300)),
        ((1024, 2048), (256, 512)),
        ((700, 513), (512, 375)),
        ((4000, 3), (512, 1)),
    ],
)
def test_the_longest_side_is_at_most_512(image: Any, working: Any) -> None:
    assert working_size(image) == working


def test_pixels_are_averaged_by_area() -> None:
    stack = np.arange(2 * 4 * 6, dtype=np.float16).reshape(2, 4, 6)
    expected = stack.astype(np.float32).reshape(2, 2, 2, 3, 2).mean(axis=(2, 4))
    np.testing.assert_allclose(reduced(stack, (2, 3)), expected)
    masks = np.zeros((1, 4, 4), bool)
    masks[0, :2, :3] = True
    assert (reduced(masks, (2, 2)) >= 0.5).tolist() == [[[True, True], [False, False]]]


def test_disk_is_preserved_after_reduction_and_enlargement() -> None:
    y, x = np.mgrid[:900, :1301]
    disk = (y - 300) ** 2 + (x - 1000) ** 2 <= 150**2
    soft, mask = enlarged(reduced(disk[None], working_size((900, 1301)))[0], (900, 1301))
    assert dice(mask, disk) > 0.995 and soft.dtype == np.float32
    np.testing.assert_allclose(np.argwhere(mask).mean(axis=0), [300, 1000], atol=0.1)


def test_structure_thinner_than_a_working_pixel_is_preserved() -> None:
    line = np.zeros((40, 40), np.float32)
    line[20, 20] = 0.7
    soft, mask = enlarged(line, (80, 80))
    assert mask.sum() == 4 and mask[40:42, 40:42].all() and soft.max() == pytest.approx(0.7)


def test_enlarged_masks_are_disjoint_if_overlap_is_forbidden() -> None:
    soft = np.zeros((3, 8, 8), np.float32)
    soft[0, 4, 4] = 0.55  # enlarged in blocks
    soft[1] = 0.5
    soft[2, :, :4] = 0.6
    shared = enlarged_masks(soft, (48, 48), overlap=True)
    assert (shared[0] & shared[1]).sum() == 36 and (shared[1] & shared[2]).any()
    masks = enlarged_masks(soft, (48, 48), overlap=False)
    assert masks.sum(axis=0).max() == 1 and masks[0].sum() == 36 and (masks.any(axis=0) == shared.any(axis=0)).all()
    assert not (masks[1] & shared[2]).any()


@given(arrays(np.float32, (3, 6, 5), elements=st.floats(0, 1, width=32)), st.booleans())
def test_enlarged_soft_masks_match_the_masks(values: Any, overlap: bool) -> None:
    soft, masks = enlarged_soft(values.astype(np.float16), (25, 33), overlap)
    np.testing.assert_array_equal(soft >= 0.5, masks)
    np.testing.assert_array_equal(masks, enlarged_masks(values.astype(np.float16), (25, 33), overlap))
    assert overlap or masks.sum(axis=0).max() <= 1
    np.testing.assert_array_equal(as_half(soft.astype(np.float32), masks), soft)


def test_prompts_are_mapped_to_the_pixels_of_the_image() -> None:
    small = np.zeros((40, 30), bool)
    small[10:20, 5:15] = True
    large = np.repeat(np.repeat(small, 3, axis=0), 3, axis=1)
    entries = [{"stage": 1, "box": list(box_of(small)), "positive": [[7.0, 12.0]], "mask_input": "mask"}]
    (moved,) = prompts_on_image(entries, (40, 30), (120, 90))
    # Pixel 7 is made of pixels 21 to 23.
    assert moved == {"stage": 1, "box": list(box_of(large)), "positive": [[22, 37]], "mask_input": "mask"}
