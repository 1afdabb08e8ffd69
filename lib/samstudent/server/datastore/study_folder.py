"""The host's datastore of a study folder, made safe for several processes, crashes and a human's work."""

from __future__ import annotations

import functools
import logging
import os
import shutil
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from monailabel.datastore.local import DataModel, ImageLabelModel, LocalDatastore, LocalDatastoreModel

from samstudent.errors import Conflict, UserError
from samstudent.imaging.file_names import LABELS, case_id, split_name
from samstudent.imaging.folder import images_folder, name_of
from samstudent.imaging.label_tags import FINAL, PSEUDO_TAGS
from samstudent.server.datastore.coalesced_call import CoalescedCall
from samstudent.server.datastore.dataset_archive import write_archive
from samstudent.server.datastore.history import History
from samstudent.server.datastore.identifiers import check_image_id
from samstudent.server.datastore.label_files import LabelFiles, without_reserved
from samstudent.server.datastore.label_rules import ImageRules, LabelRules
from samstudent.server.datastore.study_files import StudyFiles
from samstudent.server.datastore.study_list import StudyList
from samstudent.server.datastore.upright import UprightCopies
from samstudent.util.files import atomic_path, require_own, sha256_file

logger = logging.getLogger(__name__)

#: Files copied into the folder come as a burst of events; one look after this many seconds takes them all in.
SETTLE_SECONDS = 0.5


