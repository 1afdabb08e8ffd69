"""Measures of one case."""

from __future__ import annotations

import numpy as np

from samstudent.imaging.annotations import LabelledMasks
from samstudent.pseudolabels.quality_filter import FilteredStructure
from samstudent.research.experiment.measure import measure, quality_rows
from support.drawn import shapes, small_task


def test_measures_distinguish_missed_from_absent_structures() -> None:
    truth, masks = np.zeros((3, 8, 8), bool), np.zeros((3, 8, 8), bool)
    truth[0, 2:4, 2:4] = masks[0, 2:4, 2:4] = masks[1, 0, 0] = True
    found = measure(LabelledMasks(truth), masks, (1.0, 1.0))
    assert found["dice"] == [1.0, 0.0, None]
    assert found["distance"][0] == 0
    assert found["truth"] == [True, False, False]
    assert found["found"] == [True, True, False]
    unknown = np.zeros_like(truth)
    unknown[1] = True
    found = measure(LabelledMasks(truth, unknown), masks, (1.0, 1.0))
    assert found["dice"] == [1.0, None, None]
    assert found["found"] == [True, False, False], "no false alarm where nothing is known"


def test_quality_rows_include_rejected_structures() -> None:
    _, masks = shapes(0)
    task = small_task()
    half = masks.copy()
    half[0, :, : int(np.flatnonzero(masks[0].any(0)).mean())] = False
    filtered = {
        "disk": FilteredStructure("disk", "rejected", 0.4),
        "square": FilteredStructure("square", "accepted", 0.9, lower_bound=0.8),
    }
    rows = quality_rows("a", LabelledMasks(masks), half, masks, task, filtered)
    assert [row["status"] for row in rows] == ["rejected", "accepted"]
    assert rows[0]["refined"] == 1
    assert rows[0]["raw"] < 0.8
    assert [(row["quality"], row["lower_bound"]) for row in rows] == [(0.4, None), (0.9, 0.8)]
    assert quality_rows("a", None, half, masks, task) == []
