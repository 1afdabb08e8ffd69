from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from samstudent.errors import UserError
from samstudent.sam.prompts import (
    Prompt,
    apply_morphology,
    box_of,
    coarse_mask,
    coarse_masks,
    inner_point,
    negative_points,
    one_vs_rival,
)
from samstudent.task import Recipe

masks = arrays(np.bool_, st.tuples(st.integers(1, 24), st.integers(1, 24))).filter(lambda m: bool(m.any()))


def blank(*shape: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.zeros(shape or (40, 60), dtype=np.float32)


def two_blobs() -> np.ndarray[Any, np.dtype[np.float32]]:
    """Two rectangles: 20x20 of low and 10x10 of high probability."""
    p = blank()
    p[5:25, 5:25] = 0.6
    p[5:15, 40:50] = 0.9
    return p


@pytest.mark.parametrize(
    ("component", "pixels", "probe"),
    [("probable", 100, (10, 45)), ("largest", 400, (10, 10)), ("all", 500, (10, 45))],
)
def test_component_is_selected_by_the_rule(component: Any, pixels: int, probe: tuple[int, int]) -> None:
    mask = coarse_mask(two_blobs(), Recipe(component=component))
    assert mask.dtype == np.bool_ and mask.sum() == pixels and mask[probe]


def test_small_component_of_high_probability_is_not_selected() -> None:
    p = two_blobs()
    p[35, 10:13] = 1.0  # three pixels, below min_size 4
    assert coarse_mask(p, Recipe())[35].sum() == 0
    assert coarse_mask(p, Recipe(min_size=3))[35].sum() == 3


def test_mask_below_threshold_is_empty() -> None:
    for p in (blank(), np.full((40, 60), 0.49, np.float32), np.full((40, 60), np.nan, np.float32)):
        assert not coarse_mask(p, Recipe()).any()


def test_threshold_is_inclusive() -> None:
    p = blank()
    p[3:8, 3:8] = 0.5
    assert coarse_mask(p, Recipe()).sum() == 25
    assert not coarse_mask(p, Recipe(threshold=0.51)).any()


def test_corners_connect_in_2d_and_3d() -> None:
    diagonal = np.eye(12, dtype=np.float32)
    assert coarse_mask(diagonal, Recipe()).sum() == 12
    volume = np.zeros((12, 12, 12), np.float32)
    volume[range(12), range(12), range(12)] = 1
    assert coarse_mask(volume, Recipe()).sum() == 12


def test_coarse_masks_of_structures_are_independent() -> None:
    stack = np.stack([two_blobs(), blank(), two_blobs().T.copy().reshape(40, 60)])
    result = coarse_masks(stack, Recipe())
    for mask, p in zip(result, stack, strict=True):
        np.testing.assert_array_equal(mask, coarse_mask(p, Recipe()))


@pytest.mark.parametrize(
    ("morphology", "size", "pixels"),
    [("none", 3, 100), ("dilate", 3, 144), ("erode", 3, 64), ("open", 3, 100), ("close", 3, 100)],
)
def test_morphology_changes_the_mask(morphology: Any, size: int, pixels: int) -> None:
    mask = blank() > 0
    mask[10:20, 10:20] = True
    assert apply_morphology(mask, Recipe(morphology=morphology, morphology_size=size)).sum() == pixels


def test_morphology_opens_a_bridge_and_closes_a_gap() -> None:
    mask = blank() > 0
    mask[10:20, 10:20] = True
    mask[15, 20:30] = True
    assert box_of(apply_morphology(mask, Recipe(morphology="open", morphology_size=3))) == (10, 10, 19, 19)
    mask[14, 14] = False
    assert apply_morphology(mask, Recipe(morphology="close", morphology_size=3))[14, 14]


def test_dilation_stays_in_the_image_and_erosion_never_empties() -> None:
    mask = blank() > 0
    mask[0:4, 0:4] = True
    assert box_of(apply_morphology(mask, Recipe(morphology="dilate", morphology_size=5))) == (0, 0, 5, 5)
    np.testing.assert_array_equal(apply_morphology(mask, Recipe(morphology="erode", morphology_size=9)), mask)
    # Closing: what lies beyond the edge is no background that eats into the mask.
    np.testing.assert_array_equal(apply_morphology(mask, Recipe(morphology="close", morphology_size=5)), mask)


def test_box_with_margin_is_clipped() -> None:
    mask = blank() > 0
    mask[0:10, 20:40] = True
    assert box_of(mask) == (20, 0, 39, 9)
    assert box_of(mask, 0.1) == (18, 0, 41, 10)
    assert box_of(mask, 1) == (0, 0, 59, 19)


def test_inner_point_of_a_disk_is_its_centre() -> None:
    y, x = np.mgrid[:50, :70]
    assert inner_point((x - 30) ** 2 + (y - 20) ** 2 <= 15**2) == (30, 20)


def test_inner_point_of_a_ring_is_on_the_ring() -> None:
    y, x = np.mgrid[:61, :61]
    radius = np.hypot(x - 30, y - 30)
    ring = (radius >= 15) & (radius <= 25)
    px, py = inner_point(ring)
    assert ring[int(py), int(px)] and abs(np.hypot(px - 30, py - 30) - 20) <= 1
    assert not ring[30, 30]


def test_inner_point_is_not_at_the_edge_of_the_image() -> None:
    mask = np.ones((21, 41), dtype=np.bool_)
    assert inner_point(mask) == (20, 10)


def test_empty_mask_has_no_box_and_no_point() -> None:
    for function in (box_of, inner_point):
        with pytest.raises(UserError, match="empty mask"):
            function(np.zeros((4, 4), np.bool_))


def test_negative_points_avoid_the_structure_itself() -> None:
    a, b, c = (np.zeros((40, 60), np.bool_) for _ in range(3))
    a[5:35, 5:35] = True  # covers b's left part with b's deepest point, and c wholly
    b[10:20, 15:45] = True
    c[25:30, 10:15] = True
    stack = [a, b, c]
    inner = [inner_point(m) for m in stack]
    assert a[int(inner[1][1]), int(inner[1][0])]  # else this test would show nothing
    of_a, of_b, of_c = negative_points(stack, inner)
    assert of_a == (inner_point(b & ~a),)  # b's part outside; c has none
    assert of_b == (inner_point(a & ~b), inner[2])
    assert len(of_c) == 2


def test_parts_of_one_structure_are_not_negatives_of_each_other() -> None:
    stack = [np.zeros((20, 20), np.bool_) for _ in range(3)]
    for mask, left in zip(stack, (0, 8, 16), strict=True):
        mask[5:9, left : left + 4] = True
    inner = [inner_point(m) for m in stack]
    assert negative_points(stack, inner, [7, 7, 9]) == [(inner[2],), (inner[2],), (inner[0], inner[1])]


def test_prompt_as_json_omits_unused_parts() -> None:
    assert Prompt(box=(1, 2, 3.14159, 4)).as_json() == {"box": [1, 2, 3.14, 4]}
    assert Prompt(positive=((1, 2),), negative=((3, 4), (5, 6))).as_json() == {
        "positive": [[1, 2]],
        "negative": [[3, 4], [5, 6]],
    }


@given(masks, st.floats(0, 1))
def test_box_contains_its_mask_and_is_in_the_image(mask: Any, margin: float) -> None:
    x0, y0, x1, y1 = box_of(mask, margin)
    rows, columns = np.nonzero(mask)
    assert 0 <= x0 <= columns.min() and columns.max() <= x1 <= mask.shape[1] - 1
    assert 0 <= y0 <= rows.min() and rows.max() <= y1 <= mask.shape[0] - 1


@given(masks)
def test_inner_point_is_in_the_mask(mask: Any) -> None:
    x, y = inner_point(mask)
    assert mask[int(y), int(x)] and x == int(x) and y == int(y)


@given(arrays(np.bool_, (3, 12, 12)).filter(lambda m: bool(m.any(axis=(1, 2)).all())))
def test_negative_points_are_on_other_structures_only(stack: Any) -> None:
    result = negative_points(list(stack), [inner_point(m) for m in stack])
    for i, points in enumerate(result):
        for x, y in points:
            assert not stack[i][int(y), int(x)] and stack[:, int(y), int(x)].any()


@settings(max_examples=50)
@given(
    arrays(np.float32, (14, 17), elements=st.floats(0, 1, width=32)),
    st.sampled_from(["probable", "largest", "all"]),
    st.sampled_from(["none", "dilate", "erode", "open", "close"]),
    st.integers(1, 9),
)
def test_clean_up_only_removes_and_is_deterministic(p: Any, component: Any, morphology: Any, size: int) -> None:
    recipe = Recipe(component=component, morphology=morphology, morphology_size=size)
    mask = coarse_mask(p, recipe)
    assert not (mask & (p < recipe.threshold)).any()
    np.testing.assert_array_equal(mask, coarse_mask(p, recipe))
    if mask.any():
        shaped = apply_morphology(mask, recipe)
        assert shaped.any() and shaped.shape == mask.shape
        if morphology in ("dilate", "close"):
            assert not (mask & ~shaped).any()
        else:
            assert not (shaped & ~mask).any()


def test_one_vs_rival_keeps_the_likeliest_structure() -> None:
    # Pixels: of ten structures one has 0.4 and background 0.3; nobody has much; background is likeliest; all is known.
    p = np.full((10, 4), 0.03, dtype=np.float32)
    p[3, 0], p[3, 2], p[:, 3] = 0.4, 0.3, 0
    p[7, 3] = 1
    before = p.copy()
    seen = one_vs_rival(p, overlap=False)
    assert seen[3, 0] == pytest.approx(0.4 / 0.73, abs=1e-4) and seen[4, 0] == pytest.approx(0.03 / 0.43, abs=1e-4)
    assert (seen[:, 1] < 0.1).all()
    assert seen[3, 2] == pytest.approx(0.3 / 0.73, abs=1e-4)
    assert seen[7, 3] == 1 and (np.delete(seen[:, 3], 7) == 0).all()
    np.testing.assert_array_equal(p, before)
    mask = coarse_masks(seen[:, None], Recipe(component="all", min_size=1))
    assert [(int(s), int(x)) for s, _, x in np.argwhere(mask)] == [(3, 0), (7, 3)]


def test_one_vs_rival_changes_neither_single_nor_overlapping_structures() -> None:
    p = np.random.default_rng(0).random((1, 5, 5)).astype(np.float32)
    np.testing.assert_allclose(one_vs_rival(p, overlap=False), p, atol=1e-6)
    many = np.random.default_rng(0).random((3, 5, 5))
    np.testing.assert_array_equal(one_vs_rival(many, overlap=True), many)
