"""Records of the names of values in human label maps: in a sidecar file of each label, and in its metadata."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from monailabel.datastore.local import ImageLabelModel

from samstudent.errors import NO_ROOM, Conflict, UserError, explain
from samstudent.imaging.label_tags import FINAL, MACHINE_TAGS
from samstudent.imaging.value_lookup import KnownNames, of_upload, resolve
from samstudent.imaging.value_names import (
    KEY,
    TaskIdentity,
    ValueNames,
    read_sidecar,
    sidecar_of,
    sidecar_time,
    summary,
    write_sidecar,
)
from samstudent.task import Task
from samstudent.util.files import require_own, sha256_file

logger = logging.getLogger(__name__)
#: Key of a label's record: modification time of the sidecar in ns, to notice changes by a user.
_WRITTEN = "file_ns"


class ValueNameRecords:
    """Value names of the labels of one study and one task.

    Args:
        task: task with the structures of the labels.
        labels: folder of the labels.
        infos: returns the metadata of all listed labels.
    """

    def __init__(self, task: Task, labels: Path, infos: Callable[[], Iterable[dict[str, Any]]]) -> None:
        self.task = task
        self._identity = TaskIdentity.of(task)
        self._labels, self._infos = labels, infos
        self._known = KnownNames(labels, listed=infos)
        self._of_other_tasks: list[ValueNames] = []
        self._is_writable = True

    def start_pass(self) -> None:
        """Drop the records of earlier passes over all labels."""
        self._known, self._of_other_tasks = KnownNames(self._labels, listed=self._infos), []

    def add_value_names(self, tag: str, file: Path, info: dict[str, Any]) -> dict[str, Any] | None:
        """Metadata of a label with the names of its values; the same object if nothing changed.

        Args:
            tag: tag of the label.
            file: label file.
            info: metadata of this content.

        Returns:
            None for a label of another task, which is not listed.
        """
        if tag in MACHINE_TAGS:
            return info
        recorded = info.get(KEY)
        if recorded is not None and self._is_current(file, recorded):
            return info
        sha256 = info.get("sha256") or sha256_file(file)
        names = resolve(file, sha256, info, self.task, self._known)
        if not names.problem and names.is_of_another_task(self.task):
            self._of_other_tasks.append(names)
            return None
        return {**info, "sha256": sha256, KEY: self.write(file, sha256, names)}

    def of_upload(self, tag: str, file: Path, info: dict[str, Any]) -> dict[str, Any]:
        """Metadata of a new label with the names of its values; raises as ``value_lookup.of_upload``."""
        info = {key: value for key, value in info.items() if key != KEY}
        return info if tag in MACHINE_TAGS else {**info, KEY: of_upload(file, info, self.task).as_json()}

    def write(self, file: Path, sha256: str, names: ValueNames) -> dict[str, Any]:
        """Write the sidecar file with the names of a label map's values; returns the record for its metadata.

        If the folder is read-only, or outside of the study, the names are in the record only.
        """
        record = names.as_json()
        if names.source == "file" and not names.problem:
            return record
        if not names.problem and not _is_beside(file, sha256, names):
            try:
                require_own(sidecar_of(file), self._labels.parent)
                write_sidecar(file, sha256, names)
            except Conflict as error:  # a folder outside of the study is only read
                self._warn_once(error)
            except OSError as error:
                if error.errno in NO_ROOM:
                    raise
                self._warn_once(error)
        return record | {_WRITTEN: sidecar_time(file)}

    def findings(self, objects: dict[str, ImageLabelModel]) -> list[str]:
        """Messages about the final labels, see ``imaging.value_names.summary``."""
        labels = (entry.labels[FINAL].info.get(KEY) for entry in objects.values() if FINAL in entry.labels)
        return summary(
            [*(ValueNames.from_json(record) for record in labels if record), *self._of_other_tasks], self.task
        )

    def _is_current(self, file: Path, recorded: dict[str, Any]) -> bool:
        task = recorded.get("task")
        if recorded.get("problem"):
            same_task = task == {"name": self._identity.name, "structures": list(self._identity.structures)}
        else:
            same_task = task is None or task["name"] == self.task.name
        if not same_task:
            return False
        if recorded["source"] == "file" and not recorded.get("problem"):
            return True
        return bool(recorded.get(_WRITTEN) == sidecar_time(file))

    def _warn_once(self, error: UserError | OSError) -> None:
        if self._is_writable:
            logger.warning(
                "the names of values could not be written beside the label maps: %s",
                explain(error),
            )
            self._is_writable = False


def _is_beside(file: Path, sha256: str, names: ValueNames) -> bool:
    try:
        return read_sidecar(sidecar_of(file)) == (sha256, names)
    except UserError:
        return False
