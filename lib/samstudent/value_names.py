"""Which structure each value of a label map means, kept in a file beside the label map and bound to its content.

PNG, TIFF, NIfTI and plain NRRD hold numbers without names. The names are known when a label is taken in: a client sends
them, or they are assumed from the task. They are written to ``<label file>.values.json`` at that moment, because later
the task's structures may be in another order, the label may be copied or renamed, and the study's list may be lost. The
label file itself is never changed. Formats that name their segments (.seg.nrrd, DICOM SEG) need no such file.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args

from samstudent import dicomseg
from samstudent.errors import UserError
from samstudent.files import atomic_write, sha256_file
from samstudent.folder import VALUE_NAMES
from samstudent.formats import kind_of
from samstudent.labels import REJECTED, means_structure, stored_values
from samstudent.structure_names import find_structure, marked_structure, plain_name
from samstudent.task import Task

#: A label map's names lie in a file of its own name with this suffix, e.g. ``case01.nii.gz.values.json``.
SUFFIX = VALUE_NAMES
#: Key of a label's info under which the study's list holds the same.
KEY = "value_names"
#: Slicer leaves these out of the label map that it submits (MONAILabel.py, onSaveLabel).
NOT_EXPORTED = ("background", "foreground_scribbles", "background_scribbles")
#: Largest value that a name may be given to: that of a 16-bit label map.
HIGHEST_VALUE = 65535
#: ``client``: sent with the label. ``user``: written into the file by hand. ``assumed``: the task's values at the time
#: when the label was first seen. ``file``: the label file names its segments itself.
Source = Literal["client", "user", "assumed", "file"]
#: So many label files with a problem are listed each; of more only the number.
MOST_LISTED = 5


@dataclass(frozen=True)
class TaskIdentity:
    """By which a task is told from another one: its name and its structures."""

    name: str
    structures: tuple[str, ...]

    @classmethod
    def of(cls, task: Task) -> TaskIdentity:
        return cls(task.name, tuple(task.names))

    def is_same_as(self, other: TaskIdentity) -> bool:
        """True for one name, and for another name with the same set of structures: a task that was renamed."""
        return self.name == other.name or _plain_set(self.structures) == _plain_set(other.structures)

    def __str__(self) -> str:
        return f"task {self.name} ({', '.join(self.structures)})"


@dataclass(frozen=True)
class ValueNames:
    """What the values of one label map mean.

    Attributes:
        names: ``names[v - 1]`` is the structure that value v means; "" where v means nothing. Of a label file that
            names its segments: empty.
        source: how this is known.
        task: the task in force when it was recorded; None: not known.
        problem: why it is not known, in one sentence; the label cannot be used then.
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
        """Raises UserError where it is none of ours, which may be after somebody changed it by hand."""
        source, values, task = content.get("source"), content.get("values", {}), content.get("task")
        if source is None or source not in get_args(Source):
            raise UserError(f'"source" must be one of {", ".join(get_args(Source))}, not {source!r}')
        if not isinstance(values, dict):
            raise UserError(f'"values" must be like {{"1": "radius"}}, not {values!r}')
        by_value = {}
        for value, name in values.items():
            if not str(value).isdecimal() or not 1 <= int(value) <= HIGHEST_VALUE or not _is_name(name):
                raise UserError(f'"values" must be like {{"1": "radius"}}, not {{{value!r}: {name!r}}}')
            by_value[int(value)] = str(name).strip()
        try:
            identity = TaskIdentity(str(task["name"]), tuple(map(str, task["structures"]))) if task else None
        except (TypeError, KeyError) as error:
            raise UserError(f'"task" must be like {{"name": ..., "structures": [...]}}, not {task!r}') from error
        return cls(in_order(by_value), source, identity, content.get("problem"))


def is_known(name: str, task: Task) -> bool:
    """Whether a segment's name says something about a structure of the task, or is one that marks no structure."""
    if plain_name(name) in map(plain_name, NOT_EXPORTED):
        return True
    return means_structure(name, task) or marked_structure(name, REJECTED, task.structures) is not None


def in_order(by_value: Mapping[int, str]) -> tuple[str, ...]:
    """``names[v - 1]`` for value v, "" for values without a name."""
    return tuple(by_value.get(value, "") for value in range(1, max(by_value, default=0) + 1))


