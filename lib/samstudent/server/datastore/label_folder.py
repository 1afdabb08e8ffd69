"""Assignment of label folders of a study to tasks.

The first task that labels a study uses ``labels/`` and ``datastore_v2.json``. Another task, with another name and other
structures, uses its own folder and list: in a common folder a mask of a nerve could be used as a bone, and labels of
one task would replace those of the other.
"""

from __future__ import annotations

import contextlib
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from samstudent.errors import Conflict, UserError
from samstudent.imaging.label_tags import MACHINE_TAGS
from samstudent.imaging.listed_names import LIST
from samstudent.imaging.value_lookup import KnownNames, of_upload, resolve
from samstudent.imaging.value_names import (
    KEY,
    SUFFIX,
    TaskIdentity,
    ValueNames,
    read_sidecar,
    sidecar_of,
    write_sidecar,
)
from samstudent.task import Task
from samstudent.util.files import atomic_write, require_own, sha256_file

LABELS = "labels"
STATE = ".samstudent"
#: File in ``.samstudent`` with the task of ``labels/``.
OWNER = "label_owner.json"


@dataclass(frozen=True)
class LabelFolder:
    """Label folder of one task in a study.

    Attributes:
        labels: name of the folder in the study.
        list: name of the host's list of images and labels.
        note: message for the user, or "".
    """

    labels: str = LABELS
    list: str = LIST
    note: str = ""


def label_folder(study: Path, task: Task) -> LabelFolder:
    """Label folder of a task, which need not exist yet. Nothing is written.

    Args:
        study: study folder.
        task: current task.
    """
    own = f"{LABELS}-{task.name}"
    owner = owner_of(study, task)
    is_apart = owner is not None and not owner.is_same_as(TaskIdentity.of(task))
    if not is_apart and not _has_labels(study / own):
        return LabelFolder()
    reason = f"{LABELS}/ has labels of {owner}" if owner is not None and is_apart else f"{own}/ exists"
    note = f"{reason}; task {task.name} has its labels in {own}/ and its list in {_list_of(task)}"
    return LabelFolder(own, _list_of(task), note)


def claim(study: Path, task: Task) -> None:
    """Record the task of ``labels/``, if it is not recorded yet.

    Raises:
        Conflict: another task has used the folder since the start of this one.
        OSError: the record cannot be written.
    """
    owner = owner_of(study, task)
    if owner is not None and not owner.is_same_as(TaskIdentity.of(task)):
        raise Conflict(
            f"{LABELS}/ has labels of {owner} now; restart this server: task {task.name} then uses its own folder"
        )
    if _recorded(study) is None or owner is None:
        _record(study, task)


def confirm(study: Path, task: Task) -> dict[str, int]:
    """Record that the values of a study's label maps are those of the task, where that was only assumed so far.

    For a user who has verified them, also after a first use with a wrong task file. Names that a client or a user has
    set are preserved. Afterwards ``labels/`` belongs to the task.

    Returns:
        Numbers of label maps: ``"confirmed"`` (recorded now), ``"known"`` (names from another source) and
        ``"other values"`` (values that the task does not have).

    Raises:
        Conflict: ``labels/`` has labels of another task, there is no label map, or the folder is outside of the study.
    """
    if label_folder(study, task).labels != LABELS:
        foreign = [n for n in _beside(study) if n.source in ("client", "user") and n.is_of_another_task(task)]
        if foreign:
            raise Conflict(f"{study / LABELS}: has {len(foreign)} label maps of {foreign[0].task}")
    names = ValueNames(tuple(task.names), "user", TaskIdentity.of(task))
    counts = {"confirmed": 0, "known": 0, "other values": 0}
    for path in _label_files(study / LABELS):
        sha256 = sha256_file(path)
        found = resolve(path, sha256, {}, task, KnownNames(study / LABELS))
        if found.source != "assumed" and not found.problem:
            counts["known"] += 1
        elif (fits := of_upload(path, {}, task)).problem or fits.source == "file":
            counts["other values"] += 1
        else:
            require_own(sidecar_of(path), study)
            write_sidecar(path, sha256, names)
            counts["confirmed"] += 1
    if not any(counts.values()):
        raise Conflict(f"{study / LABELS}: there is no label")
    if counts["confirmed"]:
        _record(study, task)
    return counts


def owner_of(study: Path, task: Task) -> TaskIdentity | None:
    """Task of ``labels/``; None if it has no human label, or if the task is unknown.

    As recorded; else by the labels' metadata; else the only other task that was used with the study.
    """
    if not _has_labels(study / LABELS):
        return None
    return _recorded(study) or _by_labels(study) or _by_state(study, task)


def _record(study: Path, task: Task) -> None:
    content = {"name": task.name, "structures": task.names}
    atomic_write(study / STATE / OWNER, json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def _list_of(task: Task) -> str:
    return f"datastore_v2-{task.name}.json"


def _has_labels(labels: Path) -> bool:
    """Whether there is or was a human label."""
    return any(True for _ in _label_files(labels)) or any(True for _ in labels.glob(".history/*/*/*"))


def _label_files(labels: Path) -> Iterator[Path]:
    for folder in _human_folders(labels):
        for file in sorted(folder.iterdir()):
            if not file.name.startswith(".") and not file.name.endswith(SUFFIX) and file.is_file():
                yield file


def _human_folders(labels: Path) -> list[Path]:
    if not labels.is_dir():
        return []
    folders = [folder for folder in labels.iterdir() if folder.is_dir() and not folder.name.startswith(".")]
    return sorted(folder for folder in folders if folder.name not in MACHINE_TAGS)


def _recorded(study: Path) -> TaskIdentity | None:
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        content = json.loads((study / STATE / OWNER).read_text(encoding="utf-8"))
        return TaskIdentity(str(content["name"]), tuple(map(str, content["structures"])))
    return None


def _by_labels(study: Path) -> TaskIdentity | None:
    """Most frequent task in the sidecar files of the labels, else in the host's list."""
    for source in (_beside, _listed):
        if tasks := Counter(names.task for names in source(study) if names.task):
            return tasks.most_common(1)[0][0]
    return None


def _beside(study: Path) -> Iterator[ValueNames]:
    for folder in _human_folders(study / LABELS):
        for path in sorted(folder.glob(f"*{SUFFIX}")):
            with contextlib.suppress(UserError):
                if found := read_sidecar(path):
                    yield found[1]


def _listed(study: Path) -> Iterator[ValueNames]:
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
        objects: dict[str, Any] = json.loads((study / LIST).read_text(encoding="utf-8"))["objects"]
        for entry in objects.values():
            for tag, label in entry["labels"].items():
                if tag not in MACHINE_TAGS and KEY in label["info"]:
                    yield ValueNames.from_json(label["info"][KEY])


def _by_state(study: Path, task: Task) -> TaskIdentity | None:
    """Task of an older study without a record: the only task that was trained in it."""
    folders = {path.parent.parent for path in (study / STATE).glob("*/rounds/*")}
    if len(folders) != 1 or (folder := folders.pop()).name == task.name:
        return None
    for path in sorted(folder.glob("rounds/*/inputs.json"), reverse=True):
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            structures = json.loads(path.read_text(encoding="utf-8"))["task"]["structures"]
            return TaskIdentity(folder.name, tuple(structures))
    return TaskIdentity(folder.name, ())
