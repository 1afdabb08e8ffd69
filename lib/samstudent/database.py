"""SQLite files that any number of threads and processes use at once."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from samstudent.errors import UserError
from samstudent.files import own_copy


def make_tables(path: Path, schema: str, otherwise: str) -> None:
    """Make the file, and in it the tables that are not there yet.

    Args:
        schema: ``CREATE TABLE IF NOT EXISTS`` statements.
        otherwise: what to do about a file that cannot be used, for the error.

    Raises:
        UserError: the file is no SQLite database.
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
    not pass from thread to thread or into a forked process."""
    database = sqlite3.connect(path, timeout=30)
    try:
        with database:
            yield database
    finally:
        database.close()
