"""Datastore of a study folder: the host's interface, safe for several processes and crashes, without loss of labels."""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from monailabel.datastore.local import LocalDatastore, LocalDatastoreModel

from samstudent.errors import UserError
from samstudent.imaging.case import read_image
from samstudent.imaging.file_names import LABELS, case_id, split_name
from samstudent.imaging.folder import images_folder
from samstudent.imaging.label_tags import FINAL, PSEUDO_TAGS
from samstudent.imaging.label_writing import write_masks
from samstudent.imaging.labels import read_masks
from samstudent.imaging.value_lookup import names_for_reading
from samstudent.server.datastore.coalesced_call import CoalescedCall
from samstudent.server.datastore.dataset_archive import write_archive
from samstudent.server.datastore.history import History
from samstudent.server.datastore.image_files import ImageFiles
from samstudent.server.datastore.label_files import LabelFiles, without_reserved
from samstudent.server.datastore.label_rules import ImageRules, LabelRules
from samstudent.server.datastore.study_files import StudyFiles
from samstudent.server.datastore.study_list import StudyList
from samstudent.server.datastore.viewer_grid import moved
from samstudent.util.files import require_own

logger = logging.getLogger(__name__)

#: Delay from a file system event to the refresh, seconds: copied files cause a burst of events.
SETTLE_SECONDS = 0.5


