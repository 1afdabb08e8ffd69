"""What the smart-edit panels of 3D Slicer and OHIF send -> which structure to draw on which plane, from which prompts.

Read from the clients' code as shipped with MONAI Label 0.8.5. All indices are i, j, k of the file, from 0.

- Slicer, model of type deepgrow and dimension 2: ``label``, ``foreground`` and ``background`` [[i, j, k], ...],
  ``slice``, and ``roi`` [i0, i1, j0, j1, k0, k1] if a box is placed (its ends in any order: right-left and front-back
  are flipped). It sends the points of the clicked slice, but of all slices when that slice is the first.
- OHIF, same model: ``foreground`` and ``background`` of the last click's slice; neither ``label`` nor ``slice``.
- The form of deepedit models, for scripts: one list of points under each structure's name, others' points as negatives.

A box that was placed in Slicer and no click: its ``slice`` is the red view's offset in millimetres without its sign
(``round(abs(GetSliceOffset()))``), no index. ``_plane_of_box`` makes the best of it. Slicer then also clears the plane
of that number in the edited segment; one click on the wanted slice in addition avoids both.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from samstudent.errors import UserError
from samstudent.sam.prompts import Prompt
from samstudent.server.tasks.slice_geometry import Planes

MAX_POINTS = 500
#: Keys of a request that are no structure, whatever a task calls its structures.
RESERVED = frozenset({"model", "image", "label", "foreground", "background", "roi", "slice", "description", "session"})

Box = tuple[float, float, float, float]
#: Two points in a client's indices.
Corners = tuple[Sequence[float], Sequence[float]]
#: (x, y) by plane.
Points = dict[int, list[tuple[float, float]]]


@dataclass(frozen=True)
class Ask:
    """One structure to draw on one plane."""

    name: str
    plane: int
    prompt: Prompt


def read_request(request: Mapping[str, Any], names: Sequence[str], planes: Planes) -> list[Ask]:
    """The structures and planes a client asks for.

    Without ``slice``, every plane that has a foreground point is drawn. Background points on a plane where nothing else
    is asked for have no effect. ``foreground`` and ``roi`` belong to ``label``; for a client that names none (OHIF) to
    the task's only structure, or to one called "foreground".

    Args:
        request: the parameters of the client's call.
        names: the task's structures.
        planes: the image that was clicked on.

    Raises:
        UserError: nothing to draw (no point, only background points), a point, slice or box outside of the image,
            or a value that is no number or list where one is needed. The text names the key.
    """
    label = request.get("label")
    if label is not None and not isinstance(label, str):
        raise UserError(f"label must be a structure's name, not {label!r}")
    active = label or (names[0] if len(names) == 1 else "foreground")

    positive = {name: _points(request, name, planes) for name in names if name in request and name not in RESERVED}
    for plane, points in _points(request, "foreground", planes).items():
        positive.setdefault(active, {}).setdefault(plane, []).extend(points)
    background = _points(request, "background", planes)
    wanted, boxes = _planes_and_boxes(request, positive, background, planes)

    asks = []
    for name in dict.fromkeys([*positive, active]):
        own = positive.get(name, {})
        own_boxes = boxes if name == active else {}
        for plane in sorted(wanted & (own.keys() | own_boxes.keys())):
            others = [p for other, by_plane in positive.items() if other != name for p in by_plane.get(plane, [])]
            negative = (*background.get(plane, []), *others)
            asks.append(Ask(name, plane, Prompt(own_boxes.get(plane), tuple(own.get(plane, ())), negative)))
    if not asks:
        where = f" on slice {min(wanted)}" if len(wanted) == 1 and planes.count > 1 else ""
        only = "only background points" if background else "no points"
        raise UserError(f"{only}{where}: add a foreground point on the structure, or a box (roi) around it")
    return asks


def _planes_and_boxes(
    request: Mapping[str, Any], positive: Mapping[str, Points], background: Points, planes: Planes
) -> tuple[set[int], dict[int, Box]]:
    """Planes to draw on, and the box by plane."""
    chosen = _slice(request, planes)
    roi = _roi(request, chosen, planes)
    clicked = {plane for by_plane in positive.values() for plane in by_plane}
    if roi is None:
        if chosen is not None and not 0 <= chosen < planes.count:
            raise UserError(f"slice {chosen} is outside of the image: it has slices 0 to {planes.count - 1}")
        return clicked if chosen is None else {chosen}, {}
    box, first, last = _box_on(planes, roi)
    if chosen is not None and chosen in clicked | background.keys():
        return {chosen}, {chosen: box}
    if chosen is None and clicked:
        boxed = {plane for plane in clicked if first <= plane <= last}
        return clicked, dict.fromkeys(boxed, box)
    plane = _plane_of_box(planes, roi, chosen, first, last)
    return {plane}, {plane: box}


def _box_on(planes: Planes, roi: Corners) -> tuple[Box, int, int]:
    """The box (x0, y0, x1, y1) cut to the image, and the first and last plane it covers."""
    (first, last), (x0, x1), (y0, y1) = (sorted(ends) for ends in zip(*map(planes.locate, roi), strict=True))
    height, width = planes.size
    x0, y0, x1, y1 = max(x0, 0.0), max(y0, 0.0), min(x1, width - 1.0), min(y1, height - 1.0)
    first, last = max(int(first), 0), min(int(last), planes.count - 1)
    if x0 > x1 or y0 > y1 or first > last:
        raise UserError(f"roi {roi[0]} to {roi[1]} lies outside of the image: {_extent(planes)}")
    return (x0, y0, x1, y1), first, last


def _plane_of_box(planes: Planes, roi: Corners, chosen: int | None, first: int, last: int) -> int:
    """The plane for a box without a click: where ``slice`` points to, else the middle of the box (where it was placed).

    ``slice`` is read as Slicer's unsigned millimetres along the patient's axis, then as an index; each counts only if
    it lies within the box.
    """
    candidates: list[float] = []
    if chosen is not None and planes.count > 1:
        i, j, _ = ((a + b) / 2 for a, b in zip(*roi, strict=True))
        to_patient = planes.grid.itk_affine  # as Slicer sees the image
        per_plane, start = to_patient[2, 2], to_patient[2] @ [i, j, 0.0, 1.0]
        if abs(per_plane) > 1e-3:
            candidates = [float((height - start) / per_plane) for height in (chosen, -chosen)]
        candidates.append(chosen)
    return next((k for k in map(round, candidates) if first <= k <= last), (first + last) // 2)


def _points(request: Mapping[str, Any], key: str, planes: Planes) -> Points:
    """Points under a key, checked, by plane."""
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
        plane, x, y = planes.locate(point)
        if not planes.inside(plane, x, y):
            raise UserError(f"{key}: point {list(point)} lies outside of the image: {_extent(planes)}")
        points.setdefault(plane, []).append((x, y))
    return points


def _roi(request: Mapping[str, Any], chosen: int | None, planes: Planes) -> Corners | None:
    """Two opposite corners of the box in the client's indices, in any order."""
    value = request.get("roi")
    if value is None or value == []:
        return None
    if not (isinstance(value, (list, tuple)) and len(value) in (4, 6) and all(map(_is_number, value))):
        raise UserError(f"roi must be six numbers i0, i1, j0, j1, k0, k1, or four x0, y0, x1, y1, not {value!r}")
    if len(value) == 6:
        return list(value[0::2]), list(value[1::2])
    if planes.grid.dimension == 2:
        return list(value[:2]), list(value[2:])
    first, last = (0, planes.count - 1) if chosen is None else (chosen, chosen)
    return [*value[:2], first], [*value[2:], last]


def _slice(request: Mapping[str, Any], planes: Planes) -> int | None:
    """The plane that the client names. None: it names none, or there is only one. OHIF's "none" is -1."""
    value = request.get("slice")
    if value is not None and not (_is_number(value) and value == int(value)):
        raise UserError(f"slice must be a whole number, the k of the file, not {value!r}")
    return None if value is None or value < 0 or planes.grid.dimension == 2 else int(value)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _extent(planes: Planes) -> str:
    height, width = planes.size
    return f"x 0 to {width - 1}, y 0 to {height - 1}, slice 0 to {planes.count - 1}"
