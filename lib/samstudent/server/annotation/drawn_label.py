"""Drawn label on the wire and in drafts: state and mask of each structure, as run lengths inside of a box."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from samstudent.errors import UserError
from samstudent.server.review_page.pictures import Cropped
from samstudent.task import Task

#: ``unknown``: not annotated; ``open``: not decided yet, only in drafts.
StructureState = Literal["drawn", "absent", "unknown", "open"]
#: Mask that the drawing of a structure started from.
Start = Literal["empty", "student", "sam", "label"]
#: Start of a label whose structures have different ones.
MIXED = "mixed"
#: Largest number of run lengths of one structure.
MAX_RUNS = 1 << 22

_Count = Annotated[int, Field(ge=0)]


class DrawnStructure(BaseModel):
    """One structure of a drawn label.

    Attributes:
        state: see ``StructureState``.
        start: see ``Start``.
        edited: whether the mask was changed by hand after its start.
        finished: whether the mask is protected from other structures on the page.
        box: first voxel (x, y, z) and size (x, y, z) of the box, canonical; None: no mask.
        runs: run lengths inside of the box, x fastest, alternately outside and inside of the structure.
    """

    model_config = ConfigDict(extra="forbid")

    state: StructureState
    start: Start = "empty"
    edited: bool = False
    finished: bool = False
    box: tuple[_Count, _Count, _Count, _Count, _Count, _Count] | None = None
    runs: list[_Count] = Field([], max_length=MAX_RUNS)

    def mask(self, shape: tuple[int, ...], name: str) -> NDArray[np.bool_]:
        """Mask bool (*spatial) of a case with this shape.

        Raises:
            UserError: box or runs do not fit the case.
        """
        mask = np.zeros(shape, dtype=np.bool_)
        if self.box is None:
            if self.runs:
                raise UserError(f"structures: {name} has runs, but no box")
            return mask
        start, size = self.box[:3][::-1], self.box[3:][::-1]
        full = (1, *shape) if len(shape) == 2 else shape
        if any(s + n > limit for s, n, limit in zip(start, size, full, strict=True)):
            raise UserError(f"structures: the box of {name}, {list(self.box)}, is not inside of the image {full[::-1]}")
        if sum(self.runs) != size[0] * size[1] * size[2]:
            raise UserError(f"structures: the runs of {name} have {sum(self.runs)} pixels, its box {list(self.box)}")
        inside = np.arange(len(self.runs)) % 2 == 1
        content = np.repeat(inside, self.runs).reshape(size)
        part = tuple(slice(s, s + n) for s, n in zip(start, size, strict=True))
        mask.reshape(full)[part] = content
        return mask


class DrawnLabel(BaseModel):
    """Label that a person draws.

    Attributes:
        structures: by name; structures that are left out are ``open``.
        base: digest of the human label that the drawing started from or replaces (``CaseLabel.digest``).
        seconds: active time of the person.
        actions: number of actions.
    """

    model_config = ConfigDict(extra="forbid")

    structures: dict[str, DrawnStructure]
    base: str = Field("none", max_length=64)
    seconds: float = Field(0.0, ge=0, le=1e7, allow_inf_nan=False)
    actions: int = Field(0, ge=0, le=10**7)

    def check_names(self, task: Task) -> None:
        """Raises UserError for a structure that is not in the task."""
        if unknown := sorted(set(self.structures) - set(task.names)):
            raise UserError(f"structures: {unknown[0]!r} is not in the task, which has {', '.join(task.names)}")


@dataclass(frozen=True)
class CompleteLabel:
    """Checked label, ready to be written.

    Attributes:
        masks: bool (S, *spatial).
        unknown: bool (S,): structures that are not annotated.
        info: metadata about the drawing, as JSON.
    """

    masks: NDArray[np.bool_]
    unknown: NDArray[np.bool_]
    info: Mapping[str, Any]


def complete_label(drawn: DrawnLabel, task: Task, shape: tuple[int, ...]) -> CompleteLabel:
    """Masks of a label in which each structure is drawn, absent or not annotated.

    Args:
        drawn: the label.
        task: the task.
        shape: of the case, (y, x) or (z, y, x).

    Raises:
        UserError: an undecided structure, a drawn one without pixels, all not annotated, or an overlap that the task
            forbids.
    """
    drawn.check_names(task)
    states = {name: drawn.structures[name].state if name in drawn.structures else "open" for name in task.names}
    if left := [name for name, state in states.items() if state == "open"]:
        raise UserError(f"structures: {', '.join(left)}: expected drawn, absent or unknown (not annotated)")
    if set(states.values()) == {"unknown"}:
        raise UserError("structures: all are unknown; skip the case, or flag it as unusable")
    masks = np.zeros((len(states), *shape), dtype=np.bool_)
    owner = np.zeros(shape, dtype=np.bool_)
    for mask, (name, state) in zip(masks, states.items(), strict=True):
        if state != "drawn":
            continue
        mask[...] = drawn.structures[name].mask(shape, name)
        if not mask.any():
            raise UserError(f"structures: {name} is drawn, but has no pixel; it may be absent or unknown")
        if not task.overlap:
            if shared := int((mask & owner).sum()):
                raise UserError(f"structures: {name} shares {shared} pixels with others; the task forbids overlap")
            owner |= mask
    info = {
        "seconds": round(drawn.seconds, 1),
        "actions": drawn.actions,
        "start": start_of(drawn),
        "structures": {
            name: {"state": state, "start": drawn.structures[name].start, "edited": drawn.structures[name].edited}
            for name, state in states.items()
        },
    }
    return CompleteLabel(masks, np.array([state == "unknown" for state in states.values()]), info)


def start_of(drawn: DrawnLabel) -> str:
    """Start of a label: that of its drawn structures, or ``MIXED``."""
    starts = {structure.start for structure in drawn.structures.values() if structure.state == "drawn"}
    return starts.pop() if len(starts) == 1 else MIXED if starts else "empty"


def encoded(mask: Cropped | None) -> dict[str, Any]:
    """``box`` and ``runs`` of a mask, as JSON."""
    if mask is None:
        return {"box": None, "runs": []}
    start, size = (*(0,) * (3 - len(mask.start)), *mask.start), (*(1,) * (3 - len(mask.start)), *mask.content.shape)
    flat = mask.content.ravel()
    changes = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    runs = np.diff(np.concatenate([[0], changes, [flat.size]])).tolist()
    return {"box": [*start[::-1], *size[::-1]], "runs": [0, *runs] if flat[0] else runs}
