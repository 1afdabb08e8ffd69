from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from samstudent.sam.prompts import box_of
from samstudent.sam.working import enlarged, image_prompts, reduced, working_size
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


def test_pixels_that_fall_together_are_averaged() -> None:
    stack = np.arange(2 * 4 * 6, dtype=np.float16).reshape(2, 4, 6)
    expected = stack.astype(np.float32).reshape(2, 2, 2, 3, 2).mean(axis=(2, 4))
    np.testing.assert_allclose(reduced(stack, (2, 3)), expected)
    masks = np.zeros((1, 4, 4), bool)
    masks[0, :2, :3] = True
    assert (reduced(masks, (2, 2)) >= 0.5).tolist() == [[[True, True], [False, False]]]


def test_there_and_back_a_disk_stays_where_it_was() -> None:
    y, x = np.mgrid[:900, :1301]
    disk = (y - 300) ** 2 + (x - 1000) ** 2 <= 150**2
    soft, mask = enlarged(reduced(disk[None], working_size((900, 1301)))[0], (900, 1301))
    assert dice(mask, disk) > 0.995 and soft.dtype == np.float32
    np.testing.assert_allclose(np.argwhere(mask).mean(axis=0), [300, 1000], atol=0.1)


def test_what_is_thinner_than_a_working_pixel_is_not_lost() -> None:
    line = np.zeros((40, 40), np.float32)
    line[20, 20] = 0.7
    soft, mask = enlarged(line, (80, 80))
    assert mask.sum() == 4 and mask[40:42, 40:42].all() and soft.max() == pytest.approx(0.7)


def test_prompts_return_to_the_pixels_of_the_image() -> None:
    small = np.zeros((40, 30), bool)
    small[10:20, 5:15] = True
    large = np.repeat(np.repeat(small, 3, axis=0), 3, axis=1)
    entries = [{"stage": 1, "box": list(box_of(small)), "positive": [[7.0, 12.0]], "mask_input": "mask"}]
    (moved,) = image_prompts(entries, (40, 30), (120, 90))
    # Pixel 7 is made of pixels 21 to 23.
    assert moved == {"stage": 1, "box": list(box_of(large)), "positive": [[22, 37]], "mask_input": "mask"}
