"""Snapshot of a study's index in memory."""

from __future__ import annotations

import logging
import sqlite3
import threading
from collections.abc import Callable

from monailabel.datastore.local import LocalDatastoreModel

from samstudent.server.datastore.label_index import Changes, Export, LabelIndex, Position
from samstudent.server.datastore.list_models import difference, header_of, shallow_copy

logger = logging.getLogger(__name__)


class ListSnapshot:
    """Content of the index; replaced as a whole and never modified, so that every thread reads a consistent state.

    Args:
        index: index of the study.
        on_unexported: called when the index has changes that the host's list lacks.

    Attributes:
        model: images and labels.
        position: state of the index that ``model`` was read from; None: the index was not read yet.
        export: state of the host's list as recorded in the index.
    """

    def __init__(self, index: LabelIndex, on_unexported: Callable[[], None]) -> None:
        self.index = index
        self.model = LocalDatastoreModel(name="", description="")
        self.position: Position | None = None
        self.export = Export()
        self._on_unexported = on_unexported
        self._mutex = threading.RLock()

    @property
    def is_exported(self) -> bool:
        """Whether the host's list, as far as is known, has all changes."""
        position = self.position
        return not self.export.is_due and position is not None and self.export.revision >= position.revision

    def reset(self, model: LocalDatastoreModel) -> None:
        """Start with a model that was not read from the index."""
        self.model, self.position = model, None

    def refresh(self) -> None:
        """Read the changes of the index; raises as ``LabelIndex.read``."""
        with self._mutex:
            self._apply(self.index.read(self.position))

    def refresh_if_changed(self) -> None:
        """Read the changes of the index if its file changed; an unreadable index is logged and the snapshot kept."""
        if not self.index.is_changed():
            return
        with self._mutex:
            try:
                self.refresh()
            except (OSError, ValueError, KeyError, sqlite3.DatabaseError) as error:  # repaired by the next transaction
                logger.warning("%s cannot be read at the moment: %s", self.index.path, error)

    def write(self, before: LocalDatastoreModel, after: LocalDatastoreModel) -> bool:
        """Write the difference between two models to the index and publish the second one; False: they are equal."""
        changed, removed = difference(before, after)
        if not changed and not removed and header_of(before) == header_of(after):
            return False
        with self._mutex:
            self.position = self.index.write(header_of(after), changed, removed)
            self.model = shallow_copy(after)
        self._on_unexported()
        return True

    def set_export(self, export: Export) -> None:
        """Record the state of the host's list in the index."""
        self.index.set_export(export)
        self.export = export

    def _apply(self, changes: Changes) -> None:
        if changes.entries or changes.removed or changes.is_complete or changes.header != header_of(self.model):
            unchanged = {} if changes.is_complete else self.model.objects
            objects = {case: entry for case, entry in unchanged.items() if case not in changes.removed}
            objects.update(changes.entries)
            self.model = self.model.model_copy(update={**changes.header, "objects": objects})
        self.position, self.export = changes.position, changes.export
        if changes.export.is_due or changes.export.revision < changes.position.revision:
            self._on_unexported()
