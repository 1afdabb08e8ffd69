"""State of the synchronisation with a PACS, in SQLite: the segmentations already examined, and the labels stored there.

It can be made again from the PACS and the labels, at the price of reading every segmentation once more.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from samstudent.util.database import connection, make_tables

_SCHEMA = """
CREATE TABLE IF NOT EXISTS examined_series (uid TEXT PRIMARY KEY, instances INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS examined (
    instance TEXT PRIMARY KEY, case_id TEXT, outcome TEXT NOT NULL, time REAL NOT NULL
);
CREATE TABLE IF NOT EXISTS stored (
    case_id TEXT, tag TEXT, version TEXT, series TEXT NOT NULL, instance TEXT NOT NULL, time REAL NOT NULL,
    PRIMARY KEY (case_id, tag, version)
);
CREATE TABLE IF NOT EXISTS failed (
    case_id TEXT, tag TEXT, version TEXT NOT NULL, reason TEXT NOT NULL, time REAL NOT NULL, PRIMARY KEY (case_id, tag)
);
CREATE TABLE IF NOT EXISTS images (case_id TEXT PRIMARY KEY, state TEXT NOT NULL, problem TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS settings (name TEXT PRIMARY KEY, value TEXT NOT NULL);
"""
#: Begins the outcome of a segmentation that did not become a label.
LEFT_OUT = "left out: "


class LabelVersion(NamedTuple):
    """One content of one label.

    Attributes:
        case: id of the case.
        tag: of the label.
        version: differs from that of every other content that this label ever had.
    """

    case: str
    tag: str
    version: str


@dataclass(frozen=True)
class StoredLabel:
    """Place of a label in the PACS.

    Attributes:
        series: Series Instance UID.
        instance: SOP Instance UID.
        time: when it was stored, or found there; seconds since 1970.
    """

    series: str
    instance: str
    time: float


@dataclass(frozen=True)
class Failure:
    """Last attempt to send a label that failed.

    Attributes:
        reason: message for users.
        time: of the attempt, seconds since 1970.
    """

    reason: str
    time: float


class SyncState:
    """Tables of one study, for any number of processes at once.

    Args:
        path: the SQLite file, made if missing.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        make_tables(path, _SCHEMA, "rename it: a new one is made, and the PACS is read through again")

    # ---- segmentations in the PACS ----

    def examined_series(self) -> dict[str, int]:
        """Series Instance UID -> number of instances, of the segmentation series that were examined completely."""
        with connection(self.path) as database:
            return dict(database.execute("SELECT uid, instances FROM examined_series"))

    def set_series_examined(self, series: str, instances: int) -> None:
        """Record that all instances of a series were examined."""
        with connection(self.path) as database:
            database.execute("INSERT OR REPLACE INTO examined_series VALUES (?, ?)", (series, instances))

    def is_examined(self, instance: str) -> bool:
        """Whether a segmentation was examined, or sent by this server."""
        with connection(self.path) as database:
            query = "SELECT 1 FROM examined WHERE instance = ? UNION SELECT 1 FROM stored WHERE instance = ?"
            return database.execute(query, (instance, instance)).fetchone() is not None

    def set_examined(self, instance: str, case: str | None, outcome: str) -> None:
        """Record the outcome of a segmentation.

        Args:
            instance: SOP Instance UID.
            case: that it belongs to; None: unknown.
            outcome: message for users; begins with ``LEFT_OUT`` if it did not become a label.
        """
        with connection(self.path) as database:
            row = (instance, case, outcome, time.time())
            database.execute("INSERT OR REPLACE INTO examined VALUES (?, ?, ?, ?)", row)

    def left_out(self, limit: int) -> list[dict[str, Any]]:
        """The segmentations that did not become labels, the newest first, without those drawn by programs.

        Args:
            limit: largest number of segmentations.
        """
        with connection(self.path) as database:
            query = (
                "SELECT instance, case_id, outcome, time FROM examined WHERE outcome LIKE ?"
                " AND outcome NOT LIKE '%program alone' ORDER BY time DESC LIMIT ?"
            )
            rows = database.execute(query, (f"{LEFT_OUT}%", limit)).fetchall()
        return [
            {"SOPInstanceUID": instance, "case": case, "reason": outcome.removeprefix(LEFT_OUT), "time": examined}
            for instance, case, outcome, examined in rows
        ]

    # ---- labels of this study ----

    def set_stored(self, label: LabelVersion, series: str, instance: str) -> None:
        """Record that a label is in the PACS, as this instance of this series."""
        with connection(self.path) as database:
            row = (*label, series, instance, time.time())
            database.execute("INSERT OR REPLACE INTO stored VALUES (?, ?, ?, ?, ?, ?)", row)
            database.execute("DELETE FROM failed WHERE case_id = ? AND tag = ?", (label.case, label.tag))

    def stored_labels(self) -> set[LabelVersion]:
        """All labels that are in the PACS."""
        with connection(self.path) as database:
            return set(map(LabelVersion._make, database.execute("SELECT case_id, tag, version FROM stored")))

    def stored_label(self, label: LabelVersion) -> StoredLabel | None:
        """Where a label is in the PACS; None: not known to be there."""
        with connection(self.path) as database:
            query = "SELECT series, instance, time FROM stored WHERE case_id = ? AND tag = ? AND version = ?"
            row = database.execute(query, label).fetchone()
            return StoredLabel(*row) if row else None

    def set_failed(self, label: LabelVersion, reason: str) -> None:
        """Record that a label cannot be made a segmentation, or that the PACS refuses it."""
        with connection(self.path) as database:
            row = (*label, reason, time.time())
            database.execute("INSERT OR REPLACE INTO failed VALUES (?, ?, ?, ?, ?)", row)

    def failures(self) -> dict[LabelVersion, Failure]:
        """The labels of which the last attempt to send them failed."""
        with connection(self.path) as database:
            rows = database.execute("SELECT case_id, tag, version, reason, time FROM failed")
            return {
                LabelVersion(case, tag, version): Failure(reason, tried) for case, tag, version, reason, tried in rows
            }

    # ---- images ----

    def image_problem(self, case: str, state: str) -> str | None:
        """Why an image in this state cannot be used; "" where it can, None where it was not read yet."""
        with connection(self.path) as database:
            query = "SELECT problem FROM images WHERE case_id = ? AND state = ?"
            row = database.execute(query, (case, state)).fetchone()
            return str(row[0]) if row else None

    def set_image_problem(self, case: str, state: str, problem: str) -> None:
        """Record the result of reading an image.

        Args:
            case: its id.
            state: state of the image and of its reader.
            problem: why it cannot be used; "": it can.
        """
        with connection(self.path) as database:
            database.execute("INSERT OR REPLACE INTO images VALUES (?, ?, ?)", (case, state, problem))

    def image_problems(self) -> dict[str, tuple[str, str]]:
        """Case id -> (state, reason), of the images that cannot be used."""
        with connection(self.path) as database:
            rows = database.execute("SELECT case_id, state, problem FROM images WHERE problem != ''").fetchall()
            return {case: (state, problem) for case, state, problem in rows}

    # ---- settings ----

    def constant(self, name: str, value: str) -> str:
        """A value that is set once for the life of the study: ``value`` where it is not set yet."""
        with connection(self.path) as database:
            database.execute("INSERT OR IGNORE INTO settings VALUES (?, ?)", (name, value))
            return str(database.execute("SELECT value FROM settings WHERE name = ?", (name,)).fetchone()[0])
