"""SQLite index of a study's images and labels: a row a case, so that saving a label does not rewrite the whole list."""

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
#: File systems round a file's time of change: a read within this time after it may have missed a second change.
_ROUNDING_NS = 50_000_000

#: Time of change in ns, bytes, inode of a file; None: there is none.
Stamp = tuple[int, int, int] | None


@dataclass(frozen=True)
class Position:
    """State of an index that was read.

    Attributes:
        generation: differs for each index that was ever made.
        revision: number of changes since it was made.
    """

    generation: str
    revision: int


@dataclass(frozen=True)
class Export:
    """The state of the host's list (``datastore_v2.json``) that the index knows of.

    Attributes:
        revision: of the index, up to which the list holds all changes.
        stamp: of the list's file.
        is_due: whether it is to be exported all the same: another program has written it.
    """

    revision: int = 0
    stamp: Stamp = None
    is_due: bool = False


@dataclass(frozen=True)
class Changes:
    """Content of an index, or what changed in it since a position.

    Attributes:
        position: of this content.
        header: fields of the host's list beside its objects.
        entries: case id -> entry, in the order in which they came.
        removed: ids of cases that are gone.
        is_whole: whether ``entries`` are all.
        export: state of the host's list.
    """

    position: Position
    header: Mapping[str, str]
    entries: Mapping[str, ImageLabelModel]
    removed: frozenset[str]
    is_whole: bool
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
        """Whether there is an index; an empty file is none."""
        stamp = self._stamp()
        return stamp is not None and stamp[1] > 0

    def is_changed(self) -> bool:
        """Whether the index may have changed since ``read`` was called. Costs one stat.

        The file is never opened for it: closing it again would end the locks of other threads' connections.
        """
        stamp = self._stamp()
        return stamp != self._read_stamp or (stamp is not None and self._read_at - stamp[0] < _ROUNDING_NS)

    def make(self, header: Mapping[str, str], entries: Mapping[str, ImageLabelModel], stamp: Stamp) -> None:
        """Make an index where there is none.

        Args:
            header: see ``Changes``.
            entries: case id -> entry.
            stamp: of the host's list that these were read from; None: it is missing, or lacks some of them.
        """
        make_tables(self.path, _SCHEMA, "rename it: it is made again from the folder and the host's list", "DELETE")
        with connection(self.path, "IMMEDIATE") as database:
            _set(database, "generation", uuid.uuid4().hex)
            _set(database, "revision", 0)
            _set(database, "header", dict(header))
            _set(database, "export", [0, None, False])
        revision = self.write(header, entries, ()).revision
        if stamp is not None:
            self.set_export(Export(revision, stamp))

    def read(self, since: Position | None) -> Changes:
        """What changed since a position; everything, where that is None or of another index.

        Raises:
            sqlite3.DatabaseError: the file is damaged, or is no index.
            ValueError: a row cannot be understood.
        """
        stamp, now = self._stamp(), time.time_ns()  # before: what is written meanwhile counts as changed
        with connection(self.path, "DEFERRED") as database:
            if since is None:
                _require_sound(database)
            values = {name: json.loads(value) for name, value in database.execute("SELECT name, value FROM study")}
            position = Position(values["generation"], values["revision"])
            is_whole = since is None or since.generation != position.generation
            after = -1 if since is None or is_whole else since.revision
            query = "SELECT case_id, entry FROM cases WHERE revision > ? ORDER BY position"
            rows = database.execute(query, (after,)).fetchall()
            removed = frozenset(case for (case,) in database.execute(_REMOVED_SINCE, (after,)))
        with _without_garbage_collection():
            entries = {case: ImageLabelModel.model_validate_json(entry) for case, entry in rows}
        revision, exported, is_due = values["export"]
        self._read_stamp, self._read_at = stamp, now
        export = Export(revision, tuple(exported) if exported else None, is_due)
        return Changes(position, values["header"], entries, removed, is_whole, export)

    def write(
        self, header: Mapping[str, str], entries: Mapping[str, ImageLabelModel], removed: Iterable[str]
    ) -> Position:
        """Replace or add entries, and remove others, in one step. Returns the position after it.

        Raises:
            OSError: no room, or the disk is read-only; nothing was changed.
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
        """Ids of the cases that were changed, and of those that were removed, after a revision."""
        with connection(self.path, "DEFERRED") as database:
            changed = database.execute("SELECT case_id FROM cases WHERE revision > ?", (revision,)).fetchall()
            removed = database.execute(_REMOVED_SINCE, (revision,)).fetchall()
        return {case for (case,) in changed}, {case for (case,) in removed}

    def as_host_list(self) -> tuple[int, str]:
        """Revision, and the content as the text of the host's list (JSON)."""
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
        """Rename a damaged file, so that it is kept and no longer used; returns the new path."""
        aside = self.path.with_name(f"{self.path.stem}.broken-{time.strftime('%Y%m%dT%H%M%S')}{self.path.suffix}")
        os.replace(self.path, aside)
        # Of the damaged file: SQLite would write it back into the next one.
        self.path.with_name(f"{self.path.name}-journal").unlink(missing_ok=True)
        return aside

    def _stamp(self) -> Stamp:
        return stamp_of_file(self.path)


def stamp_of_file(path: Path) -> Stamp:
    """The file's ``Stamp``."""
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
    """Every parsed dict brings the next collection nearer: 10,000 labelled images take 15 s with it, 2 without."""
    is_collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if is_collecting:
            gc.enable()
