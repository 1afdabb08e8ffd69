"""Label files of a study: save, remove, change of value names; earlier human labels go to the history."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import Any

from monailabel.datastore.local import DataModel, ImageLabelModel

from samstudent.errors import Conflict, NotFound, UserError, named
from samstudent.imaging.file_names import LABELS, case_id, split_name
from samstudent.imaging.label_tags import MACHINE_TAGS
from samstudent.imaging.listed_names import name_of
from samstudent.imaging.value_names import KEY, SUFFIX, ValueNames, sidecar_of
from samstudent.server.datastore.history import History
from samstudent.server.datastore.identifiers import check_name
from samstudent.server.datastore.label_rules import LabelRules
from samstudent.server.datastore.reconcile import file_info
from samstudent.server.datastore.study_list import StudyList
from samstudent.server.datastore.value_name_records import ValueNameRecords
from samstudent.util.files import atomic_path, require_own, sha256_file

#: Keys of the metadata of labels and images that only the datastore sets.
RESERVED = frozenset({"ts", "time", "name", "sha256", "mtime_ns", KEY})


class LabelFiles:
    """Label files of one study and task.

    Args:
        study: study folder; files outside of it, behind a link or a mount, are only read.
        listed: list of the study.
        history: history of human labels.
        rules: rules for the labels.
    """

    def __init__(self, study: Path, listed: StudyList, history: History, rules: LabelRules) -> None:
        self.study, self.listed, self.history, self.rules = study, listed, history, rules
        self.value_names: ValueNameRecords | None = None
        if rules.task is not None:
            self.value_names = ValueNameRecords(rules.task, study / rules.place.labels, self._infos)

    def path(self, image_id: str, tag: str) -> Path | None:
        """Path of a label in the study, which may be a link; None: it is not listed."""
        label = self.listed.model.label(case_id(image_id), tag)
        if label is None:
            return None
        return Path(self.listed.model.label_path(tag), name_of(image_id, label.ext, label.info)).absolute()

    def unlink(self, file: Path) -> None:
        """Remove a file of the study, or a link but not its target. Raises Conflict if it is outside of the study."""
        require_own(file, self.study)
        file.unlink(missing_ok=True)

    # ---- saving ----

    def save(self, image_id: str, file: Path, tag: str, info: dict[str, Any]) -> str:
        """Check and save a label of a client. Returns the image's id.

        Args:
            image_id: id of the image, in any Unicode form.
            file: label file; it is copied.
            tag: tag of the label.
            info: metadata from the client, optionally with ``label_info``.

        Raises:
            NotFound: no such image.
            UserError: invalid tag, file extension or label.
        """
        check_name(tag, "tag")
        case = case_id(image_id)
        _, ext = split_name(file.name, LABELS)
        if not ext:
            raise UserError(f"label of {case!r}: {file.name!r} must be one of {' '.join(LABELS)}")
        self.listed.entry(case)
        info = self.with_value_names(tag, file, info)
        if self.rules.check:
            with named(file, f"label {tag!r} of {case!r}"):
                self.rules.check(case, file, tag, info)
        self.put(case, file, tag, info)
        return case

    def with_value_names(self, tag: str, file: Path, info: dict[str, Any]) -> dict[str, Any]:
        """Metadata of a new label with the names of its values. Raises UserError if they are unknown."""
        if self.value_names is not None:
            return self.value_names.of_upload(tag, file, info)
        return {key: value for key, value in info.items() if key != KEY}

    def put(self, case: str, file: Path, tag: str, info: dict[str, Any]) -> None:
        """Copy a checked label into the study, and an earlier human label into the history.

        Args:
            case: id of the image, as listed.
            file: label file.
            tag: tag of the label.
            info: metadata from ``with_value_names``.
        """
        ext = split_name(file.name, LABELS)[1]
        with self.listed.transaction() as model:
            if tag not in MACHINE_TAGS:
                self.rules.claim()
            entry = self.listed.entry(case)
            previous = self._store_previous(case, tag, entry)
            destination = Path(model.label_path(tag)).absolute() / (case + ext)
            require_own(destination, self.study)
            if tag not in entry.labels:
                self._store_unlisted(case, tag, destination, ext)
            with atomic_path(destination) as temporary:
                shutil.copyfile(file, temporary)
                info = {**info, **file_info(temporary, destination.name)}
                if self.value_names and KEY in info:
                    # Before the label. After a crash in between, the sidecar does not match the earlier label, whose
                    # names of values are in the history.
                    info[KEY] = self.value_names.write(destination, info["sha256"], ValueNames.from_json(info[KEY]))
                entry.labels[tag] = DataModel(info=info, ext=ext)
                model.objects[case] = entry
                if tag not in MACHINE_TAGS:
                    # The list before the file. After a crash in between, the list does not match the earlier file,
                    # whose metadata the next start restores from the history.
                    self.listed.write()
            if previous is not None and previous != destination:
                self._unlink_with_sidecar(previous)
            if info.get(KEY, {}).get("source") == "file":
                self.unlink(sidecar_of(destination))  # of an earlier label

    # ---- removal ----

    def remove(self, image_id: str, tag: str) -> None:
        """Remove a label; a human label goes to the history.

        Raises:
            NotFound: no such image or label.
            Conflict: the label is outside of the study.
        """
        case = case_id(image_id)
        with self.listed.transaction() as model:
            entry = self.listed.entry(case)
            if tag not in entry.labels:
                raise NotFound(f"image {case!r} has no label {tag!r}")
            if (file := self.path(case, tag)) is not None:
                require_own(file, self.study)
            previous = self._store_previous(case, tag, entry)
            del entry.labels[tag]
            model.objects[case] = entry
            if previous is not None:
                self._unlink_with_sidecar(previous)

    # ---- metadata ----

    def update_info(self, image_id: str, tag: str, info: dict[str, Any]) -> None:
        """Add metadata of a label.

        A change of ``label_info`` renames its values and counts as a new label: a human label goes to the history with
        its earlier names.

        Raises:
            NotFound: no such image or label.
            UserError: ``label_info`` does not fit the label.
            Conflict: another label was saved during the check.
        """
        case = case_id(image_id)
        known = self.listed.entry(case).labels.get(tag)
        if known is None:
            raise NotFound(f"image {case!r} has no label {tag!r}")
        info = without_reserved(info)
        before = known.info.get("label_info")
        is_renamed = info.get("label_info", before) != before
        file = self.path(case, tag) or Path()
        checked: dict[str, Any] = {}
        if is_renamed:
            checked = self.with_value_names(tag, file, {**known.info, **info})
            if self.rules.check:
                self.rules.check(case, file, tag, checked)
        with self.listed.transaction() as model:
            entry = self.listed.entry(case)
            label = entry.labels.get(tag)
            if label is None or (is_renamed and label != known):
                raise Conflict(f"label {tag!r} of {case!r} was changed or removed in the meantime; reload it")
            if is_renamed:
                info |= self._renamed(case, tag, label, checked)
            label.info.update(info)
            model.objects[case] = entry

    def _renamed(self, case: str, tag: str, label: DataModel, checked: dict[str, Any]) -> dict[str, Any]:
        """Metadata of a label with new names of values; stores the earlier version in the history."""
        file = self.path(case, tag) or Path()
        if tag not in MACHINE_TAGS and file.is_file():
            self.history.store(tag, case, _with_digest(label.info, file), file, label.ext)
        info: dict[str, Any] = {"ts": int(time.time()), "time": time.time()}
        if self.value_names and KEY in checked:
            sha256 = label.info.get("sha256") or sha256_file(file)
            # Not ``file``, which may be a link to a file outside of the study.
            listed = Path(self.listed.model.label_path(tag)) / (case + label.ext)
            info |= {"sha256": sha256, KEY: self.value_names.write(listed, sha256, ValueNames.from_json(checked[KEY]))}
        return info

    # ---- history ----

    def _store_previous(self, case: str, tag: str, entry: ImageLabelModel) -> Path | None:
        """Present label file, which is about to be replaced; a human label is stored in the history. None: no file."""
        label, file = entry.labels.get(tag), self.path(case, tag)
        if label is None or file is None or not file.is_file():
            return None
        if tag not in MACHINE_TAGS:
            require_own(self.history.folder / "file", self.study)
            self.history.store(tag, case, _with_digest(label.info, file), file, label.ext)
        return file

    def _store_unlisted(self, case: str, tag: str, file: Path, ext: str) -> None:
        """Store a human label in the history that is not listed yet, at the path of a new label.

        Raises:
            Conflict: it is a label of another task.
        """
        if tag in MACHINE_TAGS or not file.is_file():
            return
        info: dict[str, Any] | None = file_info(file, file.name)
        if self.value_names and info is not None:
            info = self.value_names.add_value_names(tag, file, info)
        if info is None:
            raise Conflict(
                f"{file}: is a label of another task; move it, with its {SUFFIX[1:]}, out of this study first"
            )
        self.history.store(tag, case, info, file, ext)

    def _unlink_with_sidecar(self, file: Path) -> None:
        self.unlink(file)
        self.unlink(sidecar_of(file))

    def _infos(self) -> list[dict[str, Any]]:
        return [label.info for entry in self.listed.model.objects.values() for label in entry.labels.values()]


def without_reserved(info: dict[str, Any]) -> dict[str, Any]:
    """Metadata from a client without the keys that only the datastore sets."""
    return {key: value for key, value in info.items() if key not in RESERVED}


def _with_digest(info: dict[str, Any], file: Path) -> dict[str, Any]:
    return info if "sha256" in info else {**info, "sha256": sha256_file(file)}
