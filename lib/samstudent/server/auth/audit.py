"""Audit log of the served study: ``record`` for parts of the server, ``audited`` for endpoints.

@router.delete("/label", dependencies=[require("admin")])
def remove_label(line: Annotated[AuditLine, audited("label removed")], ...) -> ...:
    line.describe(user_name(), case=case, tag=tag)
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from fastapi import Depends

from samstudent.server.auth.current_user import caller, user_name
from samstudent.util.audit_log import AuditFailed, AuditLog

__all__ = ["AuditFailed", "AuditLine", "AuditLog", "audited", "record", "require", "write_to"]

_log: AuditLog | None = None


def write_to(log: AuditLog) -> None:
    """Set the log of this process for ``record`` and ``require``."""
    global _log
    log.address = lambda: caller().address
    _log = log


def require() -> None:
    """``AuditLog.require`` of the served study."""
    if _log is not None:
        _log.require()


def record(action: str, user: str, **details: Any) -> None:
    """``AuditLog.record`` of the served study."""
    if _log is not None:
        _log.record(action, user, **details)


class AuditLine:
    """Record of one request, written after its endpoint has returned without an error.

    Args:
        action: action of the endpoint, e.g. "label saved".
    """

    def __init__(self, action: str) -> None:
        self.action = action
        self._user: str | None = None
        self._details: dict[str, Any] = {}

    def describe(self, user: str, **details: Any) -> None:
        """Set user and details (JSON values); default: the logged-in user, without details."""
        self._user, self._details = user, details

    def write(self) -> None:
        """Write the record. Raises AuditFailed."""
        record(self.action, user_name() if self._user is None else self._user, **self._details)


def audited(action: str) -> Any:
    """Dependency of an endpoint with a record in the audit log; 503 if the log is not writable.

    The record is on disk before the response is sent; if that fails, the response is 503.
    """

    def line() -> Iterator[AuditLine]:
        require()
        written_at_end = AuditLine(action)
        yield written_at_end
        written_at_end.write()

    return Depends(line, scope="function")
