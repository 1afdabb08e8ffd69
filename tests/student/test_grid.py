from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from samstudent.student.grid import from_student_grid, masks_to_student_grid, place, resize, to_student_grid
from support.drawn import dice, shapes, small_task

TASK = small_task()
VOLUME = small_task(dimension=3, student={"size": [16, 32, 32], "spacing": [2.0, 1.0, 1.0], "channels": [8, 16]})


def test_a_wide_image_fills_the_width_and_is_centred() -> None:
    placement = place((100, 200), (1, 1), TASK)
    assert (placement.inner, placement.offset, placement.outer) == ((32, 64), (16, 0), (64, 64))
    placed = to_student_grid(np.ones((1, 100, 200), np.float32), placement)
    assert placed[0, 16:48].min() == pytest.approx(1)
    assert placed[0, :16].max() == 0
    assert placed[0, 48:].max() == 0


def test_volume_has_the_spacing_of_the_task() -> None:
    placement = place((10, 40, 30), (4.0, 0.5, 1.0), VOLUME)
    assert placement.outer == (20, 20, 30)


@given(st.integers(1, 150), st.integers(1, 150))
@settings(max_examples=60, deadline=None)
def test_round_trip_keeps_shape_and_constants(height: int, width: int) -> None:
    placement = place((height, width), (1, 1), TASK)
    back = from_student_grid(to_student_grid(np.full((2, height, width), 0.7, np.float32), placement), placement)
    assert back.shape == (2, height, width)
    np.testing.assert_allclose(back, 0.7, atol=1e-5)


@pytest.mark.parametrize("shape", [(64, 64), (200, 120), (50, 90)])
def test_masks_are_mapped_back_in_place(shape: tuple[int, int]) -> None:
    _, masks = shapes(3, shape)
    placement = place(shape, (1, 1), TASK)
    small = masks_to_student_grid(masks, placement, overlap=False)
    back = from_student_grid(small.astype(np.float32), placement) > 0.5
    assert dice(back[0], masks[0]) > 0.95
    assert dice(back[1], masks[1]) > 0.95


def test_volumes_are_mapped_back_in_place() -> None:
    z, y, x = np.mgrid[:10, :40, :30]
    mask = ((z - 4) / 4.0) ** 2 + ((y - 18) / 12.0) ** 2 + ((x - 14) / 9.0) ** 2 <= 1
    placement = place(mask.shape, (2.0, 0.8, 1.0), VOLUME)
    back = from_student_grid(masks_to_student_grid(mask[None], placement, True).astype(np.float32), placement) > 0.5
    assert dice(back[0], mask) > 0.95


def test_reduction_averages_over_the_area() -> None:
    stripes = np.tile(np.array([0.0, 1.0], np.float32), 64)[None, None].repeat(128, axis=1)
    assert resize(stripes, (32, 32))[0, 4:-4, 4:-4] == pytest.approx(0.5, abs=0.02)


def test_one_structure_a_pixel_where_overlap_is_forbidden() -> None:
    # A column of a over a column of b, thinner than a pixel of the student: neither may win everywhere, none twice.
    masks = np.zeros((2, 256, 256), dtype=bool)
    masks[0, :, :101], masks[1, :, 101:] = True, True
    small = masks_to_student_grid(masks, place((256, 256), (1, 1), TASK), overlap=False)
    assert (small.sum(axis=0) == 1).all()
