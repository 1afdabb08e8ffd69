"""Who did what: one line of JSON for each label, promotion and login, in ``audit.jsonl`` of the study's state.

Nothing happens unseen: where no line can be written, what would need one is refused with 503 before it is done. Should
the disk fail in between, a label is kept and its client told so (503); a promotion or a login is written down first and
then done. Files are never removed here; a full one is set aside under the time of that moment.
"""

from __future__ import annotations

import errno
import json
import os
import time
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from filelock import FileLock

from samstudent.errors import UserError, explain, status_of
from samstudent.server.auth.current_user import caller
from samstudent.util.files import own_copy

#: Some 80,000 lines.
MOST_BYTES = 16 << 20


class AuditFailed(UserError):
    """No line could be written (HTTP 503, 507 where the disk is full).

    Args:
        done: what was, or was not, done.
        error: why there is no line.
        file: where it belongs.
    """

    def __init__(self, done: str, error: OSError, file: Path) -> None:
        super().__init__(f"{done}: {explain(error, file)}")
        self.status = max(status_of(error), 503)


class AuditLog:
    """One study's file; several processes may write at once."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def require(self) -> None:
        """Raises AuditFailed where no line could be written now."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            os.close(self._open())
        except OSError as error:
            raise AuditFailed("nothing was changed", error, self.path) from error

    def record(self, action: str, user: str, **details: Any) -> None:
        """Add a line, on disk when this returns.

        Args:
            action: what was done, e.g. "label saved".
            user: by whom.
            details: JSON values; which case, which round.

        Raises:
            AuditFailed: it could not be written.
        """
        now = datetime.now(timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        line = {"time": now, "action": action, "user": user, "address": caller().address, **details}
        content = (json.dumps(line, default=str) + "\n").encode()
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(f"{self.path}.lock"):
                self._set_aside()
                own_copy(self.path)
                file = self._open()
                try:
                    if os.fstat(file).st_size and os.pread(file, 1, os.fstat(file).st_size - 1) != b"\n":
                        content = b"\n" + content  # somebody was killed in the middle of his line
                    if os.write(file, content) != len(content):
                        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                    os.fsync(file)
                finally:
                    os.close(file)
        except OSError as error:
            raise AuditFailed(f"{action}: the line about it could not be written", error, self.path) from error

    def _open(self) -> int:
        return os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o640)

    def _set_aside(self) -> None:
        if self.path.exists() and self.path.stat().st_size > MOST_BYTES:
            stamp = time.strftime("%Y%m%dT%H%M%S", time.gmtime())
            os.replace(self.path, self.path.with_name(f"{self.path.stem}-{stamp}{self.path.suffix}"))


_log: AuditLog | None = None


def write_to(log: AuditLog) -> None:
    """From now on, ``record`` and ``require`` of this process mean this one."""
    global _log
    _log = log


def require() -> None:
    """``AuditLog.require`` of the served study."""
    if _log is not None:
        _log.require()


def record(action: str, user: str, **details: Any) -> None:
    """``AuditLog.record`` of the served study."""
    if _log is not None:
        _log.record(action, user, **details)


def recorded(
    action: str, work: Callable[..., Any], about: Callable[..., tuple[str, dict[str, Any]]]
) -> Callable[..., Any]:
    """``work`` with a line about each call that did not raise; ``about`` gives user and details for its arguments."""

    def call(*args: Any, **kwargs: Any) -> Any:
        require()
        answer = work(*args, **kwargs)
        user, details = about(*args, **kwargs)
        record(action, user, **details)
        return answer

    return call
