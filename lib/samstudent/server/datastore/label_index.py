"""SQLite index of a study's images and labels: one row for each case, so that a saved label changes one row only."""

from __future__ import annotations

import gc
import json
import os
import sqlite3
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from monailabel.datastore.local import ImageLabelModel

from samstudent.util.database import connection, make_tables

_SCHEMA = """
CREATE TABLE IF NOT EXISTS cases (
    position INTEGER PRIMARY KEY, case_id TEXT NOT NULL UNIQUE, entry TEXT NOT NULL, revision INTEGER NOT NULL
);
CREATE INDEX IF NOT EXISTS cases_by_revision ON cases (revision);
CREATE TABLE IF NOT EXISTS removed (case_id TEXT PRIMARY KEY, revision INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS study (name TEXT PRIMARY KEY, value TEXT NOT NULL);
"""
#: Resolution of modification times, ns: a read within this time after a change may have missed a second change.
_ROUNDING_NS = 50_000_000

#: Modification time in ns, size in bytes, and inode of a file; None: no such file.
Stamp = tuple[int, int, int] | None


@dataclass(frozen=True)
class Position:
    """State of an index that was read.

    Attributes:
        generation: unique id of the index.
        revision: number of changes since its creation.
    """

    generation: str
    revision: int


@dataclass(frozen=True)
class Export:
    """State of the host's list (``datastore_v2.json``) as recorded in the index.

    Attributes:
        revision: revision of the index that was exported.
        stamp: stamp of the exported file.
        is_due: whether an export is necessary for another reason: another program has written the file.
    """

    revision: int = 0
    stamp: Stamp = None
    is_due: bool = False


@dataclass(frozen=True)
class Changes:
    """Content of an index, or its changes since a position.

    Attributes:
        position: position of this content.
        header: fields of the host's list other than its objects.
        entries: entries by case id, in the order of their creation.
        removed: ids of removed cases.
        is_complete: whether ``entries`` is the complete content.
        export: state of the host's list.
    """

    position: Position
    header: Mapping[str, str]
    entries: Mapping[str, ImageLabelModel]
    removed: frozenset[str]
    is_complete: bool
    export: Export = field(default_factory=Export)


