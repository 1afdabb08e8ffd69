"""Drafts: labels that a person has begun to draw, one file for each person and case."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from samstudent.errors import UserError
from samstudent.server.annotation.drawn_label import DrawnLabel
from samstudent.util.files import atomic_write


class Draft(BaseModel):
    """Draft of a person for a case.

    Attributes:
        case: case id.
        who: user name.
        saved: time of the last change, seconds since 1970.
        label: the label so far.
    """

    case: str
    who: str
    saved: float
    label: DrawnLabel


class Drafts:
    """Drafts of one study, ``<folder>/<digest of the person>/<case>.json``, written atomically.

    Args:
        folder: created by the first draft.
        now: returns the current time in seconds; for tests.
    """

    def __init__(self, folder: Path, now: Callable[[], float] = time.time) -> None:
        self.folder, self._now = folder, now

    def get(self, who: str, case: str) -> Draft | None:
        """Draft of a person for a case, or None.

        Raises:
            UserError: the file is damaged.
        """
        path = self._path(who, case)
        try:
            return Draft.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            return None
        except ValidationError as error:
            raise UserError(f"{path}: not a draft ({error.errors()[0]['msg']}); remove or restore it") from error

    def put(self, who: str, case: str, label: DrawnLabel) -> float:
        """Save a draft in place of the earlier one; returns the time."""
        draft = Draft(case=case, who=who, saved=self._now(), label=label)
        atomic_write(self._path(who, case), draft.model_dump_json())
        return draft.saved

    def remove(self, who: str, case: str) -> bool:
        """Remove a draft; False if there is none."""
        try:
            self._path(who, case).unlink()
        except FileNotFoundError:
            return False
        return True

    def cases(self, who: str) -> set[str]:
        """Cases of which a person has drafts."""
        folder = self._folder_of(who)
        return {path.name.removesuffix(".json") for path in folder.glob("[!.]*.json")} if folder.is_dir() else set()

    def _folder_of(self, who: str) -> Path:
        # A digest, because names of users need not be file names.
        return self.folder / hashlib.sha256(who.encode()).hexdigest()[:24]

    def _path(self, who: str, case: str) -> Path:
        return self._folder_of(who) / f"{case}.json"


def as_json(draft: Draft) -> dict[str, Any]:
    """A draft as JSON values."""
    content: dict[str, Any] = json.loads(draft.model_dump_json())
    return content
