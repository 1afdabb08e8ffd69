from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from samstudent.sam.fusion import combine, fuse, resolve_overlap, student_logits
from samstudent.sam.prompts import coarse_mask, coarse_masks
from samstudent.sam.working_grid import as_half
from samstudent.task import Recipe

SHAPE = (3, 9, 11)
PROBABILITIES = arrays(np.float32, SHAPE, elements=st.floats(0, 1, width=32))
LOGITS = arrays(np.float32, SHAPE, elements=st.floats(-25, 25, width=32))
SOURCES = st.sampled_from(["sam", "plain_sam", "student", "fused"])


def square(value: float, low: float = 0.1) -> Any:
    """float32 (20, 20): ``value`` on a square of 10x10 pixels in the middle, else ``low``."""
    plane = np.full((20, 20), low, np.float32)
    plane[5:15, 5:15] = value
    return plane


def sigmoid(x: float) -> float:
    return 1 / (1 + np.exp(-x))


@given(p=PROBABILITIES, threshold=st.floats(0.001, 1), component=st.sampled_from(["probable", "largest", "all"]))
def test_student_logits_match_the_coarse_mask(p: Any, threshold: float, component: Any) -> None:
    recipe = Recipe(threshold=threshold, component=component, min_size=2)
    coarse = coarse_mask(p[0], recipe)
    np.testing.assert_array_equal(student_logits(p[0], coarse, recipe) >= 0, coarse)
    if coarse.any():
        np.testing.assert_array_equal(combine(p[0], None, coarse, Recipe(source="student")) >= 0.5, coarse)


def test_values_of_each_source() -> None:
    p, coarse = square(0.9), square(1) > 0.5
    sam = np.full((20, 20), -3, np.float32)
    sam[0:10, 0:10] = 1  # half of the square's top left, and beyond it

    def at(y: int, x: int, **recipe: Any) -> float:
        return float(combine(p, sam, coarse, Recipe(**recipe))[y, x])

    logit = np.log(9)  # of 0.9, and less that of 0.1
    assert at(7, 7, source="sam") == pytest.approx(sigmoid(1))
    assert at(7, 7, source="student") == pytest.approx(0.9) and at(0, 0, source="student") == pytest.approx(0.1)
    assert at(7, 7, source="fused") == pytest.approx(sigmoid((1 + logit) / 2))
    assert at(12, 12, source="fused") == pytest.approx(sigmoid((logit - 3) / 2))
    assert at(12, 12, source="plain_sam") == pytest.approx(sigmoid(-3))


def test_threshold_shifts_the_student_logits() -> None:
    p, recipe = square(0.4), Recipe(threshold=0.4, source="student")
    soft = combine(p, None, p > 0.3, recipe)
    assert soft[10, 10] == 0.5 and soft[0, 0] == pytest.approx(sigmoid(np.log(0.1 / 0.9) - np.log(0.4 / 0.6)))


def test_student_probabilities_are_clipped_at_0_999() -> None:
    p, sam = square(1, low=0), np.full((20, 20), 0.5, np.float32)
    soft = combine(p, sam, p > 0.5, Recipe(source="student"))
    assert soft.max() == pytest.approx(0.999) and soft.min() == pytest.approx(0.001)


def test_fusion_does_not_restore_a_removed_component() -> None:
    p = square(0.9, low=0.01)
    p[0:3, 0:3] = 0.99
    recipe = Recipe(component="largest", source="fused")
    coarse = coarse_mask(p, recipe)
    sam = np.where(p > 0.5, 3, -3).astype(np.float32)
    assert not (combine(p, sam, coarse, recipe)[:4, :4] >= 0.5).any()
    kept = coarse_mask(p, Recipe(component="all"))
    assert (combine(p, sam, kept, recipe)[:3, :3] >= 0.5).all()


@pytest.mark.parametrize("source", ["sam", "plain_sam", "fused"])
def test_empty_sam_mask_is_replaced_by_the_students(source: Any) -> None:
    p, recipe = square(0.9), Recipe(source=source)
    nothing = np.full((20, 20), -0.1, np.float32)
    np.testing.assert_allclose(combine(p, nothing, p > 0.5, recipe), p, rtol=1e-5)


