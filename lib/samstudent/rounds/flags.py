"""Cases that annotators flagged as unusable: no training, pseudo labels or selection until the flag is removed."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock
from pydantic import BaseModel, ConfigDict, ValidationError

from samstudent.errors import UserError
from samstudent.util.files import atomic_write, file_stamp

#: Longest reason, characters.
MAX_REASON = 500


class Flag(BaseModel):
    """Flag of a case.

    Attributes:
        reason: text of the annotator.
        who: user name.
        time: seconds since 1970.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    reason: str
    who: str
    time: float


class _Content(BaseModel):
    model_config = ConfigDict(extra="forbid")
    cases: dict[str, Flag] = {}


class Flags:
    """Flags of one study, in ``flags.json``. Any number of processes may use the same file at once.

    Args:
        path: the file; created by the first flag.
        now: returns the current time in seconds; for tests.
    """

    def __init__(self, path: Path, now: Callable[[], float] = time.time) -> None:
        self.path, self._now = path, now
        self._cached: tuple[object, dict[str, Flag]] = (None, {})

    def all(self) -> dict[str, Flag]:
        """Case id -> flag.

        Raises:
            UserError: the file is not valid.
        """
        key = file_stamp(self.path)
        if key is None:
            return {}
        if self._cached[0] != key:
            try:
                self._cached = (key, _Content.model_validate_json(self.path.read_bytes()).cases)
            except ValidationError as error:
                raise UserError(
                    f"{self.path}: not a file of flags ({error.errors()[0]['msg']}). Restore it from a backup: it "
                    "lists the cases that must not train"
                ) from error
        return self._cached[1]

    def put(self, case: str, reason: str, who: str) -> Flag:
        """Flag a case, in place of an earlier flag.

        Raises:
            UserError: the reason is empty or longer than ``MAX_REASON``.
        """
        reason = " ".join(reason.split())
        if not 0 < len(reason) <= MAX_REASON:
            raise UserError(f"reason must have 1 to {MAX_REASON} characters, not {len(reason)}")
        flag = Flag(reason=reason, who=who, time=self._now())
        self._change(lambda cases: cases.update({case: flag}))
        return flag

    def remove(self, case: str) -> bool:
        """Remove the flag of a case; False if it has none."""
        if case not in self.all():
            return False
        self._change(lambda cases: cases.pop(case, None))
        return True

    def _change(self, change: Callable[[dict[str, Flag]], object]) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(str(self.path) + ".lock"):
            cases = dict(self.all())
            change(cases)
            atomic_write(self.path, _Content(cases=cases).model_dump_json(indent=1))
