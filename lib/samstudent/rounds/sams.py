"""The adapted SAMs of one study, and which of them is in force.

Each lies in ``sam/<id>/`` with ``adapted.safetensors`` and ``record.json``. ``sam.json`` alone says which one is in
force, or that the plain one is; it is replaced atomically, so a kill leaves the one or the other.
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

#: Who puts an adapted SAM in force, or the plain one, as the outcome of an adaptation; all others are people.
TRAINING = "training"


class Switch(BaseModel):
    """One change of the SAM in force; ``id`` None: the plain one."""

    id: str | None
    time: float
    who: str = ""
    why: str = ""


class _Pointer(BaseModel):
    """sam.json"""

    id: str | None = None
    history: list[Switch] = []


class AdaptedSams:
    """What adaptation made for one study. Several processes may use the same folder at once."""

    def __init__(self, folder: Path) -> None:
        """Use the study's state folder; nothing is written yet."""
        self.folder = Path(folder)
        self._complaints: set[str] = set()

    def add(self, record: Mapping[str, Any], save: Callable[[Path], object] | None) -> str:
        """Keep the outcome of one adaptation and return its id. It is not in force yet.

        Args:
            record: JSON; what it was adapted on, and how it did.
            save: writes the weights to the path it is given; None: they are not worth keeping.
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

    def use(self, id: str, who: str = "", why: str = "") -> None:
        """Put one in force.

        Raises: as ``weights``.
        """
        self.weights(id)
        self._point(id, who, why)

    def use_plain(self, who: str = "", why: str = "") -> None:
        """Take the plain SAM, until an adapted one is put in force again. ``who``: ``TRAINING``, or a person's name."""
        self._point(None, who, why)

    @property
    def in_force(self) -> str | None:
        """The id of the one in force; None: the plain SAM."""
        return self._pointer().id

    @property
    def taken_back(self) -> bool:
        """Whether a person took the plain SAM, and no adapted one was put in force since."""
        return _taken_back(self.history)

    @property
    def last_by_person(self) -> bool:
        """Whether the last change was a person's."""
        return bool(history := self.history) and history[-1].who != TRAINING

    @property
    def history(self) -> list[Switch]:
        """All changes, oldest first."""
        return self._pointer().history

    def weights(self, id: str) -> Path:
        """The file of one's weights, checked against its digest.

        Raises:
            NotFound: it does not exist, or its weights were not kept or are gone.
            UserError: the file is damaged.
        """
        digest, path = self.record(id)["sha256"], self.path_of(id)
        if digest is None or not path.is_file():
            raise NotFound(f"{path}: the weights of adapted SAM {id} {'are gone' if digest else 'were not kept'}")
        if sha256_file(path) != digest:
            raise UserError(f"{path}: damaged; restore it, or go back to the plain SAM")
        return path

    def record(self, id: str) -> dict[str, Any]:
        """What ``add`` was told; ``id``, ``time`` (seconds since 1970) and ``sha256`` of the weights' file, or None.

        Raises:
            NotFound: no such one.
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
        """All that are whole, oldest first. One that cannot be read is left out: the others can still be used."""
        paths = [path.parent.name for path in (self.folder / "sam").glob("s*/record.json") if _is_id(path.parent.name)]
        found = []
        for id in sorted(paths, key=lambda id: int(id[1:])):
            try:
                found.append(self.record(id))
            except UserError as error:
                if str(error) not in self._complaints:  # clients ask every few seconds; the log needs it once
                    logger.warning("adapted SAM %s is left out: %s", id, error)
                    self._complaints.add(str(error))
        return found

    def path_of(self, id: str) -> Path:
        """Where the weights of one lie, or will lie."""
        if not _is_id(id):
            raise NotFound(f"adapted SAM {id!r}: ids look like s0001")
        return self.folder / "sam" / id / "adapted.safetensors"

    def _record_path(self, id: str) -> Path:
        return self.path_of(id).with_name("record.json")

    def _point(self, id: str | None, who: str, why: str) -> None:
        with self._lock():
            before = self._pointer()
            taken_back = id is None and who != TRAINING and not _taken_back(before.history)
            if before.id != id or taken_back:
                history = [*before.history, Switch(id=id, time=time.time(), who=who, why=why)]
                atomic_write(self.folder / "sam.json", _Pointer(id=id, history=history).model_dump_json(indent=1))

    def _pointer(self) -> _Pointer:
        path = self.folder / "sam.json"
        try:
            return _Pointer.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            return _Pointer()
        except ValidationError as error:
            told = f"{path}: unreadable; restore it from a backup, or rename it to go back to the plain SAM"
            raise UserError(told) from error

    def _lock(self) -> FileLock:
        self.folder.mkdir(parents=True, exist_ok=True)
        return FileLock(str(self.folder / "sam.lock"))


def _taken_back(history: Sequence[Switch]) -> bool:
    return any(switch.who != TRAINING for switch in takewhile(lambda switch: switch.id is None, reversed(history)))


def _is_id(name: str) -> bool:
    return re.fullmatch(r"s\d{4,}", name) is not None