class LabelIndex:
    """Index of one study and task. Only ``read`` may be called without the study's lock.

    Args:
        path: the SQLite file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._read_stamp: Stamp = None
        self._read_at = 0

    def exists(self) -> bool:
        """Whether the index exists; an empty file is no index."""
        stamp = self._stamp()
        return stamp is not None and stamp[1] > 0

    def is_changed(self) -> bool:
        """Whether the index may have changed since the last ``read``; needs one ``stat``.

        The file is not opened: closing it would release the locks of other threads' connections.
        """
        stamp = self._stamp()
        return stamp != self._read_stamp or (stamp is not None and self._read_at - stamp[0] < _ROUNDING_NS)

    def make(self, header: Mapping[str, str], entries: Mapping[str, ImageLabelModel], stamp: Stamp) -> None:
        """Create the index.

        Args:
            header: see ``Changes``.
            entries: entries by case id.
            stamp: stamp of the host's list with the same content; None: there is none.
        """
        make_tables(self.path, _SCHEMA, "rename it: it is created again from the folder and the host's list", "DELETE")
        with connection(self.path, "IMMEDIATE") as database:
            _set(database, "generation", uuid.uuid4().hex)
            _set(database, "revision", 0)
            _set(database, "header", dict(header))
            _set(database, "export", [0, None, False])
        revision = self.write(header, entries, ()).revision
        if stamp is not None:
            self.set_export(Export(revision, stamp))

    def read(self, since: Position | None) -> Changes:
        """Changes since a position; the complete content if that is None or belongs to another index.

        Raises:
            sqlite3.DatabaseError: the file is damaged, or no index.
            ValueError: invalid row.
        """
        stamp, now = self._stamp(), time.time_ns()  # before the read, so that a concurrent write counts as a change
        with connection(self.path, "DEFERRED") as database:
            if since is None:
                _require_sound(database)
            values = {name: json.loads(value) for name, value in database.execute("SELECT name, value FROM study")}
            position = Position(values["generation"], values["revision"])
            is_complete = since is None or since.generation != position.generation
            after = -1 if since is None or is_complete else since.revision
            query = "SELECT case_id, entry FROM cases WHERE revision > ? ORDER BY position"
            rows = database.execute(query, (after,)).fetchall()
            removed = frozenset(case for (case,) in database.execute(_REMOVED_SINCE, (after,)))
        with _without_garbage_collection():
            entries = {case: ImageLabelModel.model_validate_json(entry) for case, entry in rows}
        revision, exported, is_due = values["export"]
        self._read_stamp, self._read_at = stamp, now
        export = Export(revision, tuple(exported) if exported else None, is_due)
        return Changes(position, values["header"], entries, removed, is_complete, export)

    def write(
        self, header: Mapping[str, str], entries: Mapping[str, ImageLabelModel], removed: Iterable[str]
    ) -> Position:
        """Replace, add and remove entries in one transaction. Returns the new position.

        Raises:
            OSError: full or read-only disk; nothing was changed.
        """
        rows = [(case, entry.model_dump_json(fallback=str)) for case, entry in entries.items()]
        gone = [(case,) for case in removed]
        with connection(self.path, "IMMEDIATE") as database:
            revision = _get(database, "revision") + 1
            _set(database, "revision", revision)
            _set(database, "header", dict(header))
            database.executemany(_PUT, [(case, entry, revision) for case, entry in rows])
            database.executemany("DELETE FROM removed WHERE case_id = ?", [(case,) for case, _ in rows])
            database.executemany("DELETE FROM cases WHERE case_id = ?", gone)
            database.executemany("INSERT OR REPLACE INTO removed VALUES (?, ?)", [(*case, revision) for case in gone])
            return Position(_get(database, "generation"), revision)

    def changed_since(self, revision: int) -> tuple[set[str], set[str]]:
        """Ids of the cases that were changed, and that were removed, after a revision."""
        with connection(self.path, "DEFERRED") as database:
            changed = database.execute("SELECT case_id FROM cases WHERE revision > ?", (revision,)).fetchall()
            removed = database.execute(_REMOVED_SINCE, (revision,)).fetchall()
        return {case for (case,) in changed}, {case for (case,) in removed}

    def as_host_list(self) -> tuple[int, str]:
        """Revision, and the content in the form of the host's list (JSON)."""
        with connection(self.path, "DEFERRED") as database:
            revision, header = _get(database, "revision"), _get(database, "header")
            rows = database.execute("SELECT case_id, entry FROM cases ORDER BY position").fetchall()
        objects = ",\n".join(f"{json.dumps(case, ensure_ascii=False)}:{entry}" for case, entry in rows)
        return revision, f'{json.dumps(header, ensure_ascii=False)[:-1]}, "objects": {{\n{objects}\n}}}}\n'

    def set_export(self, export: Export) -> None:
        """Record the state of the host's list."""
        with connection(self.path, "IMMEDIATE") as database:
            _set(database, "export", [export.revision, export.stamp, export.is_due])

    def set_aside(self) -> Path:
        """Rename a damaged file; returns the new path."""
        aside = self.path.with_name(f"{self.path.stem}.broken-{time.strftime('%Y%m%dT%H%M%S')}{self.path.suffix}")
        os.replace(self.path, aside)
        # Journal of the damaged file, which SQLite would apply to the next one.
        self.path.with_name(f"{self.path.name}-journal").unlink(missing_ok=True)
        return aside

    def _stamp(self) -> Stamp:
        return stamp_of_file(self.path)


def stamp_of_file(path: Path) -> Stamp:
    """``Stamp`` of a file."""
    try:
        status = os.stat(path)
    except FileNotFoundError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino


_PUT = (
    "INSERT INTO cases (case_id, entry, revision) VALUES (?, ?, ?)"
    " ON CONFLICT (case_id) DO UPDATE SET entry = excluded.entry, revision = excluded.revision"
)
_REMOVED_SINCE = "SELECT case_id FROM removed WHERE revision > ?"


def _get(database: sqlite3.Connection, name: str) -> Any:
    row = database.execute("SELECT value FROM study WHERE name = ?", (name,)).fetchone()
    return json.loads(row[0])


def _set(database: sqlite3.Connection, name: str, value: Any) -> None:
    database.execute("INSERT OR REPLACE INTO study VALUES (?, ?)", (name, json.dumps(value)))


def _require_sound(database: sqlite3.Connection) -> None:
    (result,) = database.execute("PRAGMA quick_check(1)").fetchone()
    if result != "ok":
        raise sqlite3.DatabaseError(result)


@contextmanager
def _without_garbage_collection() -> Iterator[None]:
    """Disable garbage collection: parsing 10,000 labelled images takes 15 s with it and 2 s without."""
    is_collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if is_collecting:
            gc.enable()
