"""What active learning remembers, in SQLite: reservations, scores and vectors. Any number of processes at once."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from samstudent.errors import UserError
from samstudent.util.database import connection, make_tables

_SCHEMA = """
CREATE TABLE IF NOT EXISTS reserved (
    case_id TEXT PRIMARY KEY, client TEXT NOT NULL, since REAL NOT NULL, until REAL NOT NULL
);
CREATE TABLE IF NOT EXISTS worked (case_id TEXT, client TEXT, PRIMARY KEY (case_id, client));
CREATE TABLE IF NOT EXISTS shown (client TEXT, case_id TEXT, at REAL NOT NULL, PRIMARY KEY (client, case_id));
CREATE TABLE IF NOT EXISTS scores (
    method TEXT, case_id TEXT, score REAL, version TEXT NOT NULL, PRIMARY KEY (method, case_id)
);
CREATE TABLE IF NOT EXISTS vectors (case_id TEXT PRIMARY KEY, vector BLOB NOT NULL, version TEXT NOT NULL);
"""
_SHOW = "INSERT OR REPLACE INTO shown VALUES (:client, :case, :now)"
#: Seconds by which a clock may be put right without a word. A reservation from further ahead was made before the clock
#: was set back, and would hold for as long: it counts as run out.
_SLACK = 60.0


@dataclass(frozen=True)
class Tables:
    """What the strategies choose by. A case may be missing in any of them.

    Attributes:
        entropy, disagreement: case -> score in [0, 1]; higher: less certain.
        vectors: case -> float32 (D,), its SAM embedding averaged over the image.
    """

    entropy: Mapping[str, float] = field(default_factory=dict)
    disagreement: Mapping[str, float] = field(default_factory=dict)
    vectors: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)


@dataclass(frozen=True)
class Reservation:
    """A case that is kept for one client.

    Attributes:
        client: for whom.
        since, until: seconds since 1970.
        worked: whether the client has begun to work on it.
        offered: when the case was last shown to anybody.
    """

    client: str
    since: float
    until: float
    worked: bool = False
    offered: float = 0.0


class SelectionState:
    """The tables of one study, in its ``state.sqlite``."""

    def __init__(self, path: Path, now: Callable[[], float] = time.time) -> None:
        """Open or make the file.

        Args:
            path: the SQLite file.
            now: the present time in seconds; for tests.

        Raises:
            UserError: the file is no SQLite database.
        """
        self.path = path
        self._now = now
        make_tables(path, _SCHEMA, "rename it: a new one is made, without reservations, and scores are computed again")

    def reserve(self, case: str, client: str, minutes: float) -> bool:
        """Keep a case for one client, or prolong that client's reservation; one step for all processes.

        It is remembered that the client was shown the case.

        Returns:
            False when another client holds it.
        """
        now = self._now()
        values = {"case": case, "client": client, "now": now, "until": now + 60 * minutes, "to_come": now + _SLACK}
        with connection(self.path) as database:
            database.execute(  # what was done on it in an earlier reservation does not count
                "DELETE FROM worked WHERE case_id = :case AND client = :client AND NOT EXISTS "
                "(SELECT 1 FROM reserved WHERE case_id = :case AND client = :client AND until > :now)",
                values,
            )
            cursor = database.execute(
                "INSERT INTO reserved VALUES (:case, :client, :now, :until) ON CONFLICT (case_id) DO UPDATE SET "
                "client = excluded.client, since = excluded.since, until = excluded.until "
                "WHERE until <= :now OR since > :to_come OR client = excluded.client",
                values,
            )
            if cursor.rowcount == 1:
                database.execute(_SHOW, values)
            return cursor.rowcount == 1

    def share(self, case: str, client: str) -> None:
        """Remember that a client was shown a case that another holds, and goes on to hold."""
        with connection(self.path) as database:
            database.execute(_SHOW, {"case": case, "client": client, "now": self._now()})

    def release(self, client: str) -> None:
        """Give up a client's reservations of cases that it has not worked on (``note_work``)."""
        with connection(self.path) as database:
            database.execute(
                "DELETE FROM reserved WHERE client = :client "
                "AND case_id NOT IN (SELECT case_id FROM worked WHERE client = :client)",
                {"client": client},
            )

    def note_work(self, case: str, client: str) -> None:
        """A client has begun to work on a case: it keeps the reservation, if it has one, when it asks for another."""
        with connection(self.path) as database:
            database.execute(
                "INSERT OR IGNORE INTO worked SELECT case_id, client FROM reserved WHERE case_id = ? AND client = ?",
                (case, client),
            )

    def reservations(self) -> dict[str, Reservation]:
        """Case -> reservation, for every one that has not run out."""
        now = self._now()
        with connection(self.path) as database:
            rows = database.execute(
                "SELECT r.case_id, r.client, since, until, w.client IS NOT NULL, "
                "(SELECT MAX(at) FROM shown s WHERE s.case_id = r.case_id AND at <= :to_come) "
                "FROM reserved r LEFT JOIN worked w ON w.case_id = r.case_id AND w.client = r.client "
                "WHERE until > :now AND since <= :to_come",
                {"now": now, "to_come": now + _SLACK},
            )
            return {
                case: Reservation(client, since, until, bool(worked), max(since, offered or since))
                for case, client, since, until, worked, offered in rows
            }

    def reserved(self) -> dict[str, str]:
        """Case -> client, for every reservation that has not run out."""
        return {case: reservation.client for case, reservation in self.reservations().items()}

    def shown(self, client: str, minutes: float) -> list[str]:
        """What was shown to this client in the last so many minutes, the latest last."""
        now = self._now()
        with connection(self.path) as database:
            rows = database.execute(
                "SELECT case_id FROM shown WHERE client = ? AND at > ? AND at <= ? ORDER BY rowid",
                (client, now - 60 * minutes, now + _SLACK),
            )
            return [case for (case,) in rows]

    def put_scores(self, method: str, scores: Mapping[str, float | None], version: str) -> None:
        """Store scores of one method.

        Args:
            method: ``entropy`` or ``disagreement``.
            scores: case -> score; None: looked at, but it has none.
            version: what they were computed with; a score of another version is out of date.
        """
        with connection(self.path) as database:
            database.executemany(
                "INSERT OR REPLACE INTO scores VALUES (?, ?, ?, ?)",
                [(method, case, None if score is None else float(score), version) for case, score in scores.items()],
            )

    def scores(self, method: str) -> dict[str, float]:
        """Case -> latest score, of whatever version: one of the last student is better than none."""
        with connection(self.path) as database:
            rows = database.execute(
                "SELECT case_id, score FROM scores WHERE method = ? AND score IS NOT NULL", (method,)
            )
            return dict(rows)

    def scored(self, method: str, version: str) -> set[str]:
        """Cases whose score, or lack of one, is of this version."""
        with connection(self.path) as database:
            rows = database.execute("SELECT case_id FROM scores WHERE method = ? AND version = ?", (method, version))
            return {case for (case,) in rows}

    def put_vectors(self, vectors: Mapping[str, NDArray[np.float32]], version: str) -> None:
        """Store one vector, (D,) float32, for each case; ``version``: of the SAM backend that made them.

        Raises:
            UserError: a vector is not finite or not one-dimensional.
        """
        for case, vector in vectors.items():
            if vector.ndim != 1 or not np.isfinite(vector).all():
                raise UserError(f"case {case!r}: its embedding must be a row of finite numbers")
        with connection(self.path) as database:
            database.executemany(
                "INSERT OR REPLACE INTO vectors VALUES (?, ?, ?)",
                [(case, np.asarray(v, dtype="<f4").tobytes(), version) for case, v in vectors.items()],
            )

    def vectors(self) -> dict[str, NDArray[np.float32]]:
        """Case -> vector, float32 (D,); only of the version written last: vectors of two backends do not compare."""
        with connection(self.path) as database:
            rows = database.execute(
                "SELECT case_id, vector FROM vectors "
                "WHERE version = (SELECT version FROM vectors ORDER BY rowid DESC LIMIT 1)"
            )
            return {case: np.frombuffer(blob, dtype="<f4") for case, blob in rows}

    def cases_with_vector(self, version: str) -> set[str]:
        """Cases whose vector is of this version."""
        with connection(self.path) as database:
            return {case for (case,) in database.execute("SELECT case_id FROM vectors WHERE version = ?", (version,))}

    def tables(self) -> Tables:
        """Everything the strategies choose by."""
        return Tables(self.scores("entropy"), self.scores("disagreement"), self.vectors())
