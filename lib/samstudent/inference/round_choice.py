"""Choice of the round whose student a command uses. No network is loaded."""

from __future__ import annotations

from pathlib import Path

from samstudent.errors import Conflict
from samstudent.rounds.ledger import Ledger


def model_of(ledger: Ledger, task: str, round_id: str | None) -> Path:
    """Model file of a round, checked against its digest; the round is the name of its folder.

    Args:
        ledger: rounds of the study and the task.
        task: name of the task, for the error.
        round_id: e.g. "r0004"; None: the served round.

    Raises:
        Conflict: no round is served; the round did not end.
        NotFound: no such round, or its model file is gone.
        UserError: the model file is not that of the round.
    """
    if round_id is not None:
        return ledger.complete_model(round_id)
    path = ledger.champion_path()
    if path is None:
        ids = [record.id for record in ledger.rounds() if record.model_digest is not None]
        remedy = f"name one of {', '.join(ids)}, or promote it" if ids else "run one (samstudent train)"
        others = [] if ids else _other_tasks(ledger)
        known = f"; there are rounds of task {', '.join(others)}" if others else ""
        raise Conflict(f"no round of task {task!r} is served in this study: {remedy}{known}")
    return path


def _other_tasks(ledger: Ledger) -> list[str]:
    """Names of the study's other tasks that have rounds."""
    return sorted(folder.parent.name for folder in ledger.folder.parent.glob("*/rounds") if any(folder.iterdir()))
