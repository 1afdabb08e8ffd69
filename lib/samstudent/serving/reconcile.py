"""Bring the list of images and labels in line with the files that are really in the study folder."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from monailabel.datastore.local import DataModel, ImageLabelModel, LocalDatastoreModel

from samstudent.errors import UserError
from samstudent.files import sha256_file
from samstudent.serving.history import History
from samstudent.serving.names import MACHINE_TAGS, check_image_id, check_name

#: Tag, label file, its info -> its info with what its values mean; None: the label is another task's.
Settle = Callable[[str, Path, dict[str, Any]], dict[str, Any] | None]
#: (stem, extension) of a file name; the extension is "" where it is not one the study takes in.
Split = Callable[[str], tuple[str, str]]


@dataclass
class Reconciler:
    """One pass over a study folder.

    Args:
        image_split: how image files' names are split.
        label_split: how label files' names are split.
        history: gives a label file its own info back when the list has lost it.
        adopted_at: time stamp of a file that is new to the list; None: the time it was written.
        settle: adds to a label's info what its values mean (``NameKeeper.settle``); None for a label that is left out.
    """

    image_split: Split
    label_split: Split
    history: History
    adopted_at: float | None
    settle: Settle = lambda tag, file, info: info
    problems: list[str] = field(default_factory=list)

    def objects(self, model: LocalDatastoreModel) -> dict[str, ImageLabelModel]:
        """The list as it should be. Entries that are right are the same objects as before, so equality is cheap."""
        images = _files(model.image_path(), self.image_split)
        tags = self._tags(Path(model.label_path(None)))
        result: dict[str, ImageLabelModel] = {}
        for case in [*model.objects, *(c for c in sorted(images) if c not in model.objects)]:
            entry = model.objects.get(case)
            if case not in images:
                if entry is not None:
                    self._keep_labels_of_lost_image(case, entry, tags)
                continue
            result[case] = self._case(case, entry, images[case], tags)
        for tag, files in tags.items():
            if lost := sorted(c for c in files if c not in result):
                self.problems.append(f"labels/{tag}: {len(lost)} without an image of that name, e.g. {lost[0]!r}")
        return result

    def _case(
        self, case: str, entry: ImageLabelModel | None, files: list[os.DirEntry[str]], tags: _Tags
    ) -> ImageLabelModel:
        names = {file.name: file for file in files}
        if len(names) > 1:
            self.problems.append(f"several images are called {case!r}: {', '.join(sorted(names))}; rename all but one")
        if entry is None or case + entry.image.ext not in names:
            file = names[min(names)]
            info = {"ts": int(self._adopted(file)), "name": file.name}
            image = DataModel(info=info, ext=file.name[len(case) :])
        else:
            image = entry.image
        old = entry.labels if entry else {}
        labels = {t: label for t in {**old, **tags} if (label := self._label(case, t, old.get(t), tags.get(t, {})))}
        if entry is not None and image is entry.image and labels == old:
            return entry
        return ImageLabelModel(image=image, labels=labels)

    def _label(self, case: str, tag: str, known: DataModel | None, files: _Files) -> DataModel | None:
        """What the list should say of one label; None where there is no such file."""
        found = {file.name[len(case) :]: file for file in files.get(case, [])}
        if not found:
            return None
        ext = known.ext if known and known.ext in found else min(found)
        file = found[ext]
        written = file.stat().st_mtime_ns
        known = known if known and ext == known.ext else None
        info = known.info if known else {}
        if known is None or info.get("mtime_ns", written) != written:
            fresh = about(Path(file.path), file.name, self._adopted(file))
            if info.get("sha256") != fresh["sha256"]:
                # Not the file that was listed: dropped in by hand, or a write was killed. Info of another would lie.
                info = self.history.info_of(tag, case, fresh["sha256"]) or fresh
            info = {**info, "mtime_ns": fresh["mtime_ns"]}  # else it is of a copied study folder
        settled = self.settle(tag, Path(file.path), info)
        if settled is None:
            return None
        return known if known is not None and settled is known.info else DataModel(info=settled, ext=ext)

    def _keep_labels_of_lost_image(self, case: str, entry: ImageLabelModel, tags: _Tags) -> None:
        """An image may be away for a moment (a link to a disk); its labels must not forget what their values mean."""
        for tag, label in entry.labels.items():
            for file in tags.get(tag, {}).get(case, []):
                if tag not in MACHINE_TAGS and file.name == case + label.ext and "sha256" in label.info:
                    self.history.keep(tag, case, label.info, Path(file.path), label.ext)

    def _tags(self, labels: Path) -> _Tags:
        result: _Tags = {}
        loose = 0
        if not labels.is_dir():
            return result
        for item in os.scandir(labels):
            if item.name.startswith("."):
                continue
            if not item.is_dir():
                loose += bool(self.label_split(item.name)[1])
                continue
            try:
                result[check_name(item.name, "tag")] = _files(item.path, self.label_split)
            except UserError as error:
                self.problems.append(f"labels/{item.name} is left out: {error}")
        if loose:
            self.problems.append(f"labels: {loose} files lie loose; humans' labels belong in labels/final")
        return result

    def _adopted(self, file: os.DirEntry[str]) -> float:
        return file.stat().st_mtime if self.adopted_at is None else self.adopted_at


_Files = dict[str, list[os.DirEntry[str]]]
_Tags = dict[str, _Files]


def about(file: Path, name: str, now: float | None = None) -> dict[str, Any]:
    """Label info by which a listed label is known to be the file in its place."""
    now = time.time() if now is None else now
    return {
        "ts": int(now),  # the host's key, in whole seconds
        "time": now,
        "name": name,
        "sha256": sha256_file(file),
        "mtime_ns": file.stat().st_mtime_ns,
    }


def _files(folder: str | Path, split: Split) -> _Files:
    """The files of a folder by their ids. Hidden files, other kinds of files and folders are passed over."""
    result: _Files = {}
    for item in os.scandir(folder) if os.path.isdir(folder) else ():
        case, ext = split(item.name)
        if not ext or item.name.startswith(".") or not item.is_file():
            continue
        try:
            result.setdefault(check_image_id(case), []).append(item)
        except UserError:
            continue
    return result
