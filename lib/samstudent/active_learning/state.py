"""State of active learning in SQLite: reservations, scores and vectors, shared by any number of processes."""

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
#: Tolerance for clock corrections, in seconds. A reservation from further in the future was made before the clock was
#: set back, and counts as expired.
_SLACK = 60.0


@dataclass(frozen=True)
class Tables:
    """Scores and vectors for the strategies. A case may be missing in any of them.

    Attributes:
        entropy, disagreement: case -> score in [0, 1]; higher: less certain.
        vectors: case -> float32 (D,), its SAM embedding averaged over the image.
    """

    entropy: Mapping[str, float] = field(default_factory=dict)
    disagreement: Mapping[str, float] = field(default_factory=dict)
    vectors: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)


@dataclass(frozen=True)
class Reservation:
    """Reservation of a case for one client.

    Attributes:
        client: its name.
        since, until: seconds since 1970.
        worked: whether the client has begun to work on it.
        offered: time at which the case was last offered to any client.
    """

    client: str
    since: float
    until: float
    worked: bool = False
    offered: float = 0.0


class SelectionState:
    """Tables of one study, in its ``state.sqlite``."""

    def __init__(self, path: Path, now: Callable[[], float] = time.time) -> None:
        """Open or create the file.

        Args:
            path: the SQLite file.
            now: returns the current time in seconds; for tests.

        Raises:
            UserError: the file is no SQLite database.
        """
        self.path = path
        self._now = now
        make_tables(path, _SCHEMA, "rename it: a new one is made, without reservations, and scores are computed again")

    def reserve(self, case: str, client: str, minutes: float) -> bool:
        """Reserve a case for one client, or extend that client's reservation; atomic among processes.

        The case is recorded as offered to the client.

        Returns:
            False when it is reserved for another client.
        """
        now = self._now()
        values = {"case": case, "client": client, "now": now, "until": now + 60 * minutes, "to_come": now + _SLACK}
        with connection(self.path) as database:
            database.execute(  # work of an earlier reservation does not count
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

    def record_offer(self, case: str, client: str) -> None:
        """Record that a case reserved for another client was offered to this one."""
        with connection(self.path) as database:
            database.execute(_SHOW, {"case": case, "client": client, "now": self._now()})

    def release(self, client: str) -> None:
        """Remove a client's reservations of cases on which it has not worked (``note_work``)."""
        with connection(self.path) as database:
            database.execute(
                "DELETE FROM reserved WHERE client = :client "
                "AND case_id NOT IN (SELECT case_id FROM worked WHERE client = :client)",
                {"client": client},
            )

    def note_work(self, case: str, client: str) -> None:
        """Record that a client works on a case: its reservation, if any, remains when it requests another case."""
        with connection(self.path) as database:
            database.execute(
                "INSERT OR IGNORE INTO worked SELECT case_id, client FROM reserved WHERE case_id = ? AND client = ?",
                (case, client),
            )

    def reservations(self) -> dict[str, Reservation]:
        """Case -> reservation, of all that have not expired."""
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
        """Case -> client, of all reservations that have not expired."""
        return {case: reservation.client for case, reservation in self.reservations().items()}

    def shown(self, client: str, minutes: float) -> list[str]:
        """Cases offered to a client in the last ``minutes``, the latest last."""
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
            scores: case -> score; None: computed, but the case has none.
            version: of the model; a score of another version is outdated.
        """
        with connection(self.path) as database:
            database.executemany(
                "INSERT OR REPLACE INTO scores VALUES (?, ?, ?, ?)",
                [(method, case, None if score is None else float(score), version) for case, score in scores.items()],
            )

    def scores(self, method: str) -> dict[str, float]:
        """Case -> latest score, of any version: a score of an earlier student is better than none."""
        with connection(self.path) as database:
            rows = database.execute(
                "SELECT case_id, score FROM scores WHERE method = ? AND score IS NOT NULL", (method,)
            )
            return dict(rows)

    def scored(self, method: str, version: str) -> set[str]:
        """Cases with a result of this version."""
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
        """Case -> vector, float32 (D,), of the version written last: vectors of two backends cannot be compared."""
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
        """Scores and vectors for the strategies."""
        return Tables(self.scores("entropy"), self.scores("disagreement"), self.vectors())
