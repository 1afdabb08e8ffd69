"""Audit log: one line of JSON for each label, promotion and login, in ``audit.jsonl`` of the study's state.

If no line can be written, an action that needs one is refused with 503 before it starts. If the disk fails in between,
a label is kept and its client gets 503 with that reason; a promotion or a login is recorded before it is carried out.
Files are never removed here; a full file is renamed with a time stamp.
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
from samstudent.util.files import own_copy

#: Largest size of a file in bytes: about 80,000 lines.
MOST_BYTES = 16 << 20


class AuditFailed(UserError):
    """A line could not be written (HTTP 503, 507 if the disk is full).

    Args:
        done: the action that was, or was not, carried out.
        error: the reason.
        file: the audit log.
    """

    def __init__(self, done: str, error: OSError, file: Path) -> None:
        super().__init__(f"{done}: {explain(error, file)}")
        self.status = max(status_of(error), 503)


class AuditLog:
    """Audit log of one study; several processes may write at once.

    Args:
        path: the file; created with the first line.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        #: Network address for the lines; the server sets it to that of the current request's client.
        self.address: Callable[[], str] = lambda: ""

    def require(self) -> None:
        """Raises AuditFailed if no line can be written now."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            os.close(self._open())
        except OSError as error:
            raise AuditFailed("nothing was changed", error, self.path) from error

    def record(self, action: str, user: str, **details: Any) -> None:
        """Add a line, on disk when this returns.

        Args:
            action: name of the action, e.g. "label saved".
            user: name of the user.
            details: JSON values, such as case and round.

        Raises:
            AuditFailed: the line cannot be written.
        """
        now = datetime.now(timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        line = {"time": now, "action": action, "user": user, "address": self.address(), **details}
        content = (json.dumps(line, default=str) + "\n").encode()
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(f"{self.path}.lock"):
                self._set_aside()
                own_copy(self.path)
                file = self._open()
                try:
                    if os.fstat(file).st_size and os.pread(file, 1, os.fstat(file).st_size - 1) != b"\n":
                        content = b"\n" + content  # a process was killed in the middle of its line
                    if os.write(file, content) != len(content):
                        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                    os.fsync(file)
                finally:
                    os.close(file)
        except OSError as error:
            raise AuditFailed(f"{action}: its line could not be written", error, self.path) from error

    def _open(self) -> int:
        return os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o640)

    def _set_aside(self) -> None:
        if self.path.exists() and self.path.stat().st_size > MOST_BYTES:
            stamp = time.strftime("%Y%m%dT%H%M%S", time.gmtime())
            os.replace(self.path, self.path.with_name(f"{self.path.stem}-{stamp}{self.path.suffix}"))
