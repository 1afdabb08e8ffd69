"""Ledger of a study whose promotions and roll-backs are written to the study's audit log."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from samstudent.rounds.adapted_models import TRAINING
from samstudent.rounds.ledger import Ledger
from samstudent.rounds.served_round import Promotion
from samstudent.util.audit_log import AuditLog


def audit_log_of(folder: Path) -> AuditLog:
    """Audit log in a study's state folder."""
    return AuditLog(folder / "audit.jsonl")


def audited_ledger(folder: Path) -> Ledger:
    """Ledger of a study; a change of the served model that cannot be written to the audit log is refused.

    Args:
        folder: the study's state folder.
    """
    return Ledger(folder, partial(_record_change, audit_log_of(folder)))


# A function, not a method of the study: a ledger is pickled for worker processes, and a study cannot be.
def _record_change(audit: AuditLog, change: Promotion) -> None:
    action = "promotion" if change.kind == "promote" else "roll-back"
    audit.record(action, change.who or TRAINING, round=change.round, why=change.why)
