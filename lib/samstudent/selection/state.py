"""What active learning remembers, in SQLite: reservations, scores and vectors. Any number of processes at once."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from samstudent.database import connection, make_tables
from samstudent.errors import UserError

_SCHEMA = """
CREATE TABLE IF NOT EXISTS reserved (
    case_id TEXT PRIMARY KEY, client TEXT NOT NULL, since REAL NOT NULL, until REAL NOT NULL
);
CREATE TABLE IF NOT EXISTS scores (
    method TEXT, case_id TEXT, score REAL, version TEXT NOT NULL, PRIMARY KEY (method, case_id)
);
CREATE TABLE IF NOT EXISTS vectors (case_id TEXT PRIMARY KEY, vector BLOB NOT NULL, version TEXT NOT NULL);
"""
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

        Returns:
            False when another client holds it.
        """
        now = self._now()
        with connection(self.path) as database:
            cursor = database.execute(
                "INSERT INTO reserved VALUES (?, ?, ?, ?) ON CONFLICT (case_id) DO UPDATE SET "
                "client = excluded.client, since = excluded.since, until = excluded.until "
                "WHERE until <= ? OR since > ? OR client = excluded.client",
                (case, client, now, now + 60 * minutes, now, now + _SLACK),
            )
            return cursor.rowcount == 1

    def reserved(self) -> dict[str, str]:
        """Case -> client, for every reservation that has not run out."""
        now = self._now()
        with connection(self.path) as database:
            rows = database.execute(
                "SELECT case_id, client FROM reserved WHERE until > ? AND since <= ?", (now, now + _SLACK)
            )
            return dict(rows)

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

    def vectored(self, version: str) -> set[str]:
        """Cases whose vector is of this version."""
        with connection(self.path) as database:
            return {case for (case,) in database.execute("SELECT case_id FROM vectors WHERE version = ?", (version,))}

    def tables(self) -> Tables:
        """Everything the strategies choose by."""
        return Tables(self.scores("entropy"), self.scores("disagreement"), self.vectors())