class StudyFolderDatastore(LocalDatastore):  # type: ignore[misc]
    """Study folder with images in it or in ``images/``, and labels in ``labels/<tag>/<image id><extension>``.

    ``imaging.folder`` defines which files are images or labels, and their ids. The files are authoritative; the list
    (``study_list``) contains their metadata.

    Args:
        path: study folder.
        auto_reload: watch the folder for new and removed files.
        read_only: do not add files of the folder to the list at the start.
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
        # Before the host's constructor, which already reads and reconciles.
        self._list = StudyList(folder, labels.place.list, lambda model: self._files.rebuild(model))
        self.labels = LabelFiles(folder, self._list, History(folder / labels.place.labels), labels)
        self.image_files = ImageFiles(folder, self._list, images)
        self._files = StudyFiles(self.labels, images)
        self._refresh_call = CoalescedCall(self._try_refresh, lambda: SETTLE_SECONDS, "folder")
        require_own(folder / labels.place.labels / ".history", folder)
        images_dir = "." if images_folder(folder, tuple(images.extensions)) == folder else "images"
        globs = [f"*{suffix}" for suffix in dict.fromkeys([*images.extensions, *LABELS])]
        super().__init__(
            str(folder), images_dir, labels.place.labels, labels.place.list, extensions=globs, auto_reload=auto_reload,
            read_only=read_only,
        )  # fmt: skip
        if auto_reload:
            self._handler.on_moved = self._on_any_event  # rsync and other programs rename complete files
            self._handler.dispatch = functools.partial(self._unless_hidden, self._handler.dispatch)

    # ---- the list ----

    @property
    def _datastore(self) -> LocalDatastoreModel:
        """Current list. The host's methods read through this property, so that they see other processes' changes."""
        return self._list.model

    @_datastore.setter
    def _datastore(self, model: LocalDatastoreModel) -> None:
        """The host's constructor sets the list of an empty study."""
        model.base_path = self._datastore_path
        self._empty = model

    def transaction(self) -> AbstractContextManager[LocalDatastoreModel]:
        """Several changes in one write; see ``StudyList.transaction``."""
        return self._list.transaction()

    def close(self) -> None:
        """Export the host's list if it lacks changes."""
        self._list.close()

    def _init_from_datastore_file(self, throw_exception: bool = False) -> None:
        """The host's constructor calls this."""
        self._list.open(self._empty)

    def _update_datastore_file(self, lock: bool = True) -> None:
        raise NotImplementedError("a change outside of transaction() would undo other processes' changes")

    def _reconcile_datastore(self) -> None:
        self._files.reconcile()

    @property
    def problems(self) -> list[str]:
        """One line for each problem of the folder: ignored files and folders, duplicates, labels without an image,
        unreadable images."""
        return [*self._files.problems, *self.unreadable().values()]

    # ---- images ----

    def _to_id(self, file: str) -> tuple[str, str]:
        """(name without extension, extension as written); the extension is "" if the study takes no such files."""
        return split_name(file, tuple(dict.fromkeys([*self.image_files.rules.extensions, *LABELS])))

    def add_image(self, image_id: str, image_filename: str, image_info: dict[str, Any] | None) -> str:
        """Copy an image into the study; see ``ImageFiles.add``."""
        return self.image_files.add(image_id, Path(image_filename), image_info or {})

    def remove_image(self, image_id: str) -> None:
        """Remove an image and its labels; human labels go to the history.

        Raises:
            NotFound: no such image.
            Conflict: the image is a part of a DICOM folder or file, or it or a label lies outside of the study; nothing
                was removed.
        """
        case = case_id(image_id)
        with self.transaction() as model:
            tags = list(self._list.entry(case).labels)
            self.image_files.require_removable(case)
            for file in (self.labels.path(case, tag) for tag in tags):
                if file is not None:
                    require_own(file, self.labels.study)
            for tag in tags:
                self.labels.remove(case, tag)
            self.image_files.unlink(case)
            del model.objects[case]

    def get_image_uri(self, image_id: str) -> str:
        """Path of the image's file in the study; "" if there is no such image."""
        file = self.image_files.path(image_id)
        return str(file) if file else ""

    def viewer_file(self, image_id: str) -> Path:
        """File of an image for clients; see ``ImageFiles.for_viewer``."""
        return self.image_files.for_viewer(image_id)

    def viewer_grid_file(self, image_id: str) -> Path | None:
        """``viewer_file`` of a volume with a tilted gantry, whose grid differs from the case's grid; otherwise None."""
        return self.image_files.tilted_copy(image_id)

    def viewer_label(self, image_id: str, tag: str) -> Path | None:
        """Copy of a label on the grid of ``viewer_grid_file``; None: the label's own file is on the viewers' grid."""
        file, task = self.viewer_grid_file(image_id), self.labels.rules.task
        if file is None or task is None:
            return None
        own, shown = read_image(self.get_image_uri(image_id)).grid, read_image(file).grid
        label = Path(self.get_label_uri(image_id, tag))
        names = names_for_reading(label, self.get_label_info(image_id, tag))
        path = file.parent / f"{tag}.seg.nrrd"
        write_masks(path, moved(read_masks(label, task, own, names=names), own, shown, label), task, shown)
        return path

    def get_image_info(self, image_id: str) -> dict[str, Any]:
        """Metadata of an image, with path and name of the file for clients; {} if there is no such image."""
        info: dict[str, Any] = super().get_image_info(case_id(image_id))
        if not info:
            return {}
        return info | self.image_files.viewer_info(image_id)

    def update_image_info(self, image_id: str, info: dict[str, Any]) -> None:
        """Add metadata of an image. Raises NotFound."""
        with self.transaction() as model:
            entry = self._list.entry(image_id)
            entry.image.info.update(without_reserved(info))
            model.objects[case_id(image_id)] = entry

    def unreadable(self) -> dict[str, str]:
        """Reasons by case id of the images that are known to be unusable; such cases are not selected for labelling."""
        return self.image_files.unreadable()

    def image_problem(self, image_id: str) -> str | None:
        """Reason that an image is unusable, or None; see ``ImageFiles.problem``."""
        return self.image_files.problem(image_id)

    def note_readable(self, image_id: str) -> None:
        """Record that an image was read without an error."""
        self.image_files.note_readable(image_id)

    # ---- labels ----

    def save_label(self, image_id: str, label_filename: str, label_tag: str, label_info: dict[str, Any] | None) -> str:
        """Save a label of an image; see ``LabelFiles.save``."""
        return self.labels.save(image_id, Path(label_filename), label_tag, label_info or {})

    def remove_label(self, label_id: str, label_tag: str) -> None:
        """Remove a label; see ``LabelFiles.remove``."""
        self.labels.remove(label_id, label_tag)

    def update_label_info(self, label_id: str, label_tag: str, info: dict[str, Any]) -> None:
        """Add metadata of a label; see ``LabelFiles.update_info``."""
        self.labels.update_info(label_id, label_tag, info)

    def get_label_uri(self, label_id: str, label_tag: str) -> str:
        """Path of the label's file in the study; "" if there is no such label."""
        file = self.labels.path(label_id, label_tag)
        return str(file) if file else ""

    def get_label_info(self, label_id: str, label_tag: str) -> dict[str, Any]:
        """Metadata of a label; {} if there is no such label."""
        info: dict[str, Any] = super().get_label_info(case_id(label_id), label_tag)
        return info

    def get_labels_by_image_id(self, image_id: str) -> dict[str, str]:
        """Label ids by tag."""
        labels: dict[str, str] = super().get_labels_by_image_id(case_id(image_id))
        return labels

    def label_times(self) -> list[tuple[str, float]]:
        """(image id, seconds since 1970) of every final label, for the retraining schedule."""
        finals = ((case, entry.labels.get(FINAL)) for case, entry in self._datastore.objects.items())
        return [(case, float(x.info.get("time", x.info.get("ts", 0)))) for case, x in finals if x]

    def label_infos(self, image_id: str | None = None) -> dict[str, dict[str, dict[str, Any]]]:
        """Label metadata by image id and tag, of one point in time; of one image only if an id is given."""
        objects = self._datastore.objects
        ids = objects if image_id is None else objects.keys() & {case_id(image_id)}
        return {case: {tag: label.info for tag, label in objects[case].labels.items()} for case in ids}

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
        """Paths of images (files for clients) and final labels that share a grid.

        Args:
            full_path: absolute paths; False: relative to the study folder.
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
        """The list for viewers, without pseudo labels, which are for training only."""
        content: dict[str, Any] = super().json()
        for entry in content["objects"].values():
            entry["labels"] = {tag: label for tag, label in entry["labels"].items() if tag not in PSEUDO_TAGS}
        return content

    def get_dataset_archive(self, limit_cases: int | None) -> str:
        """Path of a new ZIP file with images, final labels and the list; the caller deletes it.

        Raises:
            Conflict: there is no final label.
        """
        return write_archive(self.datalist()[: limit_cases or None], self.json())

    # ---- file system events ----

    def _unless_hidden(self, dispatch: Callable[[Any], None], event: Any) -> None:
        """Drop events of hidden folders and temporary files before the host compares them with forty patterns: under
        load most events are of this kind, and the comparison took a fifth of the server's processor time."""
        path = os.fspath(event.dest_path or event.src_path)
        if f"{os.sep}." in path[len(self._datastore_path) :]:
            return
        below = os.path.relpath(path, self._datastore.image_path()).split(os.sep)
        if len(below) > 1 and not below[0].startswith(("..", "labels")):
            # DICOM in subfolders, with names of any form; reading a file is an event, too.
            if event.event_type in ("created", "deleted", "modified", "moved"):
                self._on_any_event(event)
            return
        dispatch(event)

    def _try_refresh(self) -> None:
        try:
            self.refresh()
        except (UserError, OSError) as error:  # repeated at the next event
            logger.warning("%s could not be read: %s", self._datastore_path, error)

    def _on_any_event(self, event: Any) -> None:
        """Schedule one refresh for a burst of events; the host would refresh, and write its list, for every file."""
        name = os.path.basename(getattr(event, "dest_path", "") or event.src_path)
        if not name.startswith(".") and name != os.path.basename(self._datastore_config_path):
            self._refresh_call.trigger()  # changes of the list itself are noticed whenever it is read

    _on_modify_event = _on_any_event
