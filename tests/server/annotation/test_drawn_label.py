"""Drawn labels on the wire: masks there and back, and what a complete label needs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from samstudent.errors import UserError
from samstudent.server.annotation.drawn_label import DrawnLabel, DrawnStructure, complete_label, encoded
from samstudent.server.review_page.pictures import Cropped
from support.drawn import shapes, small_task

SHAPE = (64, 64)


def structure(mask: Any, **changes: Any) -> dict[str, Any]:
    return {"state": "drawn", **encoded(Cropped.of(np.asarray(mask, dtype=bool))), **changes}


@given(arrays(bool, array_shapes(min_dims=2, max_dims=3, max_side=9), elements=st.booleans()))
def test_masks_are_the_same_after_encoding(mask: np.ndarray) -> None:
    sent = DrawnStructure(state="drawn", **encoded(Cropped.of(mask)))
    assert np.array_equal(sent.mask(mask.shape, "disk"), mask)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"box": [60, 0, 0, 5, 5, 1], "runs": [25]}, "not inside of the image"),
        ({"box": [0, 0, 0, 5, 5, 2], "runs": [50]}, "not inside of the image"),
        ({"box": [0, 0, 0, 5, 5, 1], "runs": [3, 21]}, "have 24 pixels"),
        ({"box": None, "runs": [3]}, "no box"),
    ],
)
def test_runs_that_do_not_fit_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        DrawnStructure(state="drawn", **change).mask(SHAPE, "disk")


def test_complete_label_has_masks_and_facts() -> None:
    _, truth = shapes(1)
    structures = {
        "disk": structure(truth[0], start="sam"),
        "square": {"state": "unknown"},
    }
    drawn = DrawnLabel.model_validate({"structures": structures, "seconds": 12.34, "actions": 3})
    label = complete_label(drawn, small_task(), SHAPE)
    assert np.array_equal(label.masks[0], truth[0]) and not label.masks[1].any()
    assert label.unknown.tolist() == [False, True]
    assert label.info == {
        "seconds": 12.3,
        "actions": 3,
        "start": "sam",
        "structures": {
            "disk": {"state": "drawn", "start": "sam", "edited": False},
            "square": {"state": "unknown", "start": "empty", "edited": False},
        },
    }


@pytest.mark.parametrize(
    ("structures", "message"),
    [
        ({"disk": {"state": "absent"}}, "square: expected drawn, absent or unknown"),
        ({"disk": {"state": "open"}, "square": {"state": "absent"}}, "disk: expected"),
        ({"disk": {"state": "drawn"}, "square": {"state": "absent"}}, "disk is drawn, but has no pixel"),
        ({"disk": {"state": "unknown"}, "square": {"state": "unknown"}}, "all are unknown"),
        ({"disk": {"state": "absent"}, "ring": {"state": "absent"}}, "'ring' is not in the task"),
    ],
)
def test_incomplete_label_is_refused(structures: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        complete_label(DrawnLabel.model_validate({"structures": structures}), small_task(), SHAPE)


def test_overlap_is_refused_where_the_task_forbids_it() -> None:
    mask = np.zeros(SHAPE, dtype=bool)
    mask[10:20, 10:20] = True
    both = {"disk": structure(mask), "square": structure(np.roll(mask, 5, axis=1))}
    drawn = DrawnLabel.model_validate({"structures": both})
    with pytest.raises(UserError, match="square shares 50 pixels"):
        complete_label(drawn, small_task(overlap=False), SHAPE)
    assert complete_label(drawn, small_task(overlap=True), SHAPE).masks.sum() == 200
