"""SQLite files that any number of threads and processes use at once."""

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

#: What SQLite says, and the system's error behind it.
_SYSTEM_ERRORS = {
    "disk is full": errno.ENOSPC,
    "readonly database": errno.EACCES,
    "unable to open": errno.EACCES,
    "disk I/O error": errno.EIO,
    "is locked": errno.EBUSY,
}


def make_tables(path: Path, schema: str, otherwise: str, journal: Literal["WAL", "DELETE"] = "WAL") -> None:
    """Make the file, and in it the tables that are not there yet.

    Args:
        path: the SQLite file.
        schema: ``CREATE TABLE IF NOT EXISTS`` statements.
        otherwise: what to do about a file that is damaged, for the error.
        journal: WAL: readers never wait for a writer. DELETE: all is in one file, so that its time of change tells of
            every change.

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
    """One transaction: kept when the block ends without error. One connection for each use, because connections must
    not pass from thread to thread or into a forked process.

    Args:
        path: the SQLite file.
        begin: DEFERRED: all queries of the block see one state. IMMEDIATE: and nobody else writes until it ends. Empty:
            a transaction begins with the first statement that changes something.

    Raises:
        OSError: the place cannot be used (full, read-only, no permission); as with any other file.
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
        number = next((number for said, number in _SYSTEM_ERRORS.items() if said in str(error)), None)
        if number is None:
            raise
        number = _cause(path.parent, number)
        raise OSError(number, os.strerror(number), str(path)) from error


def _cause(folder: Path, number: int) -> int:
    """SQLite calls much "unable to open" and "I/O error" that is a full disk or a read-only one."""
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
