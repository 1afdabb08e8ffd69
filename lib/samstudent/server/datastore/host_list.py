"""``datastore_v2.json``, the list of the host's own tools: exported from the index; what they change is merged."""

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
    """The file. Not locked: the study's list holds its lock around a change, as the host's tools do.

    Args:
        path: of the JSON file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def stamp(self) -> Stamp:
        """Differs after every change; None: there is no such file."""
        return stamp_of_file(self.path)

    def read(self) -> LocalDatastoreModel | None:
        """Content of the file; None: there is no such file.

        Raises:
            ValueError: it is torn, or is no list.
        """
        try:
            content = self.path.read_bytes()
        except FileNotFoundError:
            return None
        return LocalDatastoreModel.model_validate(json.loads(content))

    def set_aside(self) -> Path:
        """Rename an unreadable file, so that it is kept and no longer used; returns the new path."""
        aside = self.path.with_name(f"{self.path.stem}.broken-{time.strftime('%Y%m%dT%H%M%S')}.json")
        os.replace(self.path, aside)
        return aside


@dataclass(frozen=True)
class Unexported:
    """Ids of the cases that were changed, or removed, since the host's list was last exported."""

    changed: Collection[str] = ()
    removed: Collection[str] = ()


def merge_host_list(
    ours: LocalDatastoreModel,
    theirs: LocalDatastoreModel,
    unexported: Unexported,
    label_file: Callable[[str, str, DataModel], Path],
) -> LocalDatastoreModel:
    """The list with what another program has changed in the host's list.

    A program that has read that file earlier writes its whole memory back, so what is missing in it is not removed, and
    of two infos of one label the one counts that describes the file in place.

    Args:
        ours: the list as the index has it; not changed.
        theirs: the host's list as another program has written it.
        unexported: cases whose state the other program cannot have known.
        label_file: case id, tag and entry of a label -> its file.
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
    """Whether the other program's entry of a label counts, whose file has this stamp."""
    if stamp is None:
        return False
    if ours is None or ours.info.get("mtime_ns") != stamp[0]:
        return True
    return theirs.info.get("mtime_ns") == stamp[0] and not is_ours_newer
