"""Dice and surface distance of one case, and rows on the quality of one case's pseudo label, as plain values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from samstudent.imaging.annotations import LabelledMasks
from samstudent.metrics import dice_where_known, surface_distances
from samstudent.pseudolabels.quality_filter import FilteredStructure
from samstudent.sam.prompts import Mask
from samstudent.task import Task


def measure(truth: LabelledMasks, masks: Mask, spacing: tuple[float, ...]) -> dict[str, list[Any]]:
    """Metrics of one case, a value for each structure.

    Args:
        truth: label; masks are not compared in its unknown regions.
        masks: bool (S, *spatial).
        spacing: mm per pixel in array order.

    Returns:
        ``dice`` and ``distance`` (average surface distance, mm), None: nothing to measure; ``truth`` and ``found``:
        whether label and masks contain the structure.
    """
    masks = truth.known_part(masks)
    return {
        "dice": [number(v) for v in dice_where_known(truth, masks)],
        "distance": [number(v) for v in surface_distances(truth.masks, masks, spacing)],
        "truth": [bool(m.any()) for m in truth.masks],
        "found": [bool(m.any()) for m in masks],
    }


def quality_rows(
    case: str,
    truth: LabelledMasks | None,
    raw: Mask,
    refined: Mask,
    task: Task,
    status: Mapping[str, FilteredStructure] | None = None,
) -> list[dict[str, Any]]:
    """Quality of a case's pseudo label: a row for each structure that truth, student or pseudo label contains.

    Args:
        case: id of the case.
        truth: hidden label; None: no label, and no rows.
        raw: the teacher's own masks, bool (S, *spatial).
        refined: all masks of the pseudo label, before the quality filter, bool (S, *spatial).
        task: names of the structures.
        status: result of the quality filter by structure; None: every mask is accepted.
    """
    if truth is None:
        return []
    before, after = dice_where_known(truth, raw), dice_where_known(truth, refined)
    rows = []
    for i, name in enumerate(task.names):
        if np.isnan(before[i]) and np.isnan(after[i]):
            continue
        drawn = FilteredStructure(name, "accepted" if refined[i].any() else "absent", None)
        found = (status or {}).get(name, drawn)
        row: dict[str, Any] = {"case": case, "structure": name, "status": found.status}
        row |= {"quality": found.quality, "lower_bound": found.lower_bound}
        row |= {"truth": bool(truth.masks[i].any()), "raw": number(before[i]), "refined": number(after[i])}
        rows.append(row)
    return rows


def number(value: float) -> float | None:
    """JSON value of a number: nan as None."""
    return None if np.isnan(value) else round(float(value), 5)
