"""The host's datastore of a study folder, made safe for several processes, crashes and a human's work."""

from __future__ import annotations

import contextlib
import functools
import json
import logging
import os
import shutil
import tempfile
import threading
import time
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from filelock import FileLock
from monailabel.datastore.local import DataModel, ImageLabelModel, LocalDatastore, LocalDatastoreModel

from samstudent.active_learning.readable import ImageCheck
from samstudent.errors import Conflict, NotFound, UserError, named
from samstudent.imaging.folder import IMAGES, LABELS, case_id, duplicates, images_folder, name_of, sentences, split_name
from samstudent.imaging.label_tags import FINAL, MACHINE_TAGS, PSEUDO_TAGS
from samstudent.imaging.value_names import KEY, SUFFIX, ValueNames, sidecar_of
from samstudent.server.datastore.history import History
from samstudent.server.datastore.identifiers import check_image_id, check_name
from samstudent.server.datastore.label_folder import LabelFolder
from samstudent.server.datastore.list_file import DatastoreFile
from samstudent.server.datastore.name_keeper import NameKeeper
from samstudent.server.datastore.reconcile import Reconciler, about
from samstudent.server.datastore.upright import UprightCopies
from samstudent.server.jobs.job_process import is_job_process
from samstudent.task import Task
from samstudent.util.files import atomic_path, require_own, sha256_file

logger = logging.getLogger(__name__)

#: Where more files than this have one size, the server does not look for equal ones; ``doctor`` does.
MOST_ALIKE = 200
#: Info that the datastore sets and nobody else.
RESERVED = frozenset({"ts", "time", "name", "sha256", "mtime_ns", KEY})
#: Files copied into the folder come as a burst of events; one look after this many seconds takes them all in.
SETTLE_SECONDS = 0.5

#: Called with image id, file, tag and info before a label is taken; raises UserError where it is no good.
LabelCheck = Callable[[str, Path, str, dict[str, Any]], None]


