"""Names of the values of a label map, stored in a file beside it and bound to its content.

PNG, TIFF, NIfTI and plain NRRD hold numbers without names. The names are known when a label is saved: a client sends
them, or they are assumed from the task. They are written to ``<label file>.values.json`` at that moment, because later
the task's structures may be in another order, the label may be copied or renamed, and the study's list may be lost. The
label file itself is never changed. Formats with segment names (.seg.nrrd, DICOM SEG) need no such file.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from samstudent.errors import UserError
from samstudent.imaging.folder import VALUE_NAMES
from samstudent.imaging.labels import means_structure
from samstudent.imaging.structure_names import REJECTED, marked_structure, plain_name
from samstudent.task import Task
from samstudent.util.files import atomic_write

#: Suffix of the file beside a label map, e.g. ``case01.nii.gz.values.json``.
SUFFIX = VALUE_NAMES
#: Key of the same record in a label's info in the study's list.
KEY = "value_names"
#: Segments that Slicer does not export to the label map that it submits (MONAILabel.py, onSaveLabel).
NOT_EXPORTED = ("background", "foreground_scribbles", "background_scribbles")
#: Largest value with a name: that of a 16-bit label map.
HIGHEST_VALUE = 65535
#: ``client``: sent with the label. ``user``: written into the file by a user. ``assumed``: the task's values when the
#: label was first found. ``file``: the label file has segment names.
Source = Literal["client", "user", "assumed", "file"]
#: Largest number of label files whose problems are listed; of the rest only the number is.
MOST_LISTED = 5


@dataclass(frozen=True)
class TaskIdentity:
    """Identity of a task: its name and its structures."""

    name: str
    structures: tuple[str, ...]

    @classmethod
    def of(cls, task: Task) -> TaskIdentity:
        return cls(task.name, tuple(task.names))

    def is_same_as(self, other: TaskIdentity) -> bool:
        """Whether name or set of structures are equal: a task may be renamed."""
        return self.name == other.name or _plain_set(self.structures) == _plain_set(other.structures)

    def __str__(self) -> str:
        return f"task {self.name} ({', '.join(self.structures)})"


@dataclass(frozen=True)
class ValueNames:
    """Names of the values of one label map.

    Attributes:
        names: ``names[v - 1]`` is the structure of value v, "" for no structure. Empty for a file with segment names.
        source: origin of the names.
        task: the task that was active when they were recorded; None: not known.
        problem: reason why the names are not known, one sentence; the label cannot be used then.
    """

    names: tuple[str, ...]
    source: Source
    task: TaskIdentity | None = None
    problem: str | None = None

    @classmethod
    def unknown(cls, problem: str, task: Task) -> ValueNames:
        return cls((), "assumed", TaskIdentity.of(task), problem)

    def by_value(self) -> dict[int, str]:
        return {value: name for value, name in enumerate(self.names, 1) if name}

    def of(self, values: Collection[int]) -> tuple[str | None, ...]:
        """Names of these values in a form that can be compared; None for a value without a name."""
        known = self.by_value()
        return tuple(plain_name(known[value]) if value in known else None for value in sorted(values))

    def is_of_another_task(self, task: Task) -> bool:
        return self.task is not None and not self.task.is_same_as(TaskIdentity.of(task))

    def left_out(self, task: Task) -> list[str]:
        """Names that are no structure of the task."""
        return [name for name in self.by_value().values() if not is_known(name, task)]

    def as_json(self) -> dict[str, Any]:
        content: dict[str, Any] = {"source": self.source}
        if self.problem:
            content["problem"] = self.problem
        if self.source != "file":
            content["values"] = {str(value): name for value, name in self.by_value().items()}
        if self.task:
            content["task"] = {"name": self.task.name, "structures": list(self.task.structures)}
        return content

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> ValueNames:
        """Names from JSON values. Raises UserError: not of this form, perhaps after a change by a user."""
        source, values, task = content.get("source"), content.get("values", {}), content.get("task")
        if source is None or source not in get_args(Source):
            raise UserError(f'"source" must be one of {", ".join(get_args(Source))}, not {source!r}')
        if not isinstance(values, dict):
            raise UserError(f'"values" must be like {{"1": "radius"}}, not {values!r}')
        by_value = {}
        for value, name in values.items():
            if not str(value).isdecimal() or not 1 <= int(value) <= HIGHEST_VALUE or not is_name(name):
                raise UserError(f'"values" must be like {{"1": "radius"}}, not {{{value!r}: {name!r}}}')
            by_value[int(value)] = str(name).strip()
        try:
            identity = TaskIdentity(str(task["name"]), tuple(map(str, task["structures"]))) if task else None
        except (TypeError, KeyError) as error:
            raise UserError(f'"task" must be like {{"name": ..., "structures": [...]}}, not {task!r}') from error
        return cls(in_order(by_value), source, identity, content.get("problem"))


def is_known(name: str, task: Task) -> bool:
    """Whether a name is or marks a structure of the task, or is one that Slicer does not export."""
    if plain_name(name) in map(plain_name, NOT_EXPORTED):
        return True
    return means_structure(name, task) or marked_structure(name, REJECTED, task.structures) is not None


def in_order(by_value: Mapping[int, str]) -> tuple[str, ...]:
    """``names[v - 1]`` for value v, "" for values without a name."""
    return tuple(by_value.get(value, "") for value in range(1, max(by_value, default=0) + 1))


def is_name(name: Any) -> bool:
    return isinstance(name, str) and bool(name.strip())


def _plain_set(structures: Iterable[str]) -> set[str]:
    return {plain_name(structure) for structure in structures}


# ---- the file beside the label ----


def sidecar_of(label: Path) -> Path:
    return label.with_name(label.name + SUFFIX)


def write_sidecar(label: Path, sha256: str, names: ValueNames) -> int:
    """Write the names of a label map's values to the file beside it, atomically. Returns its time of change, ns.

    Raises:
        OSError: the disk is full, or the folder read-only.
    """
    path = sidecar_of(label)
    content = {"label": label.name, "sha256": sha256} | names.as_json()
    content["time"] = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    atomic_write(path, json.dumps(content, indent=1, ensure_ascii=False) + "\n")
    return path.stat().st_mtime_ns


def read_sidecar(path: Path) -> tuple[str, ValueNames] | None:
    """SHA-256 of the label map and names of its values, from a ``*.values.json``; None: no such file.

    Raises:
        UserError: not of this form, perhaps after a change by a user.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict) or not isinstance(content.get("sha256"), str):
            raise UserError('expected {"sha256": ..., "source": ..., "values": {"1": "radius"}}')
        return content["sha256"], ValueNames.from_json(content)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: {error}; correct it, or rename it") from error