# ---- what a client sends ----


def names_from_label_info(
    info: Mapping[str, Any], values: Collection[int], structures: Iterable[str] = ()
) -> tuple[str, ...] | None:
    """What the values of a submitted label map mean.

    There are two ways to read such a list. ``idx`` is the value. Or, as Slicer means it, the place in the list is:
    Slicer exports its segments without background and scribbles and numbers the exported ones from 1, while its ``idx``
    counts the skipped ones too. The values that the file has tell which of the two is possible.

    Args:
        info: a label's info, ``{"label_info": [{"name": "radius", "idx": 1}, ...], ...}``.
        values: the file's values without 0.
        structures: the task's; to find one structure under two names.

    Returns:
        The names, ``names[v - 1]`` for value v, "" for values without a name. None where the info has no
        ``label_info``.

    Raises:
        UserError: ``label_info`` is not such a list; a value of the file has no name; both readings are possible and
            differ.
    """
    entries = info.get("label_info")
    if entries is None or entries == {} or entries == "":
        return None
    names, indices = _entries(entries, list(structures))
    readings = []
    if all(index is not None for index in indices):
        readings.append({index: name for index, name in zip(indices, names, strict=True) if index})
    given = [index for index in indices if index is not None]
    if given == sorted(given):
        # Slicer's idx only ever rises.
        exported = [name for name in names if name not in NOT_EXPORTED]
        readings.append(dict(enumerate(exported, 1)))
    possible = [reading for reading in readings if set(values) <= reading.keys()]
    found = ", ".join(map(str, sorted(values)))
    if not possible:
        listed = ", ".join(f"{index} = {name}" if index else name for index, name in zip(indices, names, strict=True))
        raise UserError(
            f"label_info names {listed or 'no segment'}, but the label map has the values {found}: some of its values "
            "have no name. List a name with its value as idx for each, or submit .seg.nrrd"
        )
    for value in sorted(values):
        meant = [reading[value] for reading in possible]
        if len(set(meant)) > 1:
            raise UserError(
                f"label_info can be read in two ways: value {value} of the label map (it has {found}) is {meant[0]!r} "
                f"by idx, {meant[1]!r} by its place in the list. Number the entries from 1 without gaps, or submit "
                ".seg.nrrd"
            )
    return in_order(possible[0])


def _entries(entries: Any, structures: Sequence[str]) -> tuple[list[str], list[int | None]]:
    """Names and indices of a ``label_info``, checked."""
    example = '[{"name": "radius", "idx": 1}]'
    if not isinstance(entries, list) or any(not isinstance(e, dict) or "name" not in e for e in entries):
        raise UserError(f"label_info: expected a list like {example}, not {entries!r}")
    names, seen = list[str](), dict[str, str]()
    indices: list[int | None] = []
    for entry in entries:
        name, index = entry["name"], entry.get("idx")
        if not _is_name(name):
            raise UserError(f"label_info: a name must be a text that is not empty, not {name!r}; expected {example}")
        meant = find_structure(name, structures) or plain_name(name)
        if meant in seen:
            raise UserError(f"label_info names one structure twice: {seen[meant]!r} and {name!r}")
        seen[meant] = name
        if isinstance(index, float) and index.is_integer():
            index = int(index)
        if index is not None and (isinstance(index, bool) or not isinstance(index, int)):
            raise UserError(f"label_info: idx of {name!r} must be a whole number, not {index!r}")
        if index is not None and not 0 <= index <= HIGHEST_VALUE:
            raise UserError(f"label_info: idx of {name!r} must be from 1 to {HIGHEST_VALUE}, not {index}")
        if index == 0 and plain_name(name) != "background":
            raise UserError(f"label_info: idx 0 is the background, so {name!r} cannot have it; count from 1")
        if index is not None and index in indices:
            raise UserError(f"label_info: idx {index} is given twice, to {names[indices.index(index)]!r} and {name!r}")
        names.append(name.strip())
        indices.append(index)
    if None in indices and any(index is not None for index in indices):
        raise UserError(f"label_info: {names[indices.index(None)]!r} has no idx; give every entry one, or none")
    return names, indices


