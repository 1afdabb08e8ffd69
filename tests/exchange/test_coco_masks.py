"""COCO's run lengths and polygons."""

from __future__ import annotations

from typing import Any

import numpy as np
import pycocotools.mask as coco
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import ndimage

from samstudent.exchange.coco_masks import mask_of, polygons_of, rle_of

SIZE = (12, 16)


def blob(seed: int) -> NDArray[np.bool_]:
    """Mask of smooth parts without holes."""
    rough = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=(60, 80)), 2)
    return np.asarray(ndimage.binary_fill_holes(rough > np.quantile(rough, 0.8)))


@given(st.integers(0, 2**32 - 1), st.floats(0, 1))
def test_run_lengths_are_those_of_pycocotools(seed: int, share: float) -> None:
    mask = np.random.default_rng(seed).random(SIZE) < share
    rle = rle_of(mask)
    assert (coco.decode(rle).astype(bool) == mask).all()
    assert (mask_of(rle, SIZE) == mask).all()


def test_run_lengths_as_a_list() -> None:
    mask = mask_of({"size": [2, 3], "counts": [1, 2, 3]}, (2, 3))
    assert mask.tolist() == [[False, True, False], [True, False, False]]


@pytest.mark.parametrize("seed", range(5))
def test_polygons_stand_for_the_same_pixels(seed: int) -> None:
    mask = blob(seed)
    polygons = polygons_of(mask)
    assert polygons is not None
    assert len(polygons) == ndimage.label(mask)[1]
    read = coco.decode(coco.merge(coco.frPyObjects(polygons, *mask.shape)))
    assert (read.astype(bool) == mask).all()


def test_a_mask_with_a_hole_has_no_polygons() -> None:
    mask = np.zeros(SIZE, dtype=bool)
    mask[2:10, 2:10] = True
    assert polygons_of(mask) is not None
    mask[5, 5] = False
    assert polygons_of(mask) is None


def test_polygons_of_other_tools_are_a_union() -> None:
    expected = np.zeros(SIZE, dtype=bool)
    expected[3:7, 2:6] = expected[5:8, 5:9] = True
    squares = [[2, 3, 6, 3, 6, 7, 2, 7], [5, 5, 9, 5, 9, 8, 5, 8]]
    assert (mask_of(squares, SIZE) == expected).all()
    # One polygon without the list around it, and one beyond the border.
    assert mask_of(squares[0], SIZE)[3:7, 2:6].all()
    assert mask_of([[-3, -2, 20, -2, 20, 14, -3, 14]], SIZE).all()


@pytest.mark.parametrize(
    ("segmentation", "message"),
    [
        ({"size": [12, 17], "counts": "0"}, "expected \\[12, 16\\]"),
        ({"size": [12, 16], "counts": [3, 4]}, "add up to 7 pixels; expected 192"),
        ({"size": [12, 16], "counts": ""}, "add up to 0 pixels"),
        ({"size": [12, 16], "counts": "é"}, "not COCO's text"),
        ({"size": [12, 16], "counts": "o"}, "end within a number"),
        ({"size": [12, 16], "counts": [200, -8]}, "expected whole numbers"),
        ({"size": [12, 16]}, "expected whole numbers"),
        ([[1, 2, 3, 4]], "three points"),
        ([[1, 2, 3, 4, 5]], "three points"),
        ([[1, 2, 3, 4, "x", 6]], "expected numbers"),
        ([[1, 2, 3, 4, float("nan"), 6]], "expected numbers"),
        ([[1, 2, 3, 1e9, 5, 6]], "point 2 at 1e\\+09; expected 0 to 12"),
        ("polygon", "expected polygons or RLE"),
    ],
)
def test_faults_are_reported(segmentation: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        mask_of(segmentation, SIZE)
