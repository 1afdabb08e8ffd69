"""Lookup of the names of a label map's values in all records of a study: ``resolve``, ``names_for_reading``."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from samstudent.errors import UserError
from samstudent.imaging import dicom_seg
from samstudent.imaging.formats import kind_of
from samstudent.imaging.label_info import names_from_label_info
from samstudent.imaging.labels import means_structure, stored_values
from samstudent.imaging.structure_names import find_structure
from samstudent.imaging.value_names import KEY, SUFFIX, TaskIdentity, ValueNames, is_known, read_sidecar, sidecar_of
from samstudent.task import Task
from samstudent.util.files import sha256_file

# ---- records of a study ----


@dataclass(frozen=True)
class Record:
    """Recorded info on a label map with a certain content. origin: name of the label file that it was recorded for."""

    origin: str
    info: Mapping[str, Any]


class KnownNames:
    """Value names of label maps by the SHA-256 of their content, from all records of a study. Read at the first use.

    Args:
        labels: folder of the labels: ``<labels>/<tag>/*.values.json`` and ``<labels>/.history``, or a plain folder.
        listed: returns the infos of all labels in the study's list; used after the files.
    """

    def __init__(self, labels: Path, listed: Callable[[], Iterable[Mapping[str, Any]]] = tuple) -> None:
        self._labels, self._listed = labels, listed
        self._tiers: dict[int, dict[str, list[Record]]] = {}

    def find(self, sha256: str) -> Iterator[list[Record]]:
        """Records of this content, by kind of source, the most reliable first."""
        for number, source in enumerate((self._beside_labels, self._in_list)):
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
                continue  # reported for its own label
        for path in sorted(self._labels.glob(".history/*/*/*.json")):
            try:
                info = json.loads(path.read_text(encoding="utf-8"))
                yield str(info["sha256"]), Record(str(info.get("name", path.name)), info)
            except (OSError, ValueError, KeyError, TypeError):
                continue

    def _in_list(self) -> Iterator[tuple[str, Record]]:
        for info in self._listed():
            if "sha256" in info:
                yield str(info["sha256"]), Record(str(info.get("name", "?")), info)


class _Content:
    """Content of a label file, read at the first use."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @cached_property
    def _read(self) -> tuple[frozenset[int], bool]:
        if kind_of(self.path) == "dicom" and dicom_seg.is_seg(self.path):
            return frozenset(), True
        values, names = stored_values(self.path)
        return frozenset(int(value) for value in values if value), names is not None

    @property
    def values(self) -> frozenset[int]:
        """Values of the file without 0."""
        return self._read[0]

    @property
    def has_names(self) -> bool:
        """Whether the file has segment names."""
        return kind_of(self.path) in ("nrrd", "dicom") and self._read[1]


def of_upload(path: Path, info: Mapping[str, Any], task: Task) -> ValueNames:
    """Value names of a label that a client submits.

    Args:
        path: the label file.
        info: info of the request, perhaps with ``label_info``.
        task: the active task.

    Raises:
        UserError: ``label_info`` is not valid, does not fit the file's values, or names no structure of the
            task.
    """
    content = _Content(path)
    try:
        values, has_names = content.values, content.has_names
    except UserError as error:
        return ValueNames.unknown(str(error), task)  # the caller decides whether such a file is accepted
    if has_names:
        return ValueNames((), "file", TaskIdentity.of(task))
    if (names := names_from_label_info(info, values, task.structures)) is not None:
        if names and not any(means_structure(name, task) for name in names):
            raise UserError(
                f"label_info: none of its names {list(names)} is a structure of the task, which has {task.names}"
            )
        return ValueNames(names, "client", TaskIdentity.of(task))
    return _assumed(path, values, task)


def resolve(path: Path, sha256: str, info: Mapping[str, Any], task: Task, known: KnownNames) -> ValueNames:
    """Value names of a label in the study, from the first source that has them: the file itself, the file beside it,
    the study's list, records of the same content under another name, the task's present values.

    Args:
        path: the label file.
        sha256: digest of its content.
        info: info of this content in the study's list; ``{}``: not listed.
        task: the active task.
        known: records of the study.

    Returns:
        Names; ``problem`` is set if no source has them, or if two records of the same content contradict each other.
    """
    content = _Content(path)
    try:
        if content.has_names:
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
                f"{path}: {sidecar_of(path).name} was written for another content, with other names than the task's: "
                f"{_listed(beside[1])}. Correct or rename that file",
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
    if (names_in_info := names_from_label_info(info, values, structures)) is not None:
        return ValueNames(names_in_info, "client")
    return None


def _of_records(
    path: Path, records: Sequence[Record], values: Collection[int], structures: Iterable[str]
) -> ValueNames | None:
    """Names on which the records of one content agree, else those recorded for the same file name.

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


# ---- reading ----


def names_for_reading(path: Path, info: Mapping[str, Any]) -> tuple[str, ...] | None:
    """``names`` of ``imaging.labels.read_masks`` for a label of a study.

    Args:
        path: the label file.
        info: its info in the study's list.

    Returns:
        None: the file has segment names, or its values are the task's.

    Raises:
        UserError: the names of its values are not known.
    """
    recorded = info.get(KEY)
    if recorded is None:
        # Not recorded by a server yet: a read-only study, another datastore.
        if not info.get("label_info"):
            return names_beside(path)
        content = _Content(path)
        return None if content.has_names else names_from_label_info(info, content.values)
    names = ValueNames.from_json(recorded)
    if names.problem:
        raise UserError(names.problem)
    return None if names.source == "file" else names.names


def names_beside(path: Path) -> tuple[str, ...] | None:
    """Value names in the file beside a label map; None: no such file, or written for another content."""
    found = read_sidecar(sidecar_of(path))
    return found[1].names if found and found[0] == sha256_file(path) else None


def names_in_folder(path: Path) -> tuple[str, ...] | None:
    """As ``names_beside``; without a file of its own from that of another label map with the same content.

    Raises:
        UserError: files of two other label maps with the same content contradict each other.
    """
    if (names := names_beside(path)) is not None:
        return names
    files = path.parent.glob(f"*{SUFFIX}")
    if not any(True for _ in files) or (content := _Content(path)).has_names:
        return None
    for records in KnownNames(path.parent).find(sha256_file(path)):
        if (found := _of_records(path, records, content.values, ())) is not None:
            return found.names
    return None


def structures_in(path: Path, info: Mapping[str, Any], task: Task) -> tuple[list[str], list[str]]:
    """The task's structures that a label of a study names, and its other names.

    Raises:
        UserError: the label file cannot be read.
    """
    recorded = ValueNames.from_json(info[KEY])
    if recorded.source == "file" and kind_of(path) == "dicom":
        left_out = dicom_seg.other_labels(path, task)
        return dicom_seg.known_labels(path, task), sorted(left_out)
    names = stored_values(path)[1] if recorded.source == "file" else recorded.names
    found = {find_structure(name, task.structures) for name in names or ()}
    left_out = {name for name in names or () if name and not is_known(name, task)}
    return [name for name in task.names if name in found], sorted(left_out)
