"""Label files of a study: saved, removed, given another meaning; humans' earlier versions go to the history."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import Any

from monailabel.datastore.local import DataModel, ImageLabelModel

from samstudent.errors import Conflict, NotFound, UserError, named
from samstudent.imaging.file_names import LABELS, case_id, split_name
from samstudent.imaging.folder import name_of
from samstudent.imaging.label_tags import MACHINE_TAGS
from samstudent.imaging.value_names import KEY, SUFFIX, ValueNames, sidecar_of
from samstudent.server.datastore.history import History
from samstudent.server.datastore.identifiers import check_name
from samstudent.server.datastore.label_rules import LabelRules
from samstudent.server.datastore.reconcile import file_info
from samstudent.server.datastore.study_list import StudyList
from samstudent.server.datastore.value_name_records import ValueNameRecords
from samstudent.util.files import atomic_path, require_own, sha256_file

#: Keys of a label's or image's info that the datastore sets; no client may.
RESERVED = frozenset({"ts", "time", "name", "sha256", "mtime_ns", KEY})


class LabelFiles:
    """Label files of one study and task.

    Args:
        study: the study folder; what lies outside of it, behind a link or a mount, is only read.
        listed: the study's list.
        history: keeps humans' earlier labels.
        rules: may refuse a label.
    """

    def __init__(self, study: Path, listed: StudyList, history: History, rules: LabelRules) -> None:
        self.study, self.listed, self.history, self.rules = study, listed, history, rules
        self.value_names: ValueNameRecords | None = None
        if rules.task is not None:
            self.value_names = ValueNameRecords(rules.task, study / rules.place.labels, self._infos)

    def path(self, image_id: str, tag: str) -> Path | None:
        """A label's entry in the study, which may be a link; None: it is not listed."""
        label = self.listed.model.label(case_id(image_id), tag)
        if label is None:
            return None
        return Path(self.listed.model.label_path(tag), name_of(image_id, label.ext, label.info)).absolute()

    def unlink(self, file: Path) -> None:
        """Remove an entry of the study: a link, not what it leads to. Raises Conflict: it lies outside of the study."""
        require_own(file, self.study)
        file.unlink(missing_ok=True)

    # ---- saving ----

    def save(self, image_id: str, file: Path, tag: str, info: dict[str, Any]) -> str:
        """Check a label of a client and put it in place. Returns the image's id.

        Args:
            image_id: of the label's image, in any Unicode form.
            file: the label; it is copied.
            tag: of the label.
            info: what the client says of it, perhaps with ``label_info``.

        Raises:
            NotFound: no such image.
            UserError: tag or file extension is not allowed, or the label is refused.
        """
        check_name(tag, "tag")
        case = case_id(image_id)
        _, ext = split_name(file.name, LABELS)
        if not ext:
            raise UserError(f"label of {case!r}: {file.name!r} is none of {' '.join(LABELS)}")
        self.listed.entry(case)
        info = self.with_value_names(tag, file, info)
        if self.rules.check:
            with named(file, f"label {tag!r} of {case!r}"):
                self.rules.check(case, file, tag, info)
        self.put(case, file, tag, info)
        return case

    def with_value_names(self, tag: str, file: Path, info: dict[str, Any]) -> dict[str, Any]:
        """A new label's info with what its values mean. Raises UserError where that cannot be told."""
        if self.value_names is not None:
            return self.value_names.of_upload(tag, file, info)
        return {key: value for key, value in info.items() if key != KEY}

    def put(self, case: str, file: Path, tag: str, info: dict[str, Any]) -> None:
        """Copy a checked label into its place, the earlier one into the history.

        Args:
            case: id of its image, as listed.
            file: the label.
            tag: of the label.
            info: as of ``with_value_names``.
        """
        ext = split_name(file.name, LABELS)[1]
        with self.listed.transaction() as model:
            if tag not in MACHINE_TAGS:
                self.rules.claim()
            entry = self.listed.entry(case)
            previous = self._keep_previous(case, tag, entry)
            destination = Path(model.label_path(tag)).absolute() / (case + ext)
            require_own(destination, self.study)
            if tag not in entry.labels:
                self._keep_unlisted(case, tag, destination, ext)
            with atomic_path(destination) as temporary:
                shutil.copyfile(file, temporary)
                info = {**info, **file_info(temporary, destination.name)}
                if self.value_names and KEY in info:
                    # Before the label is in place. Killed between the two, the file beside the earlier label is of
                    # another content; what that one's values mean is in the history.
                    info[KEY] = self.value_names.write(destination, info["sha256"], ValueNames.from_json(info[KEY]))
                entry.labels[tag] = DataModel(info=info, ext=ext)
                model.objects[case] = entry
                if tag not in MACHINE_TAGS:
                    # Listed first, put in place after. Killed between the two, the list names a file that is not
                    # there, and the next start gives the file that is there its own info back from the history.
                    self.listed.write()
            if previous is not None and previous != destination:
                self._unlink_with_sidecar(previous)
            if info.get(KEY, {}).get("source") == "file":
                self.unlink(sidecar_of(destination))  # of an earlier label of this name

    # ---- removing ----

    def remove(self, image_id: str, tag: str) -> None:
        """Remove a label; a human's goes to the history.

        Raises:
            NotFound: no such image or label.
            Conflict: it lies outside of the study.
        """
        case = case_id(image_id)
        with self.listed.transaction() as model:
            entry = self.listed.entry(case)
            if tag not in entry.labels:
                raise NotFound(f"image {case!r} has no label {tag!r}")
            if (file := self.path(case, tag)) is not None:
                require_own(file, self.study)
            previous = self._keep_previous(case, tag, entry)
            del entry.labels[tag]
            model.objects[case] = entry
            if previous is not None:
                self._unlink_with_sidecar(previous)

    # ---- info ----

    def update_info(self, image_id: str, tag: str, info: dict[str, Any]) -> None:
        """Add to what is recorded of a label. With other ``label_info`` its values mean something else: it counts as
        saved anew, and a human's goes to the history with what it meant before.

        Raises:
            NotFound: no such image or label.
            UserError: the label is refused with that ``label_info``.
            Conflict: another label was saved while this one was checked.
        """
        case = case_id(image_id)
        known = self.listed.entry(case).labels.get(tag)
        if known is None:
            raise NotFound(f"image {case!r} has no label {tag!r}")
        info = without_reserved(info)
        before = known.info.get("label_info")
        is_other_meaning = info.get("label_info", before) != before
        file = self.path(case, tag) or Path()
        checked: dict[str, Any] = {}
        if is_other_meaning:
            checked = self.with_value_names(tag, file, {**known.info, **info})
            if self.rules.check:
                self.rules.check(case, file, tag, checked)
        with self.listed.transaction() as model:
            entry = self.listed.entry(case)
            label = entry.labels.get(tag)
            if label is None or (is_other_meaning and label != known):
                raise Conflict(f"label {tag!r} of {case!r} was changed or removed meanwhile; look at it again")
            if is_other_meaning:
                info |= self._other_meaning(case, tag, label, checked)
            label.info.update(info)
            model.objects[case] = entry

    def _other_meaning(self, case: str, tag: str, label: DataModel, checked: dict[str, Any]) -> dict[str, Any]:
        """What to add to the info of a label whose values mean something else from now on."""
        file = self.path(case, tag) or Path()
        if tag not in MACHINE_TAGS and file.is_file():
            self.history.keep(tag, case, _with_digest(label.info, file), file, label.ext)
        info: dict[str, Any] = {"ts": int(time.time()), "time": time.time()}
        if self.value_names and KEY in checked:
            sha256 = label.info.get("sha256") or sha256_file(file)
            # Not ``file``: where that is a link, it lies outside of the study.
            listed = Path(self.listed.model.label_path(tag)) / (case + label.ext)
            info |= {"sha256": sha256, KEY: self.value_names.write(listed, sha256, ValueNames.from_json(checked[KEY]))}
        return info

    # ---- history ----

    def _keep_previous(self, case: str, tag: str, entry: ImageLabelModel) -> Path | None:
        """The label file that is about to go, now in the history if a human drew it; None: there is none."""
        label, file = entry.labels.get(tag), self.path(case, tag)
        if label is None or file is None or not file.is_file():
            return None
        if tag not in MACHINE_TAGS:
            require_own(self.history.folder / "file", self.study)
            self.history.keep(tag, case, _with_digest(label.info, file), file, label.ext)
        return file

    def _keep_unlisted(self, case: str, tag: str, file: Path, ext: str) -> None:
        """A human's label that was dropped in a moment ago, where another is about to be put, goes to the history.

        Raises:
            Conflict: it is another task's.
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
        self.history.keep(tag, case, info, file, ext)

    def _unlink_with_sidecar(self, file: Path) -> None:
        self.unlink(file)
        self.unlink(sidecar_of(file))

    def _infos(self) -> list[dict[str, Any]]:
        return [label.info for entry in self.listed.model.objects.values() for label in entry.labels.values()]


def without_reserved(info: dict[str, Any]) -> dict[str, Any]:
    """Info from a client without the keys that only the datastore sets."""
    return {key: value for key, value in info.items() if key not in RESERVED}


def _with_digest(info: dict[str, Any], file: Path) -> dict[str, Any]:
    return info if "sha256" in info else {**info, "sha256": sha256_file(file)}
