"""Synchronisation of a study's index with the host's list (``datastore_v2.json``), in both directions."""

from __future__ import annotations

import contextlib
import logging
import os
import sqlite3
import time
from pathlib import Path

from monailabel.datastore.local import DataModel

from samstudent.imaging.listed_names import name_of
from samstudent.server.datastore.coalesced_call import CoalescedCall
from samstudent.server.datastore.host_list import HostList, Unexported, merge_host_list
from samstudent.server.datastore.label_index import Export, Stamp
from samstudent.server.datastore.list_lock import ListLock
from samstudent.server.datastore.list_snapshot import ListSnapshot
from samstudent.util.files import atomic_path

logger = logging.getLogger(__name__)

#: Delay from a change to the export of the host's list, seconds; later changes within it are exported together.
EXPORT_SECONDS = 1.0
#: Largest share of the time that exports take: the lists of large studies are exported less often.
SHARE_OF_TIME = 0.1


class HostListSync:
    """Export of the index to the host's list in the background, and merge of other programs' changes in that list.

    Args:
        host_list: file of the host.
        snapshot: index in memory.
        lock: lock of the study's list.

    Attributes:
        read_stamp: stamp of the host's list when it was last read, exported or found to be unreadable.
    """

    def __init__(self, host_list: HostList, snapshot: ListSnapshot, lock: ListLock) -> None:
        self._host_list, self._snapshot, self._lock = host_list, snapshot, lock
        self.read_stamp: Stamp = None
        self._export_seconds = 0.0
        self._export_call = CoalescedCall(self._try_export, self._export_delay, "export")

    def schedule_export(self) -> None:
        """Export soon, in a thread."""
        self._export_call.trigger()

    def export_now(self) -> None:
        """Export the changes that the host's list lacks; no thread exports afterwards. Not within a transaction."""
        self._export_call.cancel()
        self._try_export()
        self._export_call.cancel()  # the export may have scheduled another one

    # ---- merge ----

    def merge_if_changed(self) -> None:
        """Merge another program's changes, unless the list is locked: the next call will."""
        if self._host_list.stamp() == self.read_stamp:
            return
        try:
            if not self._lock.acquire_now():
                return
            try:
                self._snapshot.refresh()
                self.merge(is_change=False)
            finally:
                self._lock.release()
        except (OSError, ValueError, KeyError, sqlite3.DatabaseError) as error:
            logger.warning("%s cannot be merged: %s", self._host_list.path, error)

    def merge(self, is_change: bool) -> None:
        """Merge another program's changes in the host's list. To be called under the lock.

        Args:
            is_change: whether a transaction begins: then an unreadable file is set aside. Otherwise it may be one that
                is being written.
        """
        snapshot, stamp = self._snapshot, self._host_list.stamp()
        if stamp in (snapshot.export.stamp, None):
            if stamp is None:
                self.schedule_export()
            self.read_stamp = stamp
            return
        if stamp == self.read_stamp and not is_change:
            return
        try:
            theirs = self._host_list.read()
        except ValueError:
            if is_change:
                aside = self._host_list.set_aside()
                logger.error("%s was unreadable; it was renamed to %s", self._host_list.path, aside.name)
            self.read_stamp = self._host_list.stamp()
            self.schedule_export()
            return
        if theirs is not None:
            logger.info("%s was changed by another program; its changes are merged", self._host_list.path)
            revision = snapshot.export.revision
            unexported = Unexported(*snapshot.index.changed_since(revision))
            snapshot.write(snapshot.model, merge_host_list(snapshot.model, theirs, unexported, self._label_file))
            if not (unexported.changed or unexported.removed) and snapshot.position is not None:
                revision = snapshot.position.revision
            snapshot.set_export(Export(revision, stamp, is_due=True))  # the file may lack changes of the index
        self.read_stamp = stamp
        self.schedule_export()

    def _label_file(self, case: str, tag: str, label: DataModel) -> Path:
        return Path(self._snapshot.model.label_path(tag), name_of(case, label.ext, label.info))

    # ---- export ----

    def _export_delay(self) -> float:
        return max(EXPORT_SECONDS, self._export_seconds / SHARE_OF_TIME)

    def _try_export(self) -> None:
        started = time.monotonic()
        try:
            self._export()
        except (OSError, KeyError, sqlite3.DatabaseError) as error:  # exported after the next change
            logger.error("%s could not be written: %s", self._host_list.path, error)
        self._export_seconds = time.monotonic() - started

    def _export(self) -> None:
        """Write the host's list, unless another process did, or another program changed it in the meantime."""
        snapshot = self._snapshot
        if not snapshot.index.exists():
            return
        snapshot.refresh()
        if snapshot.is_exported and self._host_list.stamp() == snapshot.export.stamp:
            return
        revision, content = snapshot.index.as_host_list()
        with contextlib.ExitStack() as stack, contextlib.suppress(_SupersededError):
            with atomic_path(self._host_list.path) as temporary:
                with temporary.open("w", encoding="utf-8") as file:
                    file.write(content)
                    file.flush()
                    os.fsync(file.fileno())  # outside of the lock, because it takes long
                stack.enter_context(self._lock)
                snapshot.refresh()
                position = snapshot.position
                self.merge(is_change=True)
                is_done = snapshot.is_exported and self._host_list.stamp() is not None
                if snapshot.position != position or is_done:
                    raise _SupersededError
            self.read_stamp = self._host_list.stamp()
            snapshot.set_export(Export(revision, self.read_stamp))


class _SupersededError(Exception):
    """The host's list need not be replaced."""
