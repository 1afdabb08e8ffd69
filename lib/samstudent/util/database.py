"""SQLite files for concurrent use by threads and processes."""

from __future__ import annotations

import errno
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from samstudent.errors import UserError
from samstudent.util.files import own_copy

#: Part of SQLite's error message -> error number of the system.
_SYSTEM_ERRORS = {
    "disk is full": errno.ENOSPC,
    "readonly database": errno.EACCES,
    "unable to open": errno.EACCES,
    "disk I/O error": errno.EIO,
    "is locked": errno.EBUSY,
}


def make_tables(path: Path, schema: str, otherwise: str, journal: Literal["WAL", "DELETE"] = "WAL") -> None:
    """Create the file and its missing tables.

    Args:
        path: the SQLite file.
        schema: ``CREATE TABLE IF NOT EXISTS`` statements.
        otherwise: the user's remedy for a damaged file, for the error.
        journal: WAL: readers never wait for a writer. DELETE: a single file, whose time of change shows every change.

    Raises:
        UserError: the file is no SQLite database.
        OSError: it cannot be opened or written: see ``connection``.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    own_copy(path)
    try:
        with connection(path) as database:
            database.execute(f"PRAGMA journal_mode = {journal}")
            database.executescript(schema)
    except sqlite3.DatabaseError as error:
        raise UserError(f"{path}: {error}; {otherwise}") from error


@contextmanager
def connection(path: Path, begin: Literal["", "DEFERRED", "IMMEDIATE"] = "") -> Iterator[sqlite3.Connection]:
    """One transaction, committed if the block ends without an error. Each use has its own connection, because
    connections must not be shared by threads or inherited by a forked process.

    Args:
        path: the SQLite file.
        begin: DEFERRED: all queries of the block see one state. IMMEDIATE: and no other writer until it ends. Empty: a
            transaction begins with the first statement that writes.

    Raises:
        OSError: the file cannot be used (disk full, read-only, no permission), as for any other file.
    """
    try:
        database = sqlite3.connect(path, timeout=30)
        try:
            with database:
                if begin:
                    database.execute(f"BEGIN {begin}")
                yield database
        finally:
            database.close()
    except sqlite3.OperationalError as error:
        number = next((number for message, number in _SYSTEM_ERRORS.items() if message in str(error)), None)
        if number is None:
            raise
        number = _cause(path.parent, number)
        raise OSError(number, os.strerror(number), str(path)) from error


def _cause(folder: Path, number: int) -> int:
    """Error number for SQLite's "unable to open" and "I/O error", which may be a full or read-only disk."""
    if number in (errno.EACCES, errno.EIO) and hasattr(os, "statvfs"):
        try:
            system = os.statvfs(folder)
        except OSError as error:
            return error.errno or number
        if system.f_flag & os.ST_RDONLY:
            return errno.EROFS
        if system.f_bavail == 0:
            return errno.ENOSPC
    return number