class StudyFolderDatastore(LocalDatastore):  # type: ignore[misc]
    """A study folder: images in it, or in its ``images/``; labels in ``labels/<tag>/<image id><extension>``.

    Which files are images or labels, and under which ids, is said in ``folder``. A case's file is found by the name in
    its info: an id is not always the file's name. What lies outside of the study, behind a link or a mount, is only
    read.

    Differs from the host's: a change is lock, read, change, write to a temporary file, replace, so that no process
    undoes another's; the list in memory is never changed in place, so that other threads read a whole one; the list is
    read again when another process has written it; a torn one is recovered; labels of humans keep earlier versions.

    Args:
        path: the study folder.
        image_extensions: of files that are images, in order of preference.
        auto_reload: watch the folder for files that come and go.
        read_only: take nothing in at the start.
        check_label: may refuse a label.
        image_check: knows which images can be read.
        task: whose labels these are; None: what the values of label maps mean is not recorded.
        place: names of the folder of labels and of the list in the study folder.
        claim: called before a human's label is put in place, and when labels were found; may raise Conflict.
    """

    def __init__(
        self,
        path: str | Path,
        image_extensions: Sequence[str] = IMAGES,
        auto_reload: bool = False,
        read_only: bool = False,
        check_label: LabelCheck | None = None,
        image_check: ImageCheck | None = None,
        task: Task | None = None,
        place: LabelFolder = LabelFolder(),  # noqa: B008 (frozen)
        claim: Callable[[], None] = lambda: None,
    ) -> None:
        folder = Path(path)
        self.check_label, self.image_check, self._claim = check_label, image_check, claim
        #: What is wrong with the folder, as of the last look at it.
        self._found: list[str] = []
        # The host's constructor below already reads and reconciles, so these come first.
        self._file = DatastoreFile(folder / place.list)
        self._model = LocalDatastoreModel(name="", description="")
        self._lock = FileLock(folder / ".lock")
        #: Taken before the file's lock, which looks only twenty times a second whether it is free.
        self._turn = threading.RLock()
        self._mutex = threading.RLock()
        self._local = threading.local()
        self._timer: threading.Timer | None = None
        self._history = History(folder / place.labels)
        self._upright = UprightCopies(folder / ".samstudent" / "upright")
        lists = (self._file.path, self._file.copy)
        self._names = NameKeeper(task, folder / place.labels, lists) if task else None
        self._image_extensions = tuple(image_extensions)
        self._suffixes = tuple(dict.fromkeys([*self._image_extensions, *LABELS]))
        require_own(folder / place.labels / ".history", folder)
        images = "." if images_folder(folder, self._image_extensions) == folder else "images"
        globs = [f"*{suffix}" for suffix in self._suffixes]
        super().__init__(
            str(folder), images, place.labels, place.list, extensions=globs, auto_reload=auto_reload,
            read_only=read_only,
        )  # fmt: skip
        if auto_reload:
            self._handler.on_moved = self._on_any_event  # rsync and careful writers rename into place
            self._handler.dispatch = functools.partial(self._unless_hidden, self._handler.dispatch)

    # ---- the list: a snapshot that is replaced, never changed ----

    @property
    def _datastore(self) -> LocalDatastoreModel:
        """What is known now. All methods of the host read through this, so all see other processes' changes."""
        draft: LocalDatastoreModel | None = getattr(self._local, "draft", None)
        if draft is not None:
            return draft
        if self._file.changed():
            with self._mutex:
                try:
                    self._publish(self._file.read())
                except ValueError:  # only a writer that is not ours leaves it so; the next change recovers it
                    logger.warning("%s is unreadable at the moment", self._file.path)
        return self._model

    @_datastore.setter
    def _datastore(self, model: LocalDatastoreModel) -> None:
        self._model = model

    def _publish(self, model: LocalDatastoreModel | None) -> None:
        if model is not None:
            model.base_path = self._datastore_path
            self._model = model

    @contextlib.contextmanager
    def transaction(self) -> Iterator[LocalDatastoreModel]:
        """Change the list: gives a draft to work on, written when the block ends without an error.

        Replace entries of ``objects``, do not change them: other threads read them. Blocks may be nested, the outermost
        writes, so that many changes cost one write of the whole list.
        """
        if (outer := getattr(self._local, "draft", None)) is not None:
            yield outer
            return
        with self._turn, self._lock:
            self._init_from_datastore_file()
            before = self._local.written = self._model
            draft = _shallow_copy(self._model)
            self._local.draft = draft
            try:
                yield draft
                self._write(draft)
            except BaseException:
                self._take_back(before)
                raise
            finally:
                self._local.draft = None

    def _take_back(self, before: LocalDatastoreModel) -> None:
        """After an error: what a transaction has written so far would give an old file a new file's info."""
        if self._local.written is not before:
            try:
                self._file.write(before)
            except OSError as error:
                logger.error("%s could not be written back: %s", self._file.path, error)
        self._file.forget()  # it is read again

    def _write(self, draft: LocalDatastoreModel) -> None:
        """Write what a transaction has changed so far."""
        if draft != self._local.written:
            with self._mutex:
                self._file.write(draft)
                self._model = self._local.written = _shallow_copy(draft)

    def _init_from_datastore_file(self, throw_exception: bool = False) -> None:
        """Read the file if it changed, and mend it if it is unreadable. The host's constructor calls this, too."""
        with self._turn, self._lock, self._mutex:
            if not self._model.objects and (model := self._file.lost()):
                self._publish(model)
                with contextlib.suppress(OSError):  # a study that is read-only
                    self._file.write(model)
                return
            if not self._file.changed():
                return
            try:
                self._publish(self._file.read())
            except ValueError:
                self._publish(self._file.recover() or self._model.model_copy(update={"objects": {}}))
                self._model.objects = self._reconciler(adopted_at=None).objects(self._model)
                self._file.write(self._model)

    def _update_datastore_file(self, lock: bool = True) -> None:
        raise NotImplementedError("a change outside of transaction() would undo other processes' changes")

    def _reconcile_datastore(self) -> None:
        """Take in what came into the folder, drop what is gone. One pass, one write."""
        with self.transaction() as model:
            reconciler = self._reconciler(adopted_at=time.time())
            model.objects = reconciler.objects(model)
            findings = self._names.findings(model.objects) if self._names else []
        problems = reconciler.problems + findings + self._foreign()
        if self._image_extensions == IMAGES:  # a PACS has references instead of images
            # After the transaction: what is read here must not keep other processes waiting.
            problems += sentences(duplicates(reconciler.images, MOST_ALIKE))
            if not reconciler.images:
                problems.append(f"no image in {reconciler.folder}: expected files ending in {' '.join(IMAGES)}")
        for problem in problems:
            if problem not in self._found:
                # The server has said it; each of its jobs looks at the folder, too.
                logger.log(
                    logging.DEBUG if is_job_process() else logging.WARNING, "%s: %s", self._datastore_path, problem
                )
        self._found = problems
        if any(set(entry.labels) - MACHINE_TAGS for entry in self._model.objects.values()):
            with contextlib.suppress(Conflict, OSError):  # the labels are another task's, or the study is read-only
                self._claim()

    # ---- what people should know of the folder ----

    @property
    def problems(self) -> list[str]:
        """A line each: files and folders that are passed over, the same content twice, labels without an image, images
        that cannot be read."""
        return [*self._found, *self.unreadable().values()]

    def unreadable(self) -> dict[str, str]:
        """Case id -> why its image cannot be used, as far as it was read. Such a case is not offered to anybody."""
        if self.image_check is None:
            return {}
        return self.image_check.problems(self._image_file)

    def image_problem(self, image_id: str) -> str | None:
        """Why an image cannot be used; None where it can. Reads it where that was not done since it changed."""
        file = self._image_file(image_id)
        if self.image_check is None or file is None:
            return None
        return self.image_check.problem(case_id(image_id), file)

    def note_readable(self, image_id: str) -> None:
        """An image was read, so nobody needs to try."""
        if self.image_check is not None and (file := self._image_file(image_id)) is not None:
            self.image_check.record(case_id(image_id), file)

    def _reconciler(self, adopted_at: float | None) -> Reconciler:
        reconciler = Reconciler(self._image_extensions, self._history, adopted_at)
        if self._names is not None:
            self._names.begin()
            reconciler.settle = self._names.settle
        return reconciler

    def _foreign(self) -> list[str]:
        """A line for each folder of the study that is not its own."""
        folders = [Path(self._datastore.image_path()), *(Path(self._datastore.label_path(tag)) for tag in self._tags())]
        found = []
        for folder in folders:
            try:
                require_own(folder / "file", Path(self._datastore_path))
            except Conflict as error:
                found.append(str(error))
        return found

    def _tags(self) -> list[str]:
        labels = Path(self._datastore.label_path(None))
        return sorted(item.name for item in labels.iterdir() if item.is_dir()) if labels.is_dir() else []

    # ---- names ----

    def _to_id(self, file: str) -> tuple[str, str]:
        """(name without extension, extension as written); the extension is "" where it is none that is taken in."""
        return split_name(file, self._suffixes)

    def _image_split(self, file: str) -> tuple[str, str]:
        return split_name(file, self._image_extensions)

    def _image_file(self, image_id: str) -> Path | None:
        """An image's entry in the study, which may be a link; None: it is not listed."""
        entry = self._datastore.objects.get(case_id(image_id))
        if entry is None:
            return None
        return Path(self._datastore.image_path(), name_of(image_id, entry.image.ext, entry.image.info)).absolute()

    def _label_file(self, image_id: str, tag: str) -> Path | None:
        """A label's entry in the study, which may be a link; None: it is not listed."""
        label = self._datastore.label(case_id(image_id), tag)
        if label is None:
            return None
        return Path(self._datastore.label_path(tag), name_of(image_id, label.ext, label.info)).absolute()

    def _unlink(self, file: Path) -> None:
        """Remove an entry of the study: a link, not what it leads to.

        Raises:
            Conflict: it lies outside of the study.
        """
        require_own(file, Path(self._datastore_path))
        file.unlink(missing_ok=True)

    def _entry(self, image_id: str) -> ImageLabelModel:
        """A copy of an image's entry, to be changed and put back."""
        entry = self._datastore.objects.get(case_id(image_id))
        if entry is None:
            raise NotFound(f"image {image_id!r} is not in the study")
        return entry.model_copy(deep=True)

    # ---- changes ----

    def set_name(self, name: str) -> None:
        with self.transaction() as model:
            model.name = name

    def set_description(self, description: str) -> None:
        with self.transaction() as model:
            model.description = description

    def add_image(self, image_id: str, image_filename: str, image_info: dict[str, Any] | None) -> str:
        """Copy an image into the study; its id, or the file's name without extension, becomes its id.

        Raises:
            UserError: no id that can be used, or not an image's extension.
            Conflict: the id belongs to another image; labels drawn on that one would be wrong on this one.
        """
        case, ext = self._image_split(os.path.basename(image_filename))
        case = check_image_id(image_id or case)
        if not ext or self._image_split(case + ext) != (case, ext):
            file, allowed = os.path.basename(image_filename), " ".join(self._image_extensions)
            raise UserError(f"image {case!r} from file {file!r}: the file must be one of {allowed}")
        with self.transaction() as model:
            if (present := self._image_file(case)) is not None:
                if present.is_file() and sha256_file(present) == sha256_file(Path(image_filename)):
                    return case
                raise Conflict(f"another image {case!r} is in the study already; remove it first or choose another id")
            destination = Path(model.image_path()) / (case + ext)
            require_own(destination, Path(self._datastore_path))
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
        image_id = case_id(image_id)
        with self.transaction() as model:
            labels = [self._label_file(image_id, tag) for tag in self._entry(image_id).labels]
            image = self._image_file(image_id)
            for file in (image, *labels):
                if file is not None:
                    require_own(file, Path(self._datastore_path))
            for tag in self._entry(image_id).labels:
                self.remove_label(image_id, tag)
            if image is not None:
                image.unlink(missing_ok=True)
            self._upright.forget(image_id)
            del model.objects[image_id]

    def save_label(self, image_id: str, label_filename: str, label_tag: str, label_info: dict[str, Any] | None) -> str:
        """Take a label for an image; a human's earlier one goes to the history. Returns the image's id.

        Raises:
            NotFound: no such image.
            UserError: tag or file extension is not allowed, or ``check_label`` refuses the file.
        """
        check_name(label_tag, "tag")
        image_id = case_id(image_id)
        _, ext = self._to_id(os.path.basename(label_filename))
        if not ext:
            allowed = " ".join(LABELS)
            raise UserError(f"label of {image_id!r}: {os.path.basename(label_filename)!r} is none of {allowed}")
        self._entry(image_id)
        info = self._named(label_tag, Path(label_filename), label_info or {})
        if self.check_label:
            with named(Path(label_filename), f"label {label_tag!r} of {image_id!r}"):
                self.check_label(image_id, Path(label_filename), label_tag, info)
        self._put_label(image_id, Path(label_filename), ext, label_tag, info)
        return image_id

    def _named(self, tag: str, file: Path, info: dict[str, Any]) -> dict[str, Any]:
        """A new label's info with what its values mean. Raises UserError where that cannot be told."""
        return self._names.of_upload(tag, file, info) if self._names else _unnamed(info)

    def _put_label(self, image_id: str, file: Path, ext: str, label_tag: str, info: dict[str, Any]) -> None:
        """Copy a checked label into its place, the earlier one into the history."""
        with self.transaction() as model:
            if label_tag not in MACHINE_TAGS:
                self._claim()
            entry = self._entry(image_id)
            previous = self._previous(image_id, label_tag, entry)
            destination = Path(model.label_path(label_tag)).absolute() / (image_id + ext)
            require_own(destination, Path(self._datastore_path))
            if label_tag not in entry.labels:
                self._keep_unlisted(image_id, label_tag, destination, ext)
            with atomic_path(destination) as temporary:
                shutil.copyfile(file, temporary)
                info = {**info, **about(temporary, destination.name)}
                if self._names and KEY in info:
                    # Before the label is in place. Killed between the two, the file beside the earlier label is of
                    # another content; what that one's values mean is in the history.
                    info[KEY] = self._names.write(destination, info["sha256"], ValueNames.from_json(info[KEY]))
                entry.labels[label_tag] = DataModel(info=info, ext=ext)
                model.objects[image_id] = entry
                if label_tag not in MACHINE_TAGS:
                    # Listed first, put in place after. Killed between the two, the list names a file that is not
                    # there, and the next start gives the file that is there its own info back from the history.
                    self._write(model)
            if previous is not None and previous != destination:
                self._unlink(previous)
                self._unlink(sidecar_of(previous))
            if info.get(KEY, {}).get("source") == "file":
                self._unlink(sidecar_of(destination))  # of an earlier label of this name

    def remove_label(self, label_id: str, label_tag: str) -> None:
        """Remove a label; a human's goes to the history.

        Raises:
            NotFound: no such image or label.
            Conflict: it lies outside of the study.
        """
        label_id = case_id(label_id)
        with self.transaction() as model:
            entry = self._entry(label_id)
            if label_tag not in entry.labels:
                raise NotFound(f"image {label_id!r} has no label {label_tag!r}")
            if (file := self._label_file(label_id, label_tag)) is not None:
                require_own(file, Path(self._datastore_path))
            previous = self._previous(label_id, label_tag, entry)
            del entry.labels[label_tag]
            model.objects[label_id] = entry
            if previous is not None:
                self._unlink(previous)
                self._unlink(sidecar_of(previous))

    def _previous(self, image_id: str, tag: str, entry: ImageLabelModel) -> Path | None:
        """The label file that is about to go; kept in the history if a human drew it."""
        label = entry.labels.get(tag)
        file = self._label_file(image_id, tag)
        if label is None or file is None or not file.is_file():
            return None
        if tag not in MACHINE_TAGS:
            require_own(self._history.folder / "file", Path(self._datastore_path))
            info = label.info if "sha256" in label.info else {**label.info, "sha256": sha256_file(file)}
            self._history.keep(tag, image_id, info, file, label.ext)
        return file

    def _keep_unlisted(self, image_id: str, tag: str, file: Path, ext: str) -> None:
        """A human's label that was dropped in a moment ago, where another is about to be put, goes to the history.

        Raises:
            Conflict: it is another task's.
        """
        if tag in MACHINE_TAGS or not file.is_file():
            return
        info = about(file, file.name)
        settled = self._names.settle(tag, file, info) if self._names else info
        if settled is None:
            raise Conflict(
                f"{file}: is a label of another task; move it, with its {SUFFIX[1:]}, out of this study first"
            )
        self._history.keep(tag, image_id, settled, file, ext)

    def update_image_info(self, image_id: str, info: dict[str, Any]) -> None:
        image_id = case_id(image_id)
        with self.transaction() as model:
            entry = self._entry(image_id)
            entry.image.info.update(_unreserved(info))
            model.objects[image_id] = entry

    def update_label_info(self, label_id: str, label_tag: str, info: dict[str, Any]) -> None:
        """Add to what is known of a label. With other ``label_info`` its values mean something else: it counts as saved
        anew, and a human's goes to the history with what it meant before.

        Raises:
            NotFound: no such image or label.
            UserError: ``check_label`` refuses the label with that ``label_info``.
            Conflict: another label was saved while this one was checked.
        """
        label_id = case_id(label_id)
        known = self._entry(label_id).labels.get(label_tag)
        if known is None:
            raise NotFound(f"image {label_id!r} has no label {label_tag!r}")
        info = _unreserved(info)
        meant = known.info.get("label_info")
        renamed = info.get("label_info", meant) != meant
        file = Path(self.get_label_uri(label_id, label_tag))
        named = self._named(label_tag, file, {**known.info, **info}) if renamed else {}
        if renamed and self.check_label:
            self.check_label(label_id, file, label_tag, named)
        with self.transaction() as model:
            entry = self._entry(label_id)
            label = entry.labels.get(label_tag)
            if label is None or (renamed and label != known):
                raise Conflict(
                    f"label {label_tag!r} of {label_id!r} was changed or removed meanwhile; look at it again"
                )
            if renamed and label_tag not in MACHINE_TAGS and file.is_file():
                before = label.info if "sha256" in label.info else {**label.info, "sha256": sha256_file(file)}
                self._history.keep(label_tag, label_id, before, file, label.ext)
            if renamed:
                info |= {"ts": int(time.time()), "time": time.time()}
                if self._names and KEY in named:
                    sha256 = label.info.get("sha256") or sha256_file(file)
                    info |= {"sha256": sha256}
                    # Not ``file``: where that is a link, it lies outside of the study.
                    listed = Path(model.label_path(label_tag)) / (label_id + label.ext)
                    info[KEY] = self._names.write(listed, sha256, ValueNames.from_json(named[KEY]))
            label.info.update(info)
            model.objects[label_id] = entry

    # ---- reading; ids in any Unicode form, files under the study's own path ----

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

    def get_label_uri(self, label_id: str, label_tag: str) -> str:
        """Path of the label's file in the study; "" where there is no such label."""
        file = self._label_file(label_id, label_tag)
        return str(file) if file else ""

    def get_label_info(self, label_id: str, label_tag: str) -> dict[str, Any]:
        info: dict[str, Any] = super().get_label_info(case_id(label_id), label_tag)
        return info

    def get_labels_by_image_id(self, image_id: str) -> dict[str, str]:
        labels: dict[str, str] = super().get_labels_by_image_id(case_id(image_id))
        return labels

    def datalist(self, full_path: bool = True) -> list[dict[str, Any]]:
        """Images as clients get them, with their final labels, which lie on them; ``full_path`` False: relative to the
        study folder."""
        pairs = [
            {"image": str(self.viewer_file(case)), "label": self.get_label_uri(case, FINAL)}
            for case in self.get_labeled_images()
        ]
        if full_path:
            return pairs
        root = os.path.abspath(self._datastore_path)
        return [{kind: os.path.relpath(path, root) for kind, path in pair.items()} for pair in pairs]

    def label_times(self) -> list[tuple[str, float]]:
        """(image id, seconds since the epoch) of every final label, for the retraining schedule."""
        finals = ((case, entry.labels.get(FINAL)) for case, entry in self._datastore.objects.items())
        return [(case, float(x.info.get("time", x.info.get("ts", 0)))) for case, x in finals if x]

    def label_infos(self, image_id: str | None = None) -> dict[str, dict[str, dict[str, Any]]]:
        """Image id -> tag -> label info, as of one moment; of one image alone where it is named and known."""
        objects = self._datastore.objects
        ids = objects if image_id is None else objects.keys() & {case_id(image_id)}
        return {case: {tag: label.info for tag, label in objects[case].labels.items()} for case in ids}

    def label_history(self, image_id: str, tag: str = FINAL) -> list[Path]:
        """Earlier versions of a human's label, oldest first."""
        return self._history.versions(tag, case_id(image_id))

    def status(self) -> dict[str, Any]:
        status: dict[str, Any] = super().status()
        return {**status, "label_tags": {t: n for t, n in status["label_tags"].items() if t not in PSEUDO_TAGS}}

    def json(self) -> dict[str, Any]:
        """The list for viewers, without pseudo labels: those are the trainer's, and no viewer should offer them."""
        content: dict[str, Any] = super().json()
        for entry in content["objects"].values():
            entry["labels"] = {tag: label for tag, label in entry["labels"].items() if tag not in PSEUDO_TAGS}
        return content

    def get_dataset_archive(self, limit_cases: int | None) -> str:
        """Path of a new ZIP file with images, final labels and the list; the caller deletes it."""
        cases = self.datalist()[: limit_cases or None]
        if not cases:
            raise Conflict("no case has a final label, so there is nothing to export")
        handle, path = tempfile.mkstemp(suffix=".zip")
        with os.fdopen(handle, "wb") as file, zipfile.ZipFile(file, "w") as archive:
            for case in cases:
                for kind, source in case.items():
                    archive.write(source, f"{kind}/{os.path.basename(source)}")
                if (beside := sidecar_of(Path(case["label"]))).is_file():
                    archive.write(beside, f"label/{beside.name}")
            archive.writestr("metadata.json", json.dumps(self.json(), default=str))
        return path

    # ---- the watcher ----

    def _unless_hidden(self, dispatch: Callable[[Any], None], event: Any) -> None:
        """Spare the comparison with forty patterns what lies in hidden folders and temporary files: under load that is
        most of them, and the watcher took about a fifth of a busy server's processor time."""
        path = os.fspath(event.dest_path or event.src_path)
        if f"{os.sep}." not in path[len(self._datastore_path) :]:
            dispatch(event)

    def _look_again(self) -> None:
        try:
            self.refresh()
        except (UserError, OSError) as error:  # the next event looks again
            logger.warning("%s could not be looked at: %s", self._datastore_path, error)

    def _on_any_event(self, event: Any) -> None:
        """Look at the folder once after a burst of events; the host looks, and writes its list, for every file."""
        name = os.path.basename(getattr(event, "dest_path", "") or event.src_path)
        if name.startswith(".") or name == self._file.path.name:
            return  # our own temporary files; the list itself is looked at whenever it is read
        with self._mutex:
            if self._timer is None or not self._timer.is_alive():
                self._timer = threading.Timer(SETTLE_SECONDS, self._look_again)
                self._timer.daemon = True
                self._timer.start()

    _on_modify_event = _on_any_event


def _shallow_copy(model: LocalDatastoreModel) -> LocalDatastoreModel:
    copy: LocalDatastoreModel = model.model_copy(update={"objects": dict(model.objects)})
    return copy


def _unreserved(info: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in info.items() if key not in RESERVED}


def _unnamed(info: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in info.items() if key != KEY}
