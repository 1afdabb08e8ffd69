"""Bring the list of images and labels in line with the files that are really in the study folder."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from monailabel.datastore.local import DataModel, ImageLabelModel, LocalDatastoreModel

from samstudent.errors import UserError
from samstudent.imaging.file_names import LABELS, case_id, split_name
from samstudent.imaging.folder import list_folder, stamp_of
from samstudent.imaging.image_paths import ImagePath
from samstudent.imaging.label_tags import MACHINE_TAGS
from samstudent.imaging.listed_names import name_of
from samstudent.imaging.remarks import Remark, sentences
from samstudent.server.datastore.history import History
from samstudent.server.datastore.identifiers import check_name
from samstudent.server.datastore.label_rules import ImageRules
from samstudent.util.files import sha256_file

#: Tag, label file, its info -> its info with the names of its values; None: the label is of another task.
AddValueNames = Callable[[str, Path, dict[str, Any]], dict[str, Any] | None]


@dataclass
class Reconciler:
    """One pass over a study folder.

    Args:
        rules: for the images, see ``imaging.folder.list_folder``.
        history: source of the info of a label file that is missing in the list.
        adopted_at: time stamp of a file that is new to the list; None: the time it was written.
        add_value_names: see ``ValueNameRecords``; the default adds none.

    Attributes:
        problems: messages for users about skipped files and other faults of the folder.
        images: case id -> file of the images found, in ``folder``.
    """

    rules: ImageRules
    history: History
    adopted_at: float | None
    add_value_names: AddValueNames = lambda tag, file, info: info
    problems: list[str] = field(default_factory=list)
    folder: Path = Path()
    images: dict[str, Path] = field(default_factory=dict)

    def objects(self, model: LocalDatastoreModel) -> dict[str, ImageLabelModel]:
        """The list as it should be. Entries that are right are the same objects as before, so equality is cheap."""
        # Lists of earlier versions and of the host have ids in whatever Unicode form their files had.
        known = {case_id(case): entry for case, entry in model.objects.items()}
        self.folder = Path(model.image_path())
        if self.folder.is_dir():
            names = {case: name_of(case, entry.image.ext, entry.image.info) for case, entry in known.items()}
            listing = list_folder(self.folder, self.rules.extensions, names, self.rules.dimension, self.rules.channels)
            self.problems += sentences(listing.remarks)
            # A file that contains all channels is listed as the file; ``ImageFiles.path`` adds their number.
            self.images = {
                case: file.parent if ImagePath.of(file).count else file for case, file in listing.files.items()
            }
        tags = self._tags(Path(model.label_path(None)), known)
        result: dict[str, ImageLabelModel] = {}
        for case in [*known, *(c for c in sorted(self.images) if c not in known)]:
            entry = known.get(case)
            if case not in self.images:
                if entry is not None:
                    self._keep_labels_of_lost_image(case, entry, tags)
                continue
            result[case] = self._case(case, entry, self.images[case], tags)
        for tag, files in tags.items():
            if missing := sorted(c for c in files if c not in result):
                self.problems.append(f"labels/{tag}: {len(missing)} without an image of that name, e.g. {missing[0]!r}")
        return result

    def _listed(
        self, folder: Path, extensions: Sequence[str], names: Mapping[str, str], shown_as: str = ""
    ) -> dict[str, Path]:
        listing = list_folder(folder, extensions, names)
        self.problems += sentences(listing.remarks, shown_as)
        return listing.files

    def _case(self, case: str, entry: ImageLabelModel | None, file: Path, tags: _Tags) -> ImageLabelModel:
        name = str(file.relative_to(self.folder))
        # Without an extension the name is a path below the folder.
        ext = split_name(name, self.rules.extensions)[1] if name == file.name else ""
        if entry is None or entry.image.ext != ext:
            image = DataModel(info={"ts": int(self._adopted(file)), "name": name}, ext=ext)
        elif name_of(case, ext, entry.image.info) != name:  # its Unicode form has changed
            image = DataModel(info={**entry.image.info, "name": name}, ext=ext)
        else:
            image = entry.image
        old = entry.labels if entry else {}
        found = {tag: self._label(case, tag, old.get(tag), tags.get(tag, {}).get(case)) for tag in {**old, **tags}}
        labels = {tag: label for tag, label in found.items() if label is not None}
        if entry is not None and image is entry.image and labels == old:
            return entry
        return ImageLabelModel(image=image, labels=labels)

    def _label(self, case: str, tag: str, known: DataModel | None, file: Path | None) -> DataModel | None:
        """Entry of a label for the list; None: there is no such file."""
        if file is None:
            return None
        ext = split_name(file.name, LABELS)[1]
        known = known if known and known.ext == ext else None
        info = known.info if known else {}
        try:
            listed = known is not None and name_of(case, ext, info) == file.name
            if not listed or info.get("mtime_ns", written := file.stat().st_mtime_ns) != written:
                fresh = file_info(file, file.name, self._adopted(file))
                if info.get("sha256") != fresh["sha256"]:
                    # Not the file that was listed: dropped in by hand, or a write was killed. Info of another would
                    # lie.
                    info = self.history.info_of(tag, case, fresh["sha256"]) or fresh
                # Else it is of a copied study folder.
                info = {**info, "name": file.name, "mtime_ns": fresh["mtime_ns"]}
            named = self.add_value_names(tag, file, info)
        except OSError as error:
            remark = Remark(file.name, f"cannot be read: {error.strerror}", is_fault=True)
            self.problems += sentences([remark], f"labels/{tag}/")
            return known
        if named is None:
            return None
        return known if known is not None and named is known.info else DataModel(info=named, ext=ext)

    def _keep_labels_of_lost_image(self, case: str, entry: ImageLabelModel, tags: _Tags) -> None:
        """Keep the entries of the labels: the image may be missing temporarily (a link to a disk)."""
        for tag, label in entry.labels.items():
            file = tags.get(tag, {}).get(case)
            if file is None or tag in MACHINE_TAGS or file.name != name_of(case, label.ext, label.info):
                continue
            if "sha256" in label.info:
                self.history.store(tag, case, label.info, file, label.ext)

    def _tags(self, labels: Path, known: Mapping[str, ImageLabelModel]) -> _Tags:
        result: _Tags = {}
        loose = 0
        if not labels.is_dir():
            return result
        for item in sorted(os.scandir(labels), key=lambda item: item.name):
            if item.name.startswith("."):
                continue
            if not os.path.isdir(item.path):
                loose += bool(split_name(item.name, LABELS)[1])
                continue
            try:
                tag = check_name(item.name, "tag")
                listed = {case: entry.labels[tag] for case, entry in known.items() if tag in entry.labels}
                names = {case: name_of(case, label.ext, label.info) for case, label in listed.items()}
                result[tag] = self._listed(Path(item.path), LABELS, names, f"labels/{tag}/")
            except UserError as error:
                self.problems.append(f"labels/{item.name} is left out: {error}")
        if loose:
            self.problems.append(f"labels: {loose} files lie loose; humans' labels belong in labels/final")
        return result

    def _adopted(self, file: Path) -> float:
        if self.adopted_at is not None:
            return self.adopted_at
        stamp = stamp_of(file)
        return stamp[0] / 1e9 if stamp else time.time()


#: Tag -> case id -> label file.
_Tags = dict[str, dict[str, Path]]


def file_info(file: Path, name: str, now: float | None = None) -> dict[str, Any]:
    """Info of a label by which it is known to be the file in its place.

    Args:
        file: the label, perhaps still under another name.
        name: under which it will lie in the study.
        now: time since 1970 at which it counts as saved, seconds; None: now.
    """
    now = time.time() if now is None else now
    return {
        "ts": int(now),  # the host's key, in whole seconds
        "time": now,
        "name": name,
        "sha256": sha256_file(file),
        "mtime_ns": file.stat().st_mtime_ns,
    }