def _is_name(name: Any) -> bool:
    return isinstance(name, str) and bool(name.strip())


# ---- beside the label ----


def sidecar_of(label: Path) -> Path:
    return label.with_name(label.name + SUFFIX)


def write_sidecar(label: Path, sha256: str, names: ValueNames) -> int:
    """Write the names of a label map's values beside it, at once. Returns the written file's time of change, ns.

    Raises:
        OSError: no room, or the folder is read-only.
    """
    path = sidecar_of(label)
    content = {"label": label.name, "sha256": sha256} | names.as_json()
    content["time"] = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    atomic_write(path, json.dumps(content, indent=1, ensure_ascii=False) + "\n")
    return path.stat().st_mtime_ns


def read_sidecar(path: Path) -> tuple[str, ValueNames] | None:
    """SHA-256 of the label map that a ``*.values.json`` is about, and what its values mean; None: no such file.

    Raises:
        UserError: it cannot be understood; it may have been changed by hand.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict) or not isinstance(content.get("sha256"), str):
            raise UserError('expected {"sha256": ..., "source": ..., "values": {"1": "radius"}}')
        return content["sha256"], ValueNames.from_json(content)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: {error}; correct it, or delete it") from error


def sidecar_time(label: Path) -> int | None:
    """Time of change of the file beside a label, ns; None: there is none."""
    try:
        return sidecar_of(label).stat().st_mtime_ns
    except OSError:
        return None


# ---- what a study knows ----


@dataclass(frozen=True)
class Record:
    """What some file says of a label map of a certain content. origin: the label file that it was said of."""

    origin: str
    info: Mapping[str, Any]


class KnownNames:
    """Value names of label maps by the SHA-256 of their content, from all that a study keeps. Read when first asked.

    Args:
        labels: folder of the labels: ``<labels>/<tag>/*.values.json`` and ``<labels>/.history``, or a plain folder.
        lists: the study's list of images and labels, and its copies; each is asked after the one before.
    """

    def __init__(self, labels: Path, lists: Sequence[Path] = ()) -> None:
        self._labels, self._lists = labels, lists
        self._tiers: dict[int, dict[str, list[Record]]] = {}

    def find(self, sha256: str) -> Iterator[list[Record]]:
        """Records of this content, of one kind of source at a time, the best first."""
        sources: list[Callable[[], Iterator[tuple[str, Record]]]] = [self._beside_labels]
        sources += [lambda path=path: _in_list(path) for path in self._lists]  # type: ignore[misc]
        for number, source in enumerate(sources):
            if number not in self._tiers:
                self._tiers[number] = {}
                for digest, record in source():
                    self._tiers[number].setdefault(digest, []).append(record)
            if records := self._tiers[number].get(sha256):
                yield records

    def _beside_labels(self) -> Iterator[tuple[str, Record]]:
        for path in sorted([*self._labels.glob(f"*{SUFFIX}"), *self._labels.glob(f"[!.]*/*{SUFFIX}")]):
            try:
                if found := read_sidecar(path):
                    yield found[0], Record(path.name.removesuffix(SUFFIX), {KEY: found[1].as_json()})
            except UserError:
                continue  # said of its own label
        for path in sorted(self._labels.glob(".history/*/*/*.json")):
            try:
                info = json.loads(path.read_text(encoding="utf-8"))
                yield str(info["sha256"]), Record(str(info.get("name", path.name)), info)
            except (OSError, ValueError, KeyError, TypeError):
                continue


def _in_list(path: Path) -> Iterator[tuple[str, Record]]:
    """What a ``datastore_v2.json`` says of its labels."""
    try:
        objects = json.loads(path.read_text(encoding="utf-8"))["objects"]
        for entry in objects.values():
            for label in entry["labels"].values():
                info = label["info"]
                if "sha256" in info:
                    yield str(info["sha256"]), Record(str(info.get("name", "?")), info)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return


