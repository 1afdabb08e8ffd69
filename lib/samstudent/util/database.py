"""SQLite files that any number of threads and processes use at once."""

from __future__ import annotations

import errno
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

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


def make_tables(path: Path, schema: str, otherwise: str) -> None:
    """Make the file, and in it the tables that are not there yet.

    Args:
        schema: ``CREATE TABLE IF NOT EXISTS`` statements.
        otherwise: what to do about a file that is damaged, for the error.

    Raises:
        UserError: the file is no SQLite database.
        OSError: it cannot be opened or written: see ``connection``.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    own_copy(path)
    try:
        with connection(path) as database:
            # Readers (the server) never wait for a writer (a child of the server's).
            database.execute("PRAGMA journal_mode = WAL")
            database.executescript(schema)
    except sqlite3.DatabaseError as error:
        raise UserError(f"{path}: {error}; {otherwise}") from error


@contextmanager
def connection(path: Path) -> Iterator[sqlite3.Connection]:
    """One transaction: kept when the block ends without error. One connection for each use, because connections must
    not pass from thread to thread or into a forked process.

    Raises:
        OSError: the place cannot be used (full, read-only, no permission); as with any other file.
    """
    try:
        database = sqlite3.connect(path, timeout=30)
        try:
            with database:
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
