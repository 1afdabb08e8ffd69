"""Which folder of a study holds the labels of which task.

The first task that labels a study has its ``labels/`` and ``datastore_v2.json``. Another task, one of another name and
other structures, has folders of its own: with one folder for both, a mask of a nerve would train as a bone, and a label
of one task would replace that of the other.
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
from samstudent.imaging.folder import LIST
from samstudent.imaging.label_tags import MACHINE_TAGS
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
#: Of ``.samstudent``: whose ``labels/`` is.
OWNER = "label_owner.json"


@dataclass(frozen=True)
class LabelFolder:
    """Where one task's labels lie in a study.

    Attributes:
        labels: name of the folder in the study.
        list: name of the host's list of images and labels.
        note: what the user should know of it; "" where there is nothing to say.
    """

    labels: str = LABELS
    list: str = LIST
    note: str = ""


def label_folder(study: Path, task: Task) -> LabelFolder:
    """Where the labels of a task lie, or will lie. Nothing is written.

    Args:
        study: the study folder.
        task: the task in force.
    """
    own = f"{LABELS}-{task.name}"
    owner = owner_of(study, task)
    is_apart = owner is not None and not owner.is_same_as(TaskIdentity.of(task))
    if not is_apart and not _has_labels(study / own):
        return LabelFolder()
    reason = f"{LABELS}/ holds labels of {owner}" if owner is not None and is_apart else f"{own}/ is there"
    note = f"{reason}; task {task.name} has its labels in {own}/ and its list in {_list_of(task)}"
    return LabelFolder(own, _list_of(task), note)


def claim(study: Path, task: Task) -> None:
    """Record that a task's labels are in ``labels/``, where that is not recorded yet.

    Raises:
        Conflict: another task's are, since this one was started.
        OSError: it cannot be written.
    """
    owner = owner_of(study, task)
    if owner is not None and not owner.is_same_as(TaskIdentity.of(task)):
        raise Conflict(
            f"{LABELS}/ has got labels of {owner} meanwhile; start this server again: task {task.name} then has a "
            "folder of its own"
        )
    if _recorded(study) is None or owner is None:
        _record(study, task)


def confirm(study: Path, task: Task) -> dict[str, int]:
    """Record that the values of a study's label maps are the task's, where that was only assumed so far.

    For a user who has looked at them, also where they were first seen with a wrong task file. Names that a client or a
    user gave stay. ``labels/`` is the task's afterwards.

    Returns:
        Number of label maps of which it was recorded, ``"confirmed"``; of which it is known otherwise, ``"known"``;
        whose values are not the task's, ``"other values"``.

    Raises:
        Conflict: ``labels/`` holds labels that were given to another task, there is no label map, or its folder lies
            outside of the study.
    """
    if label_folder(study, task).labels != LABELS:
        given = [n for n in _beside(study) if n.source in ("client", "user") and n.is_of_another_task(task)]
        if given:
            raise Conflict(f"{study / LABELS}: holds {len(given)} label maps that were given to {given[0].task}")
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
        raise Conflict(f"{study / LABELS}: there is no label in it")
    if counts["confirmed"]:
        _record(study, task)
    return counts


def owner_of(study: Path, task: Task) -> TaskIdentity | None:
    """The task that ``labels/`` belongs to; None where it holds no label of a human, or it is not known whose they are.

    As recorded; else as the labels say; else the only other task that has worked on the study.
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
    """Whether there is a label of a human, or was."""
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
    """The task that most labels were taken in for, by the files beside them and by the host's list."""
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
    """Of a study that was labelled before this was recorded: the only task that was trained in it."""
    folders = {path.parent.parent for path in (study / STATE).glob("*/rounds/*")}
    if len(folders) != 1 or (folder := folders.pop()).name == task.name:
        return None
    for path in sorted(folder.glob("rounds/*/inputs.json"), reverse=True):
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            structures = json.loads(path.read_text(encoding="utf-8"))["task"]["structures"]
            return TaskIdentity(folder.name, tuple(structures))
    return TaskIdentity(folder.name, ())
