"""Requests of the smart-edit panels of 3D Slicer and OHIF: which structure to draw on which slice, from which prompts.

Read from the clients' code as shipped with MONAI Label 0.8.5. All indices are i, j, k of the file, from 0.

- Slicer, model of type deepgrow and dimension 2: ``label``, ``foreground`` and ``background`` [[i, j, k], ...],
  ``slice``, and ``roi`` [i0, i1, j0, j1, k0, k1] if a box is placed (its ends in any order: right-left and front-back
  are flipped). It sends the points of the clicked slice, but of all slices when that slice is the first.
- OHIF, same model: ``foreground`` and ``background`` of the last click's slice; neither ``label`` nor ``slice``.
- The form of deepedit models, for scripts: one list of points under each structure's name, others' points as negatives.

A box that was placed in Slicer and no click: its ``slice`` is the red view's offset in millimetres without its sign
(``round(abs(GetSliceOffset()))``), no index. ``_slice_of_box`` makes the best of it. Slicer then also clears the slice
of that number in the edited segment; one click on the wanted slice in addition avoids both.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from samstudent.errors import UserError
from samstudent.sam.prompts import Prompt
from samstudent.server.tasks.slice_geometry import SliceStack

MAX_POINTS = 500
#: Keys of a request that are no structure, whatever a task calls its structures.
RESERVED = frozenset({"model", "image", "label", "foreground", "background", "roi", "slice", "description", "session"})

Box = tuple[float, float, float, float]
#: Two points in a client's indices.
Corners = tuple[Sequence[float], Sequence[float]]
#: (x, y) by slice.
Points = dict[int, list[tuple[float, float]]]


@dataclass(frozen=True)
class DrawRequest:
    """One structure to draw on one slice.

    Attributes:
        name: of the structure.
        slice: index in the stack.
        prompt: on that slice.
    """

    name: str
    slice: int
    prompt: Prompt


def read_request(request: Mapping[str, Any], names: Sequence[str], stack: SliceStack) -> list[DrawRequest]:
    """What a client requests: structures and the slices to draw them on.

    Without ``slice``, every slice that has a foreground point is drawn. Background points on a slice without any other
    prompt have no effect. ``foreground`` and ``roi`` belong to ``label``; for a client that names none (OHIF) to
    the task's only structure, or to one called "foreground".

    Args:
        request: the parameters of the client's call.
        names: the task's structures.
        stack: the image that was clicked on.

    Raises:
        UserError: nothing to draw (no point, only background points), a point, slice or box outside of the image,
            or a value that is no number or list where one is needed. The text names the key.
    """
    label = request.get("label")
    if label is not None and not isinstance(label, str):
        raise UserError(f"label must be a structure's name, not {label!r}")
    active = label or (names[0] if len(names) == 1 else "foreground")

    positive = {name: _points(request, name, stack) for name in names if name in request and name not in RESERVED}
    for k, points in _points(request, "foreground", stack).items():
        positive.setdefault(active, {}).setdefault(k, []).extend(points)
    background = _points(request, "background", stack)
    chosen, boxes = _slices_and_boxes(request, positive, background, stack)

    requests = []
    for name in dict.fromkeys([*positive, active]):
        own = positive.get(name, {})
        own_boxes = boxes if name == active else {}
        for k in sorted(chosen & (own.keys() | own_boxes.keys())):
            others = [p for other, by_slice in positive.items() if other != name for p in by_slice.get(k, [])]
            negative = (*background.get(k, []), *others)
            requests.append(DrawRequest(name, k, Prompt(own_boxes.get(k), tuple(own.get(k, ())), negative)))
    if not requests:
        where = f" on slice {min(chosen)}" if len(chosen) == 1 and stack.count > 1 else ""
        only = "only background points" if background else "no points"
        raise UserError(f"{only}{where}: add a foreground point on the structure, or a box (roi) around it")
    return requests


def _slices_and_boxes(
    request: Mapping[str, Any], positive: Mapping[str, Points], background: Points, stack: SliceStack
) -> tuple[set[int], dict[int, Box]]:
    """Slices to draw on, and the box by slice."""
    chosen = _slice(request, stack)
    roi = _roi(request, chosen, stack)
    clicked = {k for by_slice in positive.values() for k in by_slice}
    if roi is None:
        if chosen is not None and not 0 <= chosen < stack.count:
            raise UserError(f"slice {chosen} is outside of the image: it has slices 0 to {stack.count - 1}")
        return clicked if chosen is None else {chosen}, {}
    box, first, last = _box_on(stack, roi)
    if chosen is not None and chosen in clicked | background.keys():
        return {chosen}, {chosen: box}
    if chosen is None and clicked:
        boxed = {k for k in clicked if first <= k <= last}
        return clicked, dict.fromkeys(boxed, box)
    k = _slice_of_box(stack, roi, chosen, first, last)
    return {k}, {k: box}


def _box_on(stack: SliceStack, roi: Corners) -> tuple[Box, int, int]:
    """The box (x0, y0, x1, y1) cut to the image, and the first and last slice it covers."""
    (first, last), (x0, x1), (y0, y1) = (sorted(ends) for ends in zip(*map(stack.locate, roi), strict=True))
    height, width = stack.size
    x0, y0, x1, y1 = max(x0, 0.0), max(y0, 0.0), min(x1, width - 1.0), min(y1, height - 1.0)
    first, last = max(int(first), 0), min(int(last), stack.count - 1)
    if x0 > x1 or y0 > y1 or first > last:
        raise UserError(f"roi {roi[0]} to {roi[1]} lies outside of the image: {_extent(stack)}")
    return (x0, y0, x1, y1), first, last


def _slice_of_box(stack: SliceStack, roi: Corners, chosen: int | None, first: int, last: int) -> int:
    """The slice for a box without a click: where ``slice`` points to, else the middle of the box (where it was placed).

    ``slice`` is read as Slicer's unsigned millimetres along the patient's axis, then as an index; each counts only if
    it lies within the box.
    """
    candidates: list[float] = []
    if chosen is not None and stack.count > 1:
        i, j, _ = ((a + b) / 2 for a, b in zip(*roi, strict=True))
        to_patient = stack.grid.itk_affine  # the affine that Slicer uses
        per_slice, start = to_patient[2, 2], to_patient[2] @ [i, j, 0.0, 1.0]
        if abs(per_slice) > 1e-3:
            candidates = [float((height - start) / per_slice) for height in (chosen, -chosen)]
        candidates.append(chosen)
    return next((k for k in map(round, candidates) if first <= k <= last), (first + last) // 2)


def _points(request: Mapping[str, Any], key: str, stack: SliceStack) -> Points:
    """Points under a key, checked, by slice."""
    value = request.get(key)
    if value is None:
        return {}
    if not isinstance(value, (list, tuple)):
        raise UserError(f"{key} must be a list of points [[i, j, k], ...], not {value!r}")
    if len(value) > MAX_POINTS:
        raise UserError(f"{key} has {len(value)} points; at most {MAX_POINTS} are read")
    points: Points = {}
    for point in value:
        if not (isinstance(point, (list, tuple)) and len(point) in (2, 3) and all(map(_is_number, point))):
            raise UserError(f"{key}: a point is a list of numbers [i, j, k], not {point!r}")
        k, x, y = stack.locate(point)
        if not stack.inside(k, x, y):
            raise UserError(f"{key}: point {list(point)} lies outside of the image: {_extent(stack)}")
        points.setdefault(k, []).append((x, y))
    return points


def _roi(request: Mapping[str, Any], chosen: int | None, stack: SliceStack) -> Corners | None:
    """Two opposite corners of the box in the client's indices, in any order."""
    value = request.get("roi")
    if value is None or value == []:
        return None
    if not (isinstance(value, (list, tuple)) and len(value) in (4, 6) and all(map(_is_number, value))):
        raise UserError(f"roi must be six numbers i0, i1, j0, j1, k0, k1, or four x0, y0, x1, y1, not {value!r}")
    if len(value) == 6:
        return list(value[0::2]), list(value[1::2])
    if stack.grid.dimension == 2:
        return list(value[:2]), list(value[2:])
    first, last = (0, stack.count - 1) if chosen is None else (chosen, chosen)
    return [*value[:2], first], [*value[2:], last]


def _slice(request: Mapping[str, Any], stack: SliceStack) -> int | None:
    """The slice that the client names. None: it names none, or there is only one. OHIF's "none" is -1."""
    value = request.get("slice")
    if value is not None and not (_is_number(value) and value == int(value)):
        raise UserError(f"slice must be a whole number, the k of the file, not {value!r}")
    return None if value is None or value < 0 or stack.grid.dimension == 2 else int(value)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _extent(stack: SliceStack) -> str:
    height, width = stack.size
    return f"x 0 to {width - 1}, y 0 to {height - 1}, slice 0 to {stack.count - 1}"
