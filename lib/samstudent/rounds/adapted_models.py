"""Adapted models of one study: SAMs with an adapted mask decoder, and which of them is active.

Each lies in ``sam/<id>/`` with ``adapted.safetensors`` and ``record.json``. Only ``sam.json`` determines the active
one, or the plain SAM; it is replaced atomically, so after a kill it has its old or its new content.
"""

from __future__ import annotations

import json
import logging
import re
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any

from filelock import FileLock
from pydantic import BaseModel, ValidationError

from samstudent.errors import NotFound, UserError
from samstudent.util.files import atomic_write, sha256_file

logger = logging.getLogger(__name__)

#: Name of the training in ``Activation.who``; every other name is a person's.
TRAINING = "training"


class Activation(BaseModel):
    """One change of the active model; ``id`` None: the plain SAM."""

    id: str | None
    time: float
    who: str = ""
    why: str = ""


class _Pointer(BaseModel):
    """Content of sam.json."""

    id: str | None = None
    history: list[Activation] = []


class AdaptedModels:
    """Adapted models of one study, of which one may be active. Several processes may use the same folder at once."""

    def __init__(self, folder: Path) -> None:
        """Use the study's state folder; nothing is written yet."""
        self.folder = Path(folder)
        self._logged: set[str] = set()

    def add(self, record: Mapping[str, Any], save: Callable[[Path], object] | None) -> str:
        """Store the result of one adaptation and return its id. It is not active yet.

        Args:
            record: JSON; labels that it was adapted to, and its figures.
            save: function that writes the weights to a path; None: no weights are stored.
        """
        with self._lock():
            taken = [int(path.name[1:]) for path in (self.folder / "sam").glob("s*") if _is_id(path.name)]
            id = f"s{max(taken, default=0) + 1:04d}"
            (self.folder / "sam" / id).mkdir(parents=True)
        if save is not None:
            save(self.path_of(id))
        # Last: a folder with a record is whole.
        digest = sha256_file(self.path_of(id)) if save is not None else None
        content = dict(record) | {"id": id, "time": time.time(), "sha256": digest}
        atomic_write(self._record_path(id), json.dumps(content, indent=1, allow_nan=False))
        return id

    def activate(self, id: str, who: str = "", why: str = "") -> None:
        """Make an adapted model the active one.

        Raises: as ``weights``.
        """
        self.weights(id)
        self._point(id, who, why)

    def activate_plain(self, who: str = "", why: str = "") -> None:
        """Make the plain SAM active until an adapted model is activated. ``who``: ``TRAINING``, or a person's name."""
        self._point(None, who, why)

    @property
    def active(self) -> str | None:
        """Id of the active model; None: the plain SAM."""
        return self._pointer().id

    @property
    def plain_by_person(self) -> bool:
        """Whether a person activated the plain SAM, and no adapted model was activated since."""
        return _plain_by_person(self.history)

    @property
    def last_by_person(self) -> bool:
        """Whether a person made the last change."""
        return bool(history := self.history) and history[-1].who != TRAINING

    @property
    def history(self) -> list[Activation]:
        """All changes, oldest first."""
        return self._pointer().history

    def weights(self, id: str) -> Path:
        """File of a model's weights, checked against its digest.

        Raises:
            NotFound: there is no such model, or its weights were not stored or are gone.
            UserError: the file is damaged.
        """
        digest, path = self.record(id)["sha256"], self.path_of(id)
        if digest is None or not path.is_file():
            raise NotFound(f"{path}: the weights of adapted SAM {id} {'are gone' if digest else 'were not stored'}")
        if sha256_file(path) != digest:
            raise UserError(f"{path}: damaged; restore it, or go back to the plain SAM")
        return path

    def record(self, id: str) -> dict[str, Any]:
        """Record of ``add`` with ``id``, ``time`` (seconds since 1970) and ``sha256`` of the weights' file, or None.

        Raises:
            NotFound: there is no such model.
            UserError: its record cannot be read.
        """
        path = self._record_path(id)
        try:
            content: dict[str, Any] = json.loads(path.read_bytes())
        except FileNotFoundError:
            raise NotFound(f"adapted SAM {id!r}: there is none in {self.folder}") from None
        except (OSError, ValueError) as error:
            raise UserError(f"{path}: unreadable: {error}") from error
        if not isinstance(content, dict):
            raise UserError(f"{path}: unreadable: not a record")
        return content

    def records(self) -> list[dict[str, Any]]:
        """Records of all complete models, oldest first. One that cannot be read is left out and logged."""
        paths = [path.parent.name for path in (self.folder / "sam").glob("s*/record.json") if _is_id(path.parent.name)]
        found = []
        for id in sorted(paths, key=lambda id: int(id[1:])):
            try:
                found.append(self.record(id))
            except UserError as error:
                if str(error) not in self._logged:  # clients send this request every few seconds
                    logger.warning("adapted SAM %s is left out: %s", id, error)
                    self._logged.add(str(error))
        return found

    def path_of(self, id: str) -> Path:
        """File of a model's weights, whether it exists yet or not."""
        if not _is_id(id):
            raise NotFound(f"adapted SAM {id!r}: ids look like s0001")
        return self.folder / "sam" / id / "adapted.safetensors"

    def _record_path(self, id: str) -> Path:
        return self.path_of(id).with_name("record.json")

    def _point(self, id: str | None, who: str, why: str) -> None:
        with self._lock():
            before = self._pointer()
            first_by_person = id is None and who != TRAINING and not _plain_by_person(before.history)
            if before.id != id or first_by_person:
                history = [*before.history, Activation(id=id, time=time.time(), who=who, why=why)]
                atomic_write(self.folder / "sam.json", _Pointer(id=id, history=history).model_dump_json(indent=1))

    def _pointer(self) -> _Pointer:
        path = self.folder / "sam.json"
        try:
            return _Pointer.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            return _Pointer()
        except ValidationError as error:
            message = f"{path}: unreadable; restore it from a backup, or rename it to go back to the plain SAM"
            raise UserError(message) from error

    def _lock(self) -> FileLock:
        self.folder.mkdir(parents=True, exist_ok=True)
        return FileLock(str(self.folder / "sam.lock"))


def _plain_by_person(history: Sequence[Activation]) -> bool:
    latest = takewhile(lambda change: change.id is None, reversed(history))
    return any(change.who != TRAINING for change in latest)


def _is_id(name: str) -> bool:
    return re.fullmatch(r"s\d{4,}", name) is not None
