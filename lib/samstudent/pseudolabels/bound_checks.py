"""Lower bounds of Dice that humans have checked: of pseudo labels of cases that got a human label."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from samstudent.util.database import connection, make_tables

#: In the study's state.sqlite, beside the reviews.
_SCHEMA = """
CREATE TABLE IF NOT EXISTS bound_checks (
    case_id TEXT NOT NULL, label TEXT NOT NULL, structure TEXT NOT NULL, lower_bound REAL NOT NULL,
    certainty REAL NOT NULL, dice REAL NOT NULL, accepted INTEGER NOT NULL, time REAL NOT NULL,
    PRIMARY KEY (case_id, label, structure)
);
"""


@dataclass(frozen=True)
class BoundCheck:
    """One structure of a pseudo label whose case has a human label now.

    Attributes:
        structure: its name.
        lower_bound: Dice that was promised, 0 to 1.
        certainty: with this probability.
        dice: of the pseudo label's mask and the human label.
    """

    structure: str
    lower_bound: float
    certainty: float
    dice: float


class BoundChecks:
    """Checks of one study, in SQLite."""

    def __init__(self, path: Path, now: Callable[[], float] = time.time) -> None:
        """Open or create the table in an SQLite file; ``now``: the current time, for tests.

        Raises:
            UserError: the file is no SQLite database.
        """
        self.path, self._now = path, now
        make_tables(path, _SCHEMA, "restore it from a backup, or rename it: a new one is made, without the reviews")

    def record(self, case: str, label: str, checks: Sequence[BoundCheck], *, accepted: bool) -> None:
        """Record the checks of one pseudo label, once.

        Args:
            case: case id.
            label: SHA-256 of the pseudo label's file.
            checks: of its structures.
            accepted: whether the human label is an accepted pseudo label; False: a person drew or corrected it.
        """
        with connection(self.path) as database:
            rows = [
                (case, label, c.structure, c.lower_bound, c.certainty, c.dice, int(accepted), self._now())
                for c in checks
            ]
            database.executemany("INSERT OR IGNORE INTO bound_checks VALUES (?, ?, ?, ?, ?, ?, ?, ?)", rows)

    def summary(self) -> dict[str, dict[str, Any]]:
        """Plain values for ``accepted`` (labels that a reviewer accepted) and ``drawn`` (all others): ``cases``,
        ``structures``, and ``held``: number of structures whose Dice is at least their bound."""
        query = (
            "SELECT COUNT(DISTINCT case_id), COUNT(*), SUM(dice >= lower_bound) FROM bound_checks WHERE accepted = ?"
        )
        with connection(self.path) as database:
            found = {
                name: database.execute(query, (flag,)).fetchone() for name, flag in (("accepted", 1), ("drawn", 0))
            }
        return {n: {"cases": c, "structures": s, "held": h or 0} for n, (c, s, h) in found.items()}