class _Content:
    """A label file, read when that is needed first."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @cached_property
    def _read(self) -> tuple[frozenset[int], bool]:
        if kind_of(self.path) == "dicom" and dicomseg.is_seg(self.path):
            return frozenset(), True
        values, names = stored_values(self.path)
        return frozenset(int(value) for value in values if value), names is not None

    @property
    def values(self) -> frozenset[int]:
        """Its values without 0."""
        return self._read[0]

    @property
    def names_itself(self) -> bool:
        """Whether it names its segments."""
        return kind_of(self.path) in ("nrrd", "dicom") and self._read[1]


def of_upload(path: Path, info: Mapping[str, Any], task: Task) -> ValueNames:
    """What the values of a label mean that a client sends.

    Args:
        info: sent along, perhaps with ``label_info``.

    Raises:
        UserError: ``label_info`` cannot be understood, does not fit the file's values, or names no structure of the
            task.
    """
    content = _Content(path)
    try:
        values, names_itself = content.values, content.names_itself
    except UserError as error:
        return ValueNames.unknown(str(error), task)  # whether such a file is taken is decided elsewhere
    if names_itself:
        return ValueNames((), "file", TaskIdentity.of(task))
    if (names := names_from_label_info(info, values, task.structures)) is not None:
        if names and not any(means_structure(name, task) for name in names):
            raise UserError(
                f"label_info: none of its names {list(names)} is a structure of the task, which has {task.names}"
            )
        return ValueNames(names, "client", TaskIdentity.of(task))
    return _assumed(path, values, task)


def resolve(path: Path, sha256: str, info: Mapping[str, Any], task: Task, known: KnownNames) -> ValueNames:
    """What the values of a label in the study mean, by the first of these that says it: the file itself, the file
    beside it, the study's list, records of the same content under another name, and the task's present values.

    Args:
        path: the label file.
        sha256: of its content.
        info: what the study's list says of this content; ``{}``: nothing.
        task: the task in force.
        known: records of the study.

    Returns:
        With ``problem`` set where nothing can be said, or two records of the same content contradict each other.
    """
    content = _Content(path)
    try:
        if content.names_itself:
            return ValueNames((), "file", TaskIdentity.of(task))
        beside = read_sidecar(sidecar_of(path))
        if beside is not None and beside[0] == sha256:
            return beside[1]
        if (names := _of_info(info, content.values, task.structures)) is not None:
            return names
        for records in known.find(sha256):
            if (names := _of_records(path, records, content.values, task.structures)) is not None:
                return names
        assumed = _assumed(path, content.values, task)
        if beside is not None and not assumed.problem and beside[1].of(content.values) != assumed.of(content.values):
            return ValueNames.unknown(
                f"{path}: its content is not the one that {sidecar_of(path).name} is about, and its values are not the "
                f"task's there: {_listed(beside[1])}. Correct or delete that file",
                task,
            )
        return assumed
    except UserError as error:
        return ValueNames.unknown(str(error), task)


def _of_info(info: Mapping[str, Any], values: Collection[int], structures: Iterable[str]) -> ValueNames | None:
    recorded = info.get(KEY)
    if recorded and not recorded.get("problem"):
        names = ValueNames.from_json(recorded)
        if names.source != "file":
            return names
    if (given := names_from_label_info(info, values, structures)) is not None:
        return ValueNames(given, "client")
    return None


def _of_records(
    path: Path, records: Sequence[Record], values: Collection[int], structures: Iterable[str]
) -> ValueNames | None:
    """What records of one content agree on; where they do not, that of the same file name.

    Raises:
        UserError: they contradict each other.
    """
    found: list[tuple[str, ValueNames]] = []
    for record in records:
        try:
            names = _of_info(record.info, values, structures)
        except UserError:
            continue  # a record that does not fit this content's values
        if names is not None and None not in names.of(values):
            found.append((record.origin, names))
    if not found:
        return None
    same_name = [item for item in found if item[0] == path.name]
    for group in (found, same_name):
        if len({names.of(values) for _, names in group}) == 1:
            return group[-1][1]
    (first, one), (second, other) = (
        found[0],
        next(item for item in found if item[1].of(values) != found[0][1].of(values)),
    )
    raise UserError(
        f"{path}: has the content of {first}, where {_listed(one)}, and of {second}, where {_listed(other)}. Say which "
        f"in {sidecar_of(path).name}"
    )


def _assumed(path: Path, values: Collection[int], task: Task) -> ValueNames:
    if highest := [value for value in values if not 1 <= value <= len(task.names)]:
        return ValueNames.unknown(
            f"{path}: value {max(highest)} is no structure of task {task.name}; allowed are whole numbers from 0 to "
            f"{len(task.names)}",
            task,
        )
    return ValueNames(tuple(task.names), "assumed", TaskIdentity.of(task))


def _listed(names: ValueNames) -> str:
    return ", ".join(f"{value} = {name}" for value, name in names.by_value().items())


def _plain_set(structures: Iterable[str]) -> set[str]:
    return {plain_name(structure) for structure in structures}


# ---- reading ----


def names_for_reading(path: Path, info: Mapping[str, Any]) -> tuple[str, ...] | None:
    """``names`` of ``labels.read_masks`` for a label of a study.

    Args:
        path: the label file.
        info: its info in the study's list.

    Returns:
        None where the file names its segments, or nothing but the task says what its values mean.

    Raises:
        UserError: it is not known what its values mean.
    """
    recorded = info.get(KEY)
    if recorded is None:
        # No server has taken it in yet: a list of an earlier version, a read-only study, another datastore.
        if not info.get("label_info"):
            return names_beside(path)
        content = _Content(path)
        return None if content.names_itself else names_from_label_info(info, content.values)
    names = ValueNames.from_json(recorded)
    if names.problem:
        raise UserError(names.problem)
    return None if names.source == "file" else names.names


def names_beside(path: Path) -> tuple[str, ...] | None:
    """What the file beside a label map says that its values mean; None: there is none, or it is of another content."""
    found = read_sidecar(sidecar_of(path))
    return found[1].names if found and found[0] == sha256_file(path) else None


def names_in_folder(path: Path) -> tuple[str, ...] | None:
    """As ``names_beside``; where it has none of its own, by the file beside another label map of the same content.

    Raises:
        UserError: files beside two other label maps of its content contradict each other.
    """
    if (names := names_beside(path)) is not None:
        return names
    files = path.parent.glob(f"*{SUFFIX}")
    if not any(True for _ in files) or (content := _Content(path)).names_itself:
        return None
    for records in KnownNames(path.parent).find(sha256_file(path)):
        if (found := _of_records(path, records, content.values, ())) is not None:
            return found.names
    return None


def structures_in(path: Path, info: Mapping[str, Any], task: Task) -> tuple[list[str], list[str]]:
    """Of a label of a study: the task's structures that it names, and its names that are no structure of the task.

    Raises:
        UserError: the label file cannot be read.
    """
    recorded = ValueNames.from_json(info[KEY])
    if recorded.source == "file" and kind_of(path) == "dicom":
        left_out = dicomseg.other_labels(path, task)
        return dicomseg.known_labels(path, task), sorted(left_out)
    names = stored_values(path)[1] if recorded.source == "file" else recorded.names
    found = {find_structure(name, task.structures) for name in names or ()}
    left_out = {name for name in names or () if name and not is_known(name, task)}
    return [name for name in task.names if name in found], sorted(left_out)


# ---- what is to be said ----


def summary(labels: Iterable[ValueNames], task: Task, *, left_out_too: bool = True) -> list[str]:
    """What a user should know of the labels of a study, one line for each kind of finding.

    Args:
        labels: what is known of each label file.
        task: the task in force.
        left_out_too: also name the structures that the task does not have.
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
        lines.append(f"{len(problems) - MOST_LISTED} more label maps of which it is not known what their values mean")
    for (identity, names_of), count in assumed.items():
        if count:
            origin = identity.name if identity else task.name
            meant = ", ".join(f"{value} = {name}" for value, name in enumerate(names_of, 1) if name)
            lines.append(
                f"{_maps(count)} not say what {'its' if count == 1 else 'their'} values mean; assumed from task "
                f"{origin}: {meant}. Check one, or submit .seg.nrrd"
            )
    if left_out and left_out_too:
        listed = ", ".join(f"{name} ({count})" for name, count in sorted(left_out.items()))
        lines.append(
            f"label maps ({with_others}) name structures that task {task.name} does not have; left out: {listed}"
        )
    lines += [f"{count} label maps are left out: they are of {identity}" for identity, count in others.items()]
    return lines


def _maps(count: int) -> str:
    return "1 label map does" if count == 1 else f"{count} label maps do"
