"""What this server knows of segmentations in the PACS, in SQLite: which it has seen, and which labels are there.

It is knowledge, not the labels: lost, it is made again, at the price of looking at every segmentation once more.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from samstudent.util.database import connection, make_tables

_SCHEMA = """
CREATE TABLE IF NOT EXISTS series (uid TEXT PRIMARY KEY, images INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS seen (instance TEXT PRIMARY KEY, case_id TEXT, outcome TEXT NOT NULL, time REAL NOT NULL);
CREATE TABLE IF NOT EXISTS there (
    case_id TEXT, tag TEXT, version TEXT, series TEXT NOT NULL, instance TEXT NOT NULL, time REAL NOT NULL,
    PRIMARY KEY (case_id, tag, version)
);
CREATE TABLE IF NOT EXISTS trouble (
    case_id TEXT, tag TEXT, version TEXT NOT NULL, reason TEXT NOT NULL, time REAL NOT NULL, PRIMARY KEY (case_id, tag)
);
CREATE TABLE IF NOT EXISTS images (case_id TEXT PRIMARY KEY, state TEXT NOT NULL, problem TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value TEXT NOT NULL);
"""


@dataclass(frozen=True)
class There:
    """Where a label is in the PACS, since when."""

    series: str
    instance: str
    time: float


class Memory:
    """The tables of one study, in its ``pacs.sqlite``. Any number of processes at once."""

    def __init__(self, path: Path) -> None:
        self.path = path
        make_tables(path, _SCHEMA, "rename it: a new one is made, and the PACS is looked through again")

    # ---- segmentations seen ----

    def looked_through(self) -> dict[str, int]:
        """Series of segmentations that need no look -> how many instances they had."""
        with connection(self.path) as database:
            return dict(database.execute("SELECT uid, images FROM series"))

    def look_done(self, series: str, images: int) -> None:
        with connection(self.path) as database:
            database.execute("INSERT OR REPLACE INTO series VALUES (?, ?)", (series, images))

    def has_seen(self, instance: str) -> bool:
        """True for all that was looked at, and for all that was sent."""
        with connection(self.path) as database:
            query = "SELECT 1 FROM seen WHERE instance = ? UNION SELECT 1 FROM there WHERE instance = ?"
            return database.execute(query, (instance, instance)).fetchone() is not None

    def saw(self, instance: str, case: str | None, outcome: str) -> None:
        """``outcome`` is for people: what became of it."""
        with connection(self.path) as database:
            database.execute("INSERT OR REPLACE INTO seen VALUES (?, ?, ?, ?)", (instance, case, outcome, time.time()))

    def left_out(self, most: int) -> list[dict[str, Any]]:
        """The last segmentations that did not become labels, and why; the newest first. Programs' own are not told."""
        with connection(self.path) as database:
            query = (
                "SELECT instance, case_id, outcome, time FROM seen WHERE outcome LIKE 'left out: %'"
                " AND outcome NOT LIKE '%program alone' ORDER BY time DESC LIMIT ?"
            )
            rows = database.execute(query, (most,)).fetchall()
        return [
            {"SOPInstanceUID": instance, "case": case, "reason": outcome.removeprefix("left out: "), "time": seen}
            for instance, case, outcome, seen in rows
        ]

    # ---- labels ----

    def put_there(self, case: str, tag: str, version: str, series: str, instance: str) -> None:
        """This version of a label is in the PACS."""
        with connection(self.path) as database:
            row = (case, tag, version, series, instance, time.time())
            database.execute("INSERT OR REPLACE INTO there VALUES (?, ?, ?, ?, ?, ?)", row)
            database.execute("DELETE FROM trouble WHERE case_id = ? AND tag = ?", (case, tag))

    def there(self) -> set[tuple[str, str, str]]:
        """(case, tag, version) of all labels that are in the PACS."""
        with connection(self.path) as database:
            return set(database.execute("SELECT case_id, tag, version FROM there"))

    def where(self, case: str, tag: str, version: str) -> There | None:
        with connection(self.path) as database:
            query = "SELECT series, instance, time FROM there WHERE case_id = ? AND tag = ? AND version = ?"
            row = database.execute(query, (case, tag, version)).fetchone()
            return There(*row) if row else None

    def had_trouble(self, case: str, tag: str, version: str, reason: str) -> None:
        """This version of a label cannot be made a segmentation, or the PACS refuses it."""
        with connection(self.path) as database:
            row = (case, tag, version, reason, time.time())
            database.execute("INSERT OR REPLACE INTO trouble VALUES (?, ?, ?, ?, ?)", row)

    def troubles(self) -> dict[tuple[str, str, str], tuple[str, float]]:
        """(case, tag, version) -> reason, time of the last try."""
        with connection(self.path) as database:
            rows = database.execute("SELECT case_id, tag, version, reason, time FROM trouble")
            return {(case, tag, version): (reason, tried) for case, tag, version, reason, tried in rows}

    # ---- images ----

    def image_problem(self, case: str, state: str) -> str | None:
        """Why an image in this state cannot be used; "" where it can, None where nobody has tried."""
        with connection(self.path) as database:
            query = "SELECT problem FROM images WHERE case_id = ? AND state = ?"
            row = database.execute(query, (case, state)).fetchone()
            return str(row[0]) if row else None

    def image_was_read(self, case: str, state: str, problem: str) -> None:
        with connection(self.path) as database:
            database.execute("INSERT OR REPLACE INTO images VALUES (?, ?, ?)", (case, state, problem))

    def image_problems(self) -> dict[str, tuple[str, str]]:
        """Case -> state and reason, of the images that cannot be used."""
        with connection(self.path) as database:
            rows = database.execute("SELECT case_id, state, problem FROM images WHERE problem != ''").fetchall()
            return {case: (state, problem) for case, state, problem in rows}

    # ---- anything else ----

    def fact(self, name: str, value: str) -> str:
        """A value that is chosen once and then kept: ``value`` if there is none yet."""
        with connection(self.path) as database:
            database.execute("INSERT OR IGNORE INTO facts VALUES (?, ?)", (name, value))
            return str(database.execute("SELECT value FROM facts WHERE name = ?", (name,)).fetchone()[0])