class StudyFolderDatastore(LocalDatastore):  # type: ignore[misc]
    """A study folder: images in it, or in its ``images/``; labels in ``labels/<tag>/<image id><extension>``.

    Which files are images or labels, and under which ids, is defined in ``imaging.folder``. A case's file is found by
    the name in its info: an id is not always the file's name. What lies outside of the study, behind a link or a mount,
    is only read. The files are the truth, the list (``study_list``) says what is known of them.

    Args:
        path: the study folder.
        auto_reload: watch the folder for files that come and go.
        read_only: take nothing in at the start.
        images: rules for the images.
        labels: rules for the labels.
    """

    def __init__(
        self,
        path: str | Path,
        auto_reload: bool = False,
        read_only: bool = False,
        *,
        images: ImageRules = ImageRules(),  # noqa: B008 (frozen)
        labels: LabelRules = LabelRules(),  # noqa: B008 (frozen)
    ) -> None:
        folder = Path(path)
        self.image_rules = images
        # The host's constructor below already reads and reconciles, so these come first.
        self._list = StudyList(folder, labels.place.list, lambda model: self._files.rebuild(model))
        self.labels = LabelFiles(folder, self._list, History(folder / labels.place.labels), labels)
        self._files = StudyFiles(self.labels, images)
        self._upright = UprightCopies(folder / ".samstudent" / "upright")
        self._look = CoalescedCall(self._refresh_quietly, lambda: SETTLE_SECONDS, "folder")
        require_own(folder / labels.place.labels / ".history", folder)
        images_dir = "." if images_folder(folder, tuple(images.extensions)) == folder else "images"
        globs = [f"*{suffix}" for suffix in dict.fromkeys([*images.extensions, *LABELS])]
        super().__init__(
            str(folder), images_dir, labels.place.labels, labels.place.list, extensions=globs, auto_reload=auto_reload,
            read_only=read_only,
        )  # fmt: skip
        if auto_reload:
            self._handler.on_moved = self._on_any_event  # rsync and careful writers rename into place
            self._handler.dispatch = functools.partial(self._unless_hidden, self._handler.dispatch)

    # ---- the list ----

    @property
    def _datastore(self) -> LocalDatastoreModel:
        """The list as it is now. All methods of the host read through this, so all see other processes' changes."""
        return self._list.model

    @_datastore.setter
    def _datastore(self, model: LocalDatastoreModel) -> None:
        """The host's constructor sets the list of an empty study."""
        model.base_path = self._datastore_path
        self._empty = model

    def transaction(self) -> AbstractContextManager[LocalDatastoreModel]:
        """Many changes in one write, and nobody else's between them, see ``StudyList.transaction``."""
        return self._list.transaction()

    def close(self) -> None:
        """Export the host's list now where it lacks changes."""
        self._list.close()

    def _init_from_datastore_file(self, throw_exception: bool = False) -> None:
        """The host's constructor calls this."""
        self._list.open(self._empty)

    def _update_datastore_file(self, lock: bool = True) -> None:
        raise NotImplementedError("a change outside of transaction() would undo other processes' changes")

    def _reconcile_datastore(self) -> None:
        self._files.reconcile()

    # ---- what people should know of the folder ----

    @property
    def problems(self) -> list[str]:
        """A line each: files and folders that are passed over, the same content twice, labels without an image, images
        that cannot be read."""
        return [*self._files.problems, *self.unreadable().values()]

    def unreadable(self) -> dict[str, str]:
        """Case id -> why its image cannot be used, as far as it was read. Such a case is not offered to anybody."""
        check = self.image_rules.check
        return {} if check is None else check.problems(self._image_file)

    def image_problem(self, image_id: str) -> str | None:
        """Why an image cannot be used; None where it can. Reads it where that was not done since it changed."""
        file, check = self._image_file(image_id), self.image_rules.check
        return None if check is None or file is None else check.problem(case_id(image_id), file)

    def note_readable(self, image_id: str) -> None:
        """Record that an image was read: nobody needs to try."""
        check = self.image_rules.check
        if check is not None and (file := self._image_file(image_id)) is not None:
            check.record(case_id(image_id), file)

    # ---- images ----

    def _to_id(self, file: str) -> tuple[str, str]:
        """(name without extension, extension as written); the extension is "" where it is none that is taken in."""
        return split_name(file, tuple(dict.fromkeys([*self.image_rules.extensions, *LABELS])))

    def _image_split(self, file: str) -> tuple[str, str]:
        return split_name(file, self.image_rules.extensions)

    def _image_file(self, image_id: str) -> Path | None:
        """An image's entry in the study, which may be a link; None: it is not listed."""
        model = self._datastore
        entry = model.objects.get(case_id(image_id))
        if entry is None:
            return None
        return Path(model.image_path(), name_of(image_id, entry.image.ext, entry.image.info)).absolute()

    def add_image(self, image_id: str, image_filename: str, image_info: dict[str, Any] | None) -> str:
        """Copy an image into the study; its id, or the file's name without extension, becomes its id.

        Raises:
            UserError: no id that can be used, or not an image's extension.
            Conflict: the id belongs to another image; labels drawn on that one would be wrong on this one.
        """
        case, ext = self._image_split(os.path.basename(image_filename))
        case = check_image_id(image_id or case)
        if not ext or self._image_split(case + ext) != (case, ext):
            file, allowed = os.path.basename(image_filename), " ".join(self.image_rules.extensions)
            raise UserError(f"image {case!r} from file {file!r}: the file must be one of {allowed}")
        with self.transaction() as model:
            if (present := self._image_file(case)) is not None:
                if present.is_file() and sha256_file(present) == sha256_file(Path(image_filename)):
                    return case
                raise Conflict(f"another image {case!r} is in the study already; remove it first or choose another id")
            destination = Path(model.image_path()) / (case + ext)
            require_own(destination, self.labels.study)
            with atomic_path(destination) as temporary:
                shutil.copyfile(image_filename, temporary)
            info = {**(image_info or {}), "ts": int(time.time()), "name": destination.name}
            model.objects[case] = ImageLabelModel(image=DataModel(info=info, ext=ext))
        return case

    def remove_image(self, image_id: str) -> None:
        """Remove an image and its labels; a human's labels go to the history.

        Raises:
            NotFound: no such image.
            Conflict: it, or a label, lies outside of the study; nothing was removed.
        """
        case = case_id(image_id)
        with self.transaction() as model:
            tags = list(self._list.entry(case).labels)
            image = self._image_file(case)
            for file in (image, *(self.labels.path(case, tag) for tag in tags)):
                if file is not None:
                    require_own(file, self.labels.study)
            for tag in tags:
                self.labels.remove(case, tag)
            if image is not None:
                image.unlink(missing_ok=True)
            self._upright.forget(case)
            del model.objects[case]

    def get_image_uri(self, image_id: str) -> str:
        """Path of the image's file in the study; "" where there is no such image."""
        file = self._image_file(image_id)
        return str(file) if file else ""

    def viewer_file(self, image_id: str) -> Path:
        """The file that clients get for an image: its own, or an upright copy where it has an orientation tag.

        Raises:
            Unavailable: the copy cannot be written.
        """
        return self._upright.of(case_id(image_id), Path(StudyFolderDatastore.get_image_uri(self, image_id)))

    def get_image_info(self, image_id: str) -> dict[str, Any]:
        """With path and name of the file that clients get."""
        info: dict[str, Any] = super().get_image_info(case_id(image_id))
        if not info:
            return {}
        own = Path(StudyFolderDatastore.get_image_uri(self, image_id))
        file = self._upright.of(case_id(image_id), own)
        return {**info, "path": str(file)} | ({} if file == own else {"name": file.name})

    def update_image_info(self, image_id: str, info: dict[str, Any]) -> None:
        """Add to what is recorded of an image. Raises NotFound."""
        with self.transaction() as model:
            entry = self._list.entry(image_id)
            entry.image.info.update(without_reserved(info))
            model.objects[case_id(image_id)] = entry

    # ---- labels ----

    def save_label(self, image_id: str, label_filename: str, label_tag: str, label_info: dict[str, Any] | None) -> str:
        """Save a label of an image; see ``LabelFiles.save``."""
        return self.labels.save(image_id, Path(label_filename), label_tag, label_info or {})

    def remove_label(self, label_id: str, label_tag: str) -> None:
        """Remove a label; see ``LabelFiles.remove``."""
        self.labels.remove(label_id, label_tag)

    def update_label_info(self, label_id: str, label_tag: str, info: dict[str, Any]) -> None:
        """Add to what is recorded of a label; see ``LabelFiles.update_info``."""
        self.labels.update_info(label_id, label_tag, info)

    def get_label_uri(self, label_id: str, label_tag: str) -> str:
        """Path of the label's file in the study; "" where there is no such label."""
        file = self.labels.path(label_id, label_tag)
        return str(file) if file else ""

    def get_label_info(self, label_id: str, label_tag: str) -> dict[str, Any]:
        """What is recorded of a label; {} where there is none."""
        info: dict[str, Any] = super().get_label_info(case_id(label_id), label_tag)
        return info

    def get_labels_by_image_id(self, image_id: str) -> dict[str, str]:
        """Tag -> id, of the labels of an image."""
        labels: dict[str, str] = super().get_labels_by_image_id(case_id(image_id))
        return labels

    def label_times(self) -> list[tuple[str, float]]:
        """(image id, seconds since 1970) of every final label, for the retraining schedule."""
        finals = ((case, entry.labels.get(FINAL)) for case, entry in self._datastore.objects.items())
        return [(case, float(x.info.get("time", x.info.get("ts", 0)))) for case, x in finals if x]

    def label_infos(self, image_id: str | None = None) -> dict[str, dict[str, dict[str, Any]]]:
        """Image id -> tag -> label info, as of one moment; of one image alone where it is named and known."""
        objects = self._datastore.objects
        ids = objects if image_id is None else objects.keys() & {case_id(image_id)}
        return {case: {tag: label.info for tag, label in objects[case].labels.items()} for case in ids}

    def label_history(self, image_id: str, tag: str = FINAL) -> list[Path]:
        """Earlier versions of a human's label, oldest first."""
        return self.labels.history.versions(tag, case_id(image_id))

    # ---- the study ----

    def set_name(self, name: str) -> None:
        """Set the study's name."""
        with self.transaction() as model:
            model.name = name

    def set_description(self, description: str) -> None:
        """Set the study's description."""
        with self.transaction() as model:
            model.description = description

    def datalist(self, full_path: bool = True) -> list[dict[str, Any]]:
        """Images as clients get them, with their final labels, which lie on them.

        Args:
            full_path: False: paths relative to the study folder.
        """
        pairs = [
            {"image": str(self.viewer_file(case)), "label": self.get_label_uri(case, FINAL)}
            for case in self.get_labeled_images()
        ]
        if full_path:
            return pairs
        root = os.path.abspath(self._datastore_path)
        return [{kind: os.path.relpath(path, root) for kind, path in pair.items()} for pair in pairs]

    def status(self) -> dict[str, Any]:
        """Numbers of images and labels, without pseudo labels."""
        status: dict[str, Any] = super().status()
        return {**status, "label_tags": {t: n for t, n in status["label_tags"].items() if t not in PSEUDO_TAGS}}

    def json(self) -> dict[str, Any]:
        """The list for viewers, without pseudo labels: those are the trainer's, and no viewer should offer them."""
        content: dict[str, Any] = super().json()
        for entry in content["objects"].values():
            entry["labels"] = {tag: label for tag, label in entry["labels"].items() if tag not in PSEUDO_TAGS}
        return content

    def get_dataset_archive(self, limit_cases: int | None) -> str:
        """Path of a new ZIP file with images, final labels and the list; the caller deletes it. Raises Conflict: there
        is no final label."""
        return write_archive(self.datalist()[: limit_cases or None], self.json())

    # ---- the watcher ----

    def _unless_hidden(self, dispatch: Callable[[Any], None], event: Any) -> None:
        """Spare the comparison with forty patterns what lies in hidden folders and temporary files: under load that is
        most of them, and the watcher took about a fifth of a busy server's processor time."""
        path = os.fspath(event.dest_path or event.src_path)
        if f"{os.sep}." not in path[len(self._datastore_path) :]:
            dispatch(event)

    def _refresh_quietly(self) -> None:
        try:
            self.refresh()
        except (UserError, OSError) as error:  # the next event looks again
            logger.warning("%s could not be looked at: %s", self._datastore_path, error)

    def _on_any_event(self, event: Any) -> None:
        """Look at the folder once after a burst of events; the host looks, and writes its list, for every file."""
        name = os.path.basename(getattr(event, "dest_path", "") or event.src_path)
        if not name.startswith(".") and name != os.path.basename(self._datastore_config_path):
            self._look.trigger()  # the list itself is looked at whenever it is read

    _on_modify_event = _on_any_event
