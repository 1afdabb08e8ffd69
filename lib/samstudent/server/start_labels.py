"""Pseudo labels as starts of human labels in 3D Slicer, which loads the label with the tag ``original`` with a case.

A start is made from the pseudo label at each request. Nothing is stored under this tag, so a start never counts as a
label, and it is never that of an earlier pseudo label. A result of a model that a client has stored has priority.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from samstudent.imaging.case import read_image
from samstudent.imaging.label_tags import FINAL, ORIGINAL, PSEUDO
from samstudent.imaging.label_writing import write_masks
from samstudent.imaging.labels import read_masks, read_rejected
from samstudent.pseudolabels.review import ReviewDecision
from samstudent.server.auth.current_user import caller
from samstudent.server.context import ServerContext
from samstudent.server.datastore.viewer_grid import moved


def list_starts(context: ServerContext, objects: Mapping[str, Any]) -> None:
    """Add the starts to the host's list of objects.

    Args:
        context: parts of the server.
        objects: case id -> image and labels, as JSON; changed in place.
    """
    decisions = context.study.reviews.decisions()
    for case, labels in context.datastore.label_infos().items():
        if case in objects and _has_start(labels, decisions.get(case)):
            objects[case]["labels"][ORIGINAL] = {"ext": ".nrrd", "info": start_info(context, case)}


def has_start(context: ServerContext, case: str) -> bool:
    """Whether a case has a pseudo label to start from, and no other label with the tag ``original``.

    A case with a human label has none, nor one whose pseudo label was rejected in a review.
    """
    labels = context.datastore.label_infos(case).get(case, {})
    return _has_start(labels, context.study.reviews.decisions().get(case))


def start_info(context: ServerContext, case: str) -> dict[str, Any]:
    """Metadata of a start: names of its values, and ``start``: the tag that it was made of."""
    info = context.datastore.get_label_info(case, PSEUDO)
    names = {"label_names": dict(context.task.structures)}
    return {"name": f"{case}.nrrd", "ts": info.get("ts"), "start": PSEUDO, "params": names}


def write_start(context: ServerContext, case: str, folder: Path) -> Path:
    """Write the start of a case: SAM's masks, also those below the threshold of the quality filter.

    Args:
        context: parts of the server.
        case: case with ``has_start``.
        folder: folder of the file.

    Returns:
        ``original.nrrd``, a label map with the values of the task; ``original.seg.nrrd`` if masks overlap, which a
        label map would cut.
    """
    store, task = context.datastore, context.task
    image, label = Path(store.get_image_uri(case)), Path(store.get_label_uri(case, PSEUDO))
    grid = read_image(image, task.dimension).grid
    masks = read_masks(label, task, grid) | read_rejected(label, task, grid)
    if not caller().is_browser and (file := store.viewer_grid_file(case)):
        shown = read_image(file).grid
        masks, grid = moved(masks, grid, shown, label), shown
    overlap = task.overlap and bool((masks.sum(axis=0) > 1).any())
    path = folder / f"original{'.seg' if overlap else ''}.nrrd"
    write_masks(path, masks, task, grid)
    return path


def _has_start(labels: Mapping[str, Mapping[str, Any]], decision: ReviewDecision | None) -> bool:
    if PSEUDO not in labels or FINAL in labels or ORIGINAL in labels:
        return False
    return decision is None or decision.decision != "rejected" or not decision.holds_for(labels[PSEUDO])
