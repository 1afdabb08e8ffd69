"""The list of a study's images and labels, for any number of threads and processes.

In memory it is a snapshot that is replaced and never changed, so that other threads read a whole one. On disk it is the
SQLite index. ``datastore_v2.json`` is exported from that for the host's own tools, soon after a change and not in its
way; what they write there is merged. See docs/decisions/0020-an-index-beside-the-list.md.
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import sqlite3
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path

from filelock import FileLock, Timeout
from monailabel.datastore.local import ImageLabelModel, LocalDatastoreModel

from samstudent.errors import NotFound
from samstudent.imaging.file_names import case_id
from samstudent.imaging.folder import name_of
from samstudent.server.datastore.coalesced_call import CoalescedCall
from samstudent.server.datastore.host_list import HostList, Unexported, merge_host_list
from samstudent.server.datastore.label_index import Changes, Export, LabelIndex, Position, Stamp
from samstudent.server.datastore.list_models import difference, header_of, shallow_copy, with_base_path
from samstudent.util.files import atomic_path, own_copy, require_own

logger = logging.getLogger(__name__)

#: The host's list is exported so many seconds after a change; later ones of that time go with it.
EXPORT_SECONDS = 1.0
#: Largest share of the time that exports take: those of a large study come less often.
SHARE_OF_TIME = 0.1
#: The lock's file is looked at so often while another process holds it, seconds.
LOCK_POLL_SECONDS = 0.01

#: What a study's files say should be listed, by what was listed so far.
Rebuild = Callable[[LocalDatastoreModel], dict[str, ImageLabelModel]]


class StudyList:
    """The list of one study and task.

    A change is: lock, read, change, write. No process undoes another's.

    Args:
        study: the study folder.
        name: of the host's list in it.
        rebuild: called where index and host's list are lost, under the lock.
    """

    def __init__(self, study: Path, name: str, rebuild: Rebuild) -> None:
        index = study / ".samstudent" / f"{Path(name).stem}.sqlite"
        require_own(index, study)
        self._study, self._rebuild = study, rebuild
        self._index, self._host_list = LabelIndex(index), HostList(study / name)
        self._model = LocalDatastoreModel(name="", description="")
        self._position: Position | None = None
        self._exported = Export()
        #: Of the host's list when it was last read, exported, or found unreadable.
        self._host_stamp: Stamp = None
        self._lock = FileLock(study / ".lock", poll_interval=LOCK_POLL_SECONDS)
        #: Between the threads of this process; taken before the file's lock.
        self._turn = threading.RLock()
        self._mutex = threading.RLock()
        self._local = threading.local()
        self._export_took = 0.0
        self._export_due = CoalescedCall(self._export_soon, self._export_delay, "export")
        _open_lists.add(self)

    # ---- reading ----

    @property
    def model(self) -> LocalDatastoreModel:
        """The list as it is now: within a transaction its draft, else a snapshot with other processes' changes."""
        draft: LocalDatastoreModel | None = getattr(self._local, "draft", None)
        if draft is not None:
            return draft
        if self._position is None:  # not open yet
            return self._model
        if self._index.is_changed():
            with self._mutex:
                try:
                    self._read_index()
                except (OSError, ValueError, KeyError, sqlite3.DatabaseError) as error:  # the next change mends it
                    logger.warning("%s cannot be read at the moment: %s", self._index.path, error)
        if self._host_list.stamp() != self._host_stamp:
            self._read_host_list()
        return self._model

    def entry(self, case: str) -> ImageLabelModel:
        """A copy of a case's entry, to be changed and put back. Raises NotFound."""
        entry = self.model.objects.get(case_id(case))
        if entry is None:
            raise NotFound(f"image {case!r} is not in the study")
        return entry.model_copy(deep=True)

    # ---- changes ----

    def open(self, empty: LocalDatastoreModel) -> None:
        """Read what is on disk; make the index where it is missing or damaged.

        Args:
            empty: of a study that has no list yet.
        """
        with self._turn, self._lock:
            own_copy(self._index.path)
            self._model, self._position = empty, None
            self._update()

    @contextlib.contextmanager
    def transaction(self) -> Iterator[LocalDatastoreModel]:
        """Change the list: gives a draft to work on, written when the block ends without an error.

        Replace entries of ``objects``, do not change them: other threads read them. Blocks may be nested, the outermost
        writes.
        """
        if (outer := getattr(self._local, "draft", None)) is not None:
            yield outer
            return
        with self._turn, self._lock:
            self._update()
            before = self._local.written = self._model
            draft = self._local.draft = shallow_copy(before)
            try:
                yield draft
                self.write()
            except BaseException:
                self._revert(before)
                raise
            finally:
                self._local.draft = None

    def write(self) -> None:
        """Write what the running transaction has changed so far, before its end."""
        draft = self._local.draft
        if self._write(self._local.written, draft):
            self._local.written = self._model

    def close(self) -> None:
        """Export the host's list now where it lacks changes; no thread of the list is at work afterwards. The list can
        be used further. Not within a transaction."""
        self._export_due.cancel()
        self._export_soon()
        self._export_due.cancel()  # one that became due while it was found what is lacking

    # ---- index ----

    def _update(self) -> None:
        """Bring the snapshot up to date, and mend what is damaged. Under the lock."""
        try:
            if not self._index.exists():
                self._make_index(self._read_seed())
            self._read_index()
        except (ValueError, KeyError, TypeError, sqlite3.DatabaseError) as error:
            self._replace_damaged_index(error)
        self._merge_host_list(is_change=True)

    def _read_index(self) -> None:
        with self._mutex:
            self._apply(self._index.read(self._position))

    def _apply(self, changes: Changes) -> None:
        if changes.entries or changes.removed or changes.is_whole or changes.header != header_of(self._model):
            kept = {} if changes.is_whole else self._model.objects
            objects = {case: entry for case, entry in kept.items() if case not in changes.removed}
            objects.update(changes.entries)
            self._model = self._model.model_copy(update={**changes.header, "objects": objects})
        self._position, self._exported = changes.position, changes.export
        if changes.export.is_due or changes.export.revision < changes.position.revision:
            self._export_due.trigger()

    def _write(self, before: LocalDatastoreModel, after: LocalDatastoreModel) -> bool:
        """Write the difference, and publish it; False: there is none."""
        changed, removed = difference(before, after)
        if not changed and not removed and header_of(before) == header_of(after):
            return False
        with self._mutex:
            self._position = self._index.write(header_of(after), changed, removed)
            self._model = shallow_copy(after)
        self._export_due.trigger()
        return True

    def _revert(self, before: LocalDatastoreModel) -> None:
        """After an error: what a transaction has written so far would give an old file a new file's info."""
        try:
            self._write(self._local.written, before)
        except (OSError, sqlite3.DatabaseError) as error:
            logger.error("%s could not be written back: %s", self._index.path, error)

    # ---- index that is missing or damaged ----

    def _read_seed(self) -> LocalDatastoreModel:
        """What a new index begins with: the list in memory, else the host's list, else what the files say."""
        stamp = self._host_list.stamp()
        if self._model.objects:
            logger.error("%s is gone; it is made again from memory", self._index.path)
            return self._model
        try:
            listed = self._host_list.read()
        except ValueError:
            aside = self._host_list.set_aside()
            logger.error("%s was unreadable; kept as %s, made again from the files", self._host_list.path, aside.name)
            return self._rebuilt(self._model)
        if listed is None:
            return self._model
        self._host_stamp = stamp
        return with_base_path(listed, self._model.base_path)

    def _make_index(self, model: LocalDatastoreModel) -> None:
        self._index.make(header_of(model), model.objects, self._host_stamp)

    def _replace_damaged_index(self, error: Exception) -> None:
        aside = self._index.set_aside()
        logger.error("%s was unreadable (%s); kept as %s and made again", self._index.path, error, aside.name)
        self._make_index(self._rebuilt(self._read_seed()))
        self._read_index()

    def _rebuilt(self, model: LocalDatastoreModel) -> LocalDatastoreModel:
        result: LocalDatastoreModel = model.model_copy(update={"objects": self._rebuild(model)})
        return result

    # ---- the host's list ----

    def _read_host_list(self) -> None:
        """Merge another program's changes, unless somebody changes the list just now: then the next reader does."""
        if not self._turn.acquire(blocking=False):
            return
        try:
            with self._lock.acquire(timeout=0):
                self._read_index()
                self._merge_host_list(is_change=False)
        except Timeout:
            return
        except (OSError, ValueError, KeyError, sqlite3.DatabaseError) as error:
            logger.warning("%s is not looked at: %s", self._host_list.path, error)
        finally:
            self._turn.release()

    def _merge_host_list(self, is_change: bool) -> None:
        """Take in what another program has changed in the host's list. Under the lock.

        Args:
            is_change: this is the begin of a change, so that an unreadable file is set aside; it may otherwise be one
                that is just being written.
        """
        stamp = self._host_list.stamp()
        if stamp in (self._exported.stamp, None):
            if stamp is None:
                self._export_due.trigger()
            self._host_stamp = stamp
            return
        if stamp == self._host_stamp and not is_change:
            return
        try:
            theirs = self._host_list.read()
        except ValueError:
            if is_change:
                aside = self._host_list.set_aside()
                logger.error("%s was unreadable; kept as %s", self._host_list.path, aside.name)
            self._host_stamp = self._host_list.stamp()
            self._export_due.trigger()
            return
        if theirs is not None:
            logger.info("%s was changed by another program; its changes are taken in", self._host_list.path)
            revision = self._exported.revision
            unexported = Unexported(*self._index.changed_since(revision))
            self._write(self._model, merge_host_list(self._model, theirs, unexported, self._label_file))
            if not (unexported.changed or unexported.removed) and self._position is not None:
                revision = self._position.revision
            self._set_export(Export(revision, stamp, is_due=True))  # the file may lack changes of ours
        self._host_stamp = stamp
        self._export_due.trigger()

    def _label_file(self, case: str, tag: str, label: object) -> Path:
        return Path(self._model.label_path(tag), name_of(case, label.ext, label.info))  # type: ignore[attr-defined]

    def _set_export(self, export: Export) -> None:
        self._index.set_export(export)
        self._exported = export

    def _is_exported(self) -> bool:
        """Whether the host's list, as far as is known, holds all changes."""
        exported, position = self._exported, self._position
        return not exported.is_due and position is not None and exported.revision >= position.revision

    def _export_delay(self) -> float:
        return max(EXPORT_SECONDS, self._export_took / SHARE_OF_TIME)

    def _export_soon(self) -> None:
        started = time.monotonic()
        try:
            self._export()
        except (OSError, KeyError, sqlite3.DatabaseError) as error:  # the next change exports it
            logger.error("%s could not be written: %s", self._host_list.path, error)
        self._export_took = time.monotonic() - started

    def _export(self) -> None:
        """Write the host's list, unless another process has, or another program has changed it meanwhile."""
        if not self._index.exists():
            return
        self._read_index()
        if self._is_exported() and self._host_list.stamp() == self._exported.stamp:
            return
        revision, content = self._index.as_host_list()
        with contextlib.ExitStack() as stack, contextlib.suppress(_SupersededError):
            with atomic_path(self._host_list.path) as temporary:
                with temporary.open("w", encoding="utf-8") as file:
                    file.write(content)
                    file.flush()
                    os.fsync(file.fileno())  # outside of the lock: it takes long
                stack.enter_context(self._turn)
                stack.enter_context(self._lock)
                self._read_index()
                position = self._position
                self._merge_host_list(is_change=True)
                is_whole = self._is_exported() and self._host_list.stamp() is not None
                if self._position != position or is_whole:
                    raise _SupersededError
            self._host_stamp = self._host_list.stamp()
            self._set_export(Export(revision, self._host_stamp))


class _SupersededError(Exception):
    """The host's list need not be replaced."""


_open_lists: weakref.WeakSet[StudyList] = weakref.WeakSet()


@atexit.register
def export_all() -> None:
    """Export the host's lists of this process's studies where they lack changes; called at its end."""
    for each in list(_open_lists):
        each.close()