def sidecar_time(label: Path) -> int | None:
    """Time of change of the file beside a label, ns; None: no such file."""
    try:
        return sidecar_of(label).stat().st_mtime_ns
    except OSError:
        return None


# ---- messages ----


def summary(labels: Iterable[ValueNames], task: Task, *, left_out_too: bool = True) -> list[str]:
    """Messages for users about the labels of a study, one line for each kind of finding.

    Args:
        labels: names of each label file.
        task: the active task.
        left_out_too: list the structures that the task does not have, too.
    """
    assumed: Counter[tuple[TaskIdentity | None, tuple[str, ...]]] = Counter()
    others: Counter[TaskIdentity | None] = Counter()
    left_out: Counter[str] = Counter()
    problems, with_others = [], 0
    for names in labels:
        if names.problem:
            problems.append(names.problem)
        elif names.is_of_another_task(task):
            others[names.task] += 1
        else:
            unknown = names.left_out(task)
            left_out.update(unknown)
            with_others += bool(unknown)
            assumed[names.task, names.names] += names.source == "assumed"
    lines = problems[:MOST_LISTED]
    if len(problems) > MOST_LISTED:
        lines.append(f"{len(problems) - MOST_LISTED} more label maps with values of unknown meaning")
    for (identity, names_of), count in assumed.items():
        if count:
            origin = identity.name if identity else task.name
            listing = ", ".join(f"{value} = {name}" for value, name in enumerate(names_of, 1) if name)
            lines.append(
                f"{_maps(count)} no names for {'its' if count == 1 else 'their'} values; assumed from task "
                f"{origin}: {listing}. Check one, or submit .seg.nrrd"
            )
    if left_out and left_out_too:
        listed = ", ".join(f"{name} ({count})" for name, count in sorted(left_out.items()))
        lines.append(
            f"label maps ({with_others}) name structures that task {task.name} does not have; left out: {listed}"
        )
    lines += [f"{count} label maps are left out: they belong to {identity}" for identity, count in others.items()]
    return lines


def _maps(count: int) -> str:
    return "1 label map has" if count == 1 else f"{count} label maps have"
