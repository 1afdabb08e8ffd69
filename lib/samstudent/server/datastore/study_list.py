"""List of a study's images and labels, for any number of threads and processes.

In memory it is a snapshot (``list_snapshot``), on disk an SQLite index (``label_index``). ``datastore_v2.json`` is
exported from the index for the host's tools, and their changes are merged (``host_list_sync``). See
docs/decisions/0020-an-index-beside-the-list.md.
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import sqlite3
import threading
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path

from monailabel.datastore.local import ImageLabelModel, LocalDatastoreModel

from samstudent.errors import NotFound
from samstudent.imaging.file_names import case_id
from samstudent.server.datastore.host_list import HostList
from samstudent.server.datastore.host_list_sync import HostListSync
from samstudent.server.datastore.label_index import LabelIndex
from samstudent.server.datastore.list_lock import ListLock
from samstudent.server.datastore.list_models import header_of, shallow_copy, with_base_path
from samstudent.server.datastore.list_snapshot import ListSnapshot
from samstudent.util.files import own_copy, require_own

logger = logging.getLogger(__name__)

#: Function from a lost list, as far as it is known, to entries by case id, restored from the files of the study.
Rebuild = Callable[[LocalDatastoreModel], dict[str, ImageLabelModel]]


class StudyList:
    """List of one study and task.

    A change locks, reads, changes and writes the list, so that no process undoes the changes of another.

    Args:
        study: study folder.
        name: file name of the host's list in it.
        rebuild: restores the list if index and host's list are lost; called under the lock.
    """

    def __init__(self, study: Path, name: str, rebuild: Rebuild) -> None:
        index = study / ".samstudent" / f"{Path(name).stem}.sqlite"
        require_own(index, study)
        self._rebuild = rebuild
        self._lock = ListLock(study / ".lock")
        self._index, self._host_list = LabelIndex(index), HostList(study / name)
        self._snapshot = ListSnapshot(self._index, lambda: self._sync.schedule_export())
        self._sync = HostListSync(self._host_list, self._snapshot, self._lock)
        self._local = threading.local()
        _open_lists.add(self)

    # ---- reading ----

    @property
    def model(self) -> LocalDatastoreModel:
        """Current list: within a transaction its draft, else a snapshot with other processes' changes."""
        draft: LocalDatastoreModel | None = getattr(self._local, "draft", None)
        if draft is not None:
            return draft
        if self._snapshot.position is not None:  # it is open
            self._snapshot.refresh_if_changed()
            self._sync.merge_if_changed()
        return self._snapshot.model

    def entry(self, case: str) -> ImageLabelModel:
        """Copy of a case's entry, to be changed and put back into a transaction's draft. Raises NotFound."""
        entry = self.model.objects.get(case_id(case))
        if entry is None:
            raise NotFound(f"image {case!r} is not in the study")
        return entry.model_copy(deep=True)

    # ---- changes ----

    def open(self, empty: LocalDatastoreModel) -> None:
        """Read the list; create the index if it is missing or damaged.

        Args:
            empty: list of a study without images.
        """
        with self._lock:
            own_copy(self._index.path)
            self._snapshot.reset(empty)
            self._update()

    @contextlib.contextmanager
    def transaction(self) -> Iterator[LocalDatastoreModel]:
        """Change the list: the block works on a draft, which is written when the block ends without an error.

        Entries of ``objects`` must be replaced, not modified: other threads read them. Blocks may be nested; the
        outermost one writes.
        """
        if (outer := getattr(self._local, "draft", None)) is not None:
            yield outer
            return
        with self._lock:
            self._update()
            before = self._local.written = self._snapshot.model
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
        """Write the changes of the running transaction before its end."""
        draft = self._local.draft
        if self._snapshot.write(self._local.written, draft):
            self._local.written = self._snapshot.model

    def close(self) -> None:
        """Export the host's list if it lacks changes; no thread of the list runs afterwards. The list remains usable.
        Not within a transaction."""
        self._sync.export_now()

    def _revert(self, before: LocalDatastoreModel) -> None:
        """Write the state before a failed transaction, parts of which may be written and describe missing files."""
        try:
            self._snapshot.write(self._local.written, before)
        except (OSError, sqlite3.DatabaseError) as error:
            logger.error("%s could not be restored: %s", self._index.path, error)

    # ---- creation and repair of the index ----

    def _update(self) -> None:
        """Bring the snapshot up to date and repair a damaged index. Under the lock."""
        try:
            if not self._index.exists():
                self._make_index(self._read_seed())
            self._snapshot.refresh()
        except (ValueError, KeyError, TypeError, sqlite3.DatabaseError) as error:
            self._replace_damaged_index(error)
        self._sync.merge(is_change=True)

    def _read_seed(self) -> LocalDatastoreModel:
        """First content of a new index: the list in memory, else the host's list, else the files of the study."""
        stamp, present = self._host_list.stamp(), self._snapshot.model
        if present.objects:
            logger.error("%s is missing; it is restored from memory", self._index.path)
            return present
        try:
            listed = self._host_list.read()
        except ValueError:
            aside = self._host_list.set_aside()
            path = self._host_list.path
            logger.error("%s was unreadable; it was renamed to %s and is restored from the files", path, aside.name)
            return self._rebuilt(present)
        if listed is None:
            return present
        self._sync.read_stamp = stamp
        return with_base_path(listed, present.base_path)

    def _make_index(self, model: LocalDatastoreModel) -> None:
        self._index.make(header_of(model), model.objects, self._sync.read_stamp)

    def _replace_damaged_index(self, error: Exception) -> None:
        aside = self._index.set_aside()
        path = self._index.path
        logger.error("%s was unreadable (%s); it was renamed to %s and is created again", path, error, aside.name)
        self._make_index(self._rebuilt(self._read_seed()))
        self._snapshot.refresh()

    def _rebuilt(self, model: LocalDatastoreModel) -> LocalDatastoreModel:
        result: LocalDatastoreModel = model.model_copy(update={"objects": self._rebuild(model)})
        return result


_open_lists: weakref.WeakSet[StudyList] = weakref.WeakSet()


@atexit.register
def export_all() -> None:
    """Export the host's lists of this process's studies that lack changes; also called at the end of the process."""
    for each in list(_open_lists):
        each.close()
