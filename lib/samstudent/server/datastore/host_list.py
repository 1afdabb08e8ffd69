"""``datastore_v2.json``, the list of the host's tools: file access, and merge of their changes."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from monailabel.datastore.local import DataModel, ImageLabelModel, LocalDatastoreModel

from samstudent.imaging.file_names import case_id
from samstudent.imaging.folder import stamp_of
from samstudent.server.datastore.label_index import Stamp, stamp_of_file


class HostList:
    """File of the host's list; callers hold the lock of the study's list during a change, as the host's tools do.

    Args:
        path: path of the JSON file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def stamp(self) -> Stamp:
        """State of the file, which differs after every change; None: no such file."""
        return stamp_of_file(self.path)

    def read(self) -> LocalDatastoreModel | None:
        """Content of the file; None: no such file.

        Raises:
            ValueError: incomplete file, or no list.
        """
        try:
            content = self.path.read_bytes()
        except FileNotFoundError:
            return None
        return LocalDatastoreModel.model_validate(json.loads(content))

    def set_aside(self) -> Path:
        """Rename an unreadable file; returns the new path."""
        aside = self.path.with_name(f"{self.path.stem}.broken-{time.strftime('%Y%m%dT%H%M%S')}.json")
        os.replace(self.path, aside)
        return aside


@dataclass(frozen=True)
class Unexported:
    """Ids of the cases that were changed or removed after the last export of the host's list."""

    changed: Collection[str] = ()
    removed: Collection[str] = ()


def merge_host_list(
    ours: LocalDatastoreModel,
    theirs: LocalDatastoreModel,
    unexported: Unexported,
    label_file: Callable[[str, str, DataModel], Path],
) -> LocalDatastoreModel:
    """Merge another program's changes in the host's list into the list of the index.

    Such a program writes a complete list that it has read earlier. Therefore missing entries are not removed, and of
    two entries of a label the one that describes the present file is used.

    Args:
        ours: list of the index; not modified.
        theirs: host's list as written by another program.
        unexported: cases with changes that the other program has not read.
        label_file: function from case id, tag and entry of a label to its file.

    Returns:
        The merged list.
    """
    objects = dict(ours.objects)
    for name, entry in theirs.objects.items():
        case = case_id(name)
        known = objects.get(case)
        if known is None:
            if case not in unexported.removed:
                objects[case] = entry
            continue
        is_ours_newer = case in unexported.changed
        labels = dict(known.labels)
        for tag, label in entry.labels.items():
            if _is_theirs(labels.get(tag), label, is_ours_newer, stamp_of(label_file(case, tag, label))):
                labels[tag] = label
        merged = ImageLabelModel(image=known.image if is_ours_newer else entry.image, labels=labels)
        if merged != known:
            objects[case] = merged
    update = {"name": theirs.name, "description": theirs.description, "objects": objects}
    result: LocalDatastoreModel = ours.model_copy(update=update)
    return result


def _is_theirs(ours: DataModel | None, theirs: DataModel, is_ours_newer: bool, stamp: Any) -> bool:
    """Whether to use the other program's entry of a label, whose file has this stamp."""
    if stamp is None:
        return False
    if ours is None or ours.info.get("mtime_ns") != stamp[0]:
        return True
    return theirs.info.get("mtime_ns") == stamp[0] and not is_ours_newer