@given(p=PROBABILITIES, logits=LOGITS, overlap=st.booleans(), sources=st.tuples(SOURCES, SOURCES, SOURCES))
def test_fused_masks_and_soft_masks_are_consistent(p: Any, logits: Any, overlap: bool, sources: Any) -> None:
    recipes = [Recipe(source=source, threshold=0.7) for source in sources]
    coarse = coarse_masks(p, recipes)
    soft, masks, refined = fuse(p, list(logits), coarse, recipes, overlap)
    half = as_half(soft, masks)
    np.testing.assert_array_equal(half >= 0.5, masks)
    np.testing.assert_allclose(half, soft, atol=1e-3)
    for i, source in enumerate(sources):
        if not coarse[i].any():
            assert not refined[i] and not soft[i].any()
        elif overlap:
            np.testing.assert_array_equal(soft[i], combine(p[i], logits[i], coarse[i], recipes[i]))
            assert masks[i].any()
        assert not (refined[i] and source == "student")
    if not overlap:
        assert soft.sum(axis=0).max() <= 1 + 1e-5 or len(coarse) == 1
        assert masks.sum(axis=0).max() <= 1


def test_pixels_belong_to_the_higher_logit_beyond_float32_resolution() -> None:
    p = np.full((2, 4, 4), 0.9, np.float32)
    logits = [np.full((4, 4), 19, np.float32), np.full((4, 4), 18, np.float32)]
    logits[1][0] = 20
    soft, masks, _ = fuse(p, logits, p > 0.5, [Recipe(), Recipe()], overlap=False)
    np.testing.assert_array_equal(masks[1], np.arange(4)[:, None].repeat(4, axis=1) == 0)
    np.testing.assert_array_equal(soft[1] >= 0.5, masks[1])


def test_remaining_probability_is_divided_among_other_structures() -> None:
    p = np.stack([np.full((4, 4), v, np.float32) for v in (0.8, 0.7, 0.6)])
    p[:, 1:] = 0.1
    p[1, 1], p[2, 2] = 0.9, 0.9  # each has a row of its own
    soft, _, refined = fuse(p, [None] * 3, p > 0.5, [Recipe(source="student")] * 3, overlap=False)
    np.testing.assert_allclose(soft[:, 0, 0], [0.8, 0.2 * 0.7 / 1.3, 0.2 * 0.6 / 1.3], rtol=1e-4)
    assert refined == [False] * 3


def test_structure_that_loses_all_pixels_has_the_rest_of_its_coarse_mask() -> None:
    p = np.zeros((2, 6, 6), np.float32)
    p[0, :3], p[1, 2:] = 0.9, 0.9
    sam = np.full((2, 6, 6), -5, np.float32)
    sam[0, 2, 0], sam[1, 2:] = 1, 5  # all that SAM draws of the first lies in the second
    _, masks, refined = fuse(p, list(sam), p > 0.5, [Recipe(), Recipe()], overlap=False)
    assert refined == [False, True]
    np.testing.assert_array_equal(masks[1], p[1] > 0.5)
    np.testing.assert_array_equal(masks[0], (p[0] > 0.5) & ~masks[1])


@given(LOGITS)
def test_resolved_masks_are_disjoint_and_complete(logits: Any) -> None:
    masks = logits > 0
    resolved = masks.copy()
    resolve_overlap(resolved, list(logits))
    assert (resolved.sum(axis=0) == masks.any(axis=0)).all()
    top = logits.max(axis=0)
    assert (logits[resolved] == np.broadcast_to(top, logits.shape)[resolved]).all()


def test_pixel_belongs_to_the_first_of_the_highest_values() -> None:
    soft = np.array([[[0.6, 0.9, 0.4]], [[0.7, 0.9, 0.3]]], np.float32)
    masks = soft >= 0.5
    resolve_overlap(masks, list(soft))
    assert masks.tolist() == [[[False, True, False]], [[True, False, False]]]
