"""Every round that ever ran, and which of their models is served.

Rounds lie in ``rounds/<id>/`` with ``model.pt``, ``round.json`` and what ``Ledger.keep`` put there. ``champion.json``
alone says what is served: a promotion or a roll-back, with its line in the history, is one atomic write of that file,
so a kill leaves the old champion or the new one.
"""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import psutil
from filelock import FileLock
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from samstudent.errors import Conflict, NotFound, UserError, explain
from samstudent.util.files import atomic_write, sha256_file

Status = Literal["running", "done", "failed", "interrupted"]
#: Dice of each structure and ``mean``, their mean; None where nothing could be measured.
DiceTable = dict[str, float | None]


class PseudoUsed(BaseModel):
    """How many cases trained on pseudo labels, on which of them (the tag in the datastore), and whether masks or
    probabilities of these were taught (None: no case, or a round older than the choice)."""

    n: int = 0
    tag: str | None = None
    taught: Literal["masks", "probabilities"] | None = None


class RoundRecord(BaseModel):
    """What one round did. Times are seconds since 1970, UTC."""

    # A record written by a later version keeps what this one does not know.
    model_config = ConfigDict(extra="allow", validate_assignment=True)

    id: str
    status: Status = "running"
    #: Was served once; taken from champion.json whenever a record is read.
    promoted: bool = False
    started: float = 0.0
    finished: float | None = None
    #: What started it, e.g. "10 new labels" or "manual".
    reason: str = ""
    task_digest: str | None = None
    #: SHA-256 of model.pt, to be recorded as soon as that file is whole.
    model_digest: str | None = None
    #: Cases whose human label trained, known as soon as all are read.
    labels_used: list[str] = []
    pseudo_used: PseudoUsed = PseudoUsed()
    #: Cases that were left out of the training, with the reason.
    unreadable: dict[str, str] = {}
    #: Cases of the hold-out that were left out of the comparison, with the reason.
    not_compared: dict[str, str] = {}
    seed: int | None = None
    steps: int | None = None
    #: How far the training is.
    step: int = 0
    holdout_ids: list[str] = []
    #: On the hold-out: ``{"challenger": {structure: Dice, "mean": Dice}, "champion": the same or None}``.
    dice: dict[Literal["challenger", "champion"], DiceTable | None] = {}
    #: Mean Dice of the challenger on labels that it trained on; low: it has not converged.
    train_dice: float | None = None
    #: How the decision was made: ``fair.Comparison`` as JSON, None where there was nothing to compare, and
    #: ``fair.Decision.accumulated_loss``.
    comparison: dict[str, Any] | None = None
    accumulated_loss: float = 0.0
    decision: str = ""
    #: Why it failed.
    error: str | None = None
    #: The process that runs it; the start time tells it from a later process of the same number.
    pid: int | None = None
    process_started: float | None = None

    @field_validator("dice", mode="before")
    @classmethod
    def _nan_is_none(cls, value: Any) -> Any:
        """JSON has no NaN."""
        if not isinstance(value, Mapping):
            return value
        return {who: table and {name: _finite(v) for name, v in table.items()} for who, table in value.items()}


class Promotion(BaseModel):
    """One change of the served model."""

    round: str
    kind: Literal["promote", "rollback"]
    time: float
    who: str = ""
    why: str = ""


class _Champion(BaseModel):
    """champion.json: the pointer, the digest of the model it points to, and all changes so far."""

    round: str
    model_digest: str
    history: list[Promotion] = Field(default_factory=list)

    def stack(self) -> list[str]:
        """What a roll-back goes through: rounds promoted and not rolled back from, the present one last."""
        stack: list[str] = []
        for change in self.history:
            if change.kind == "promote":
                stack.append(change.round)
            else:
                del stack[_last(stack, change.round) + 1 :]
        return stack


class Ledger:
    """The rounds of one study. Several processes of one machine may use the same folder at once; another machine cannot
    see whether their rounds still run, and takes them for interrupted."""

    def __init__(self, folder: Path, before_change: Callable[[Promotion], None] | None = None) -> None:
        """Use the study's state folder (it holds ``rounds/`` and ``champion.json``); nothing is written yet.

        ``before_change`` is told of each promotion and roll-back before it is made; what it raises prevents it.
        """
        self.folder = folder
        self._before_change = before_change
        self._verified: tuple[object, str] = (None, "")

    def folder_of(self, id: str) -> Path:
        """The folder of a round: ``model.pt`` and whatever else the round keeps lie there."""
        if not re.fullmatch(r"r\d{4,}", id):
            raise NotFound(f"round {id!r}: ids look like r0001")
        return self.folder / "rounds" / id

    def model_path(self, id: str) -> Path:
        """Where the round's model lies, or will lie."""
        return self.folder_of(id) / "model.pt"

    def new_round(self, reason: str = "", **fields: Any) -> str:
        """Open a round, ``running`` in the calling process, and return its id. ``fields``: any of ``RoundRecord``."""
        _check_fields(fields)
        process = psutil.Process()
        with self._lock():
            taken = [int(path.name[1:]) for path in self._folders()]
            id = f"r{max(taken, default=0) + 1:04d}"
            self.folder_of(id).mkdir(parents=True)
            own = {"id": id, "reason": reason, "started": time.time()}
            own |= {"pid": process.pid, "process_started": process.create_time()}
            self._write(RoundRecord.model_validate(own | fields))
        return id

    def record(self, id: str, record: RoundRecord) -> None:
        """Write a round's whole record.

        Raises:
            NotFound: no such round.
            UserError: the record is another round's.
        """
        if record.id != id:
            raise UserError(f"round {id}: cannot store the record of {record.id} there")
        with self._lock():
            self._read(id)
            self._write(record)

    def update(self, id: str, **changes: Any) -> RoundRecord:
        """Change some fields of a round's record and return it."""
        _check_fields(changes)
        with self._lock():
            record = RoundRecord.model_validate(self._read(id).model_dump() | changes)
            self._write(record)
        return record

    def keep(self, id: str, name: str, content: Mapping[str, Any]) -> None:
        """Write ``<name>.json`` into a round's folder: what is too long for the record, which is read all the time.

        Raises:
            NotFound: no such round.
        """
        self._read(id)
        atomic_write(self.folder_of(id) / f"{name}.json", json.dumps(content, indent=1, allow_nan=False))

    def kept(self, id: str, name: str) -> dict[str, Any] | None:
        """What ``keep`` wrote; None if that is nothing.

        Raises:
            UserError: the file cannot be read.
        """
        path = self.folder_of(id) / f"{name}.json"
        try:
            content: dict[str, Any] = json.loads(path.read_bytes())
        except FileNotFoundError:
            return None
        except ValueError as error:
            raise UserError(f"{path}: unreadable: {error}") from error
        return content

    @contextmanager
    def run(self, reason: str = "", **fields: Any) -> Iterator[str]:
        """Open a round for the time of a block: ``done`` at its end, ``failed`` with the error's text if it raises.

        A block that is stopped (Ctrl-C, ``sys.exit``) or killed leaves an ``interrupted`` round.
        """
        id = self.new_round(reason, **fields)
        try:
            yield id
        except Exception as error:
            told = explain(error) if isinstance(error, OSError) else f"{type(error).__name__}: {error}"
            self.update(id, status="failed", finished=time.time(), error=told)
            raise
        except BaseException:
            self.update(id, status="interrupted", finished=time.time(), error="stopped before its end")
            raise
        if self._read(id).status == "running":
            self.update(id, status="done", finished=time.time())

    def mark_interrupted(self, why: str) -> None:
        """Write down that rounds whose process is gone did not come to their end. They are shown so in any case."""
        for record in self.rounds():
            if record.status == "interrupted" and record.finished is None:
                self.update(record.id, status="interrupted", finished=time.time(), error=why)

    def get(self, id: str) -> RoundRecord:
        """One round's record, as ``rounds`` shows it.

        Raises:
            NotFound: no such round.
            UserError: its round.json cannot be read.
        """
        return self._shown(self._read(id), self._champion())

    def rounds(self) -> list[RoundRecord]:
        """All rounds, oldest first. A ``running`` one whose process is gone is shown as ``interrupted``; one whose
        record cannot be read as ``failed``, with the fault as its error, so that the others can still be seen."""
        champion = self._champion()
        records = []
        for folder in self._folders():
            if not (folder / "round.json").exists():
                continue  # opened and killed, or being opened, in the very moment before the record is written
            try:
                records.append(self._shown(self._read(folder.name), champion))
            except UserError as error:
                records.append(RoundRecord(id=folder.name, status="failed", error=str(error)))
        return records

    def running(self) -> RoundRecord | None:
        """The latest round whose process is alive and at work."""
        return next((record for record in reversed(self.rounds()) if record.status == "running"), None)

    def last_concluded(self) -> RoundRecord | None:
        """The latest round that came to its own end, done or failed; an interrupted one does not count."""
        return max(
            (record for record in self.rounds() if record.status in ("done", "failed")),
            key=lambda record: record.started,
            default=None,
        )

    def champion(self) -> RoundRecord | None:
        """The record of the served round; None before the first promotion."""
        champion = self._champion()
        return self._shown(self._read(champion.round), champion) if champion else None

    def champion_path(self) -> Path | None:
        """The served model, checked against its digest; None before the first promotion.

        There is no falling back to an older model by itself: the served model changes only by a promotion or a
        roll-back that somebody asked for and can see in the history.

        Raises:
            NotFound: the file is gone.
            UserError: the file is not the one that was promoted.
        """
        champion = self._champion()
        if champion is None:
            return None
        self._verify(champion.round, champion.model_digest)
        return self.model_path(champion.round)

    def history(self) -> list[Promotion]:
        """All promotions and roll-backs, oldest first."""
        champion = self._champion()
        return champion.history if champion else []

    def previous(self) -> str | None:
        """The round that ``rollback`` would serve; None where there is nothing to go back to."""
        champion = self._champion()
        return next((id for id in reversed(champion.stack()) if id != champion.round), None) if champion else None

    def promote(self, id: str, who: str = "", why: str = "") -> None:
        """Serve this round's model from now on. Nothing happens when it is served already.

        Raises:
            NotFound: no such round, or it has no model.
            Conflict: the round did not end, and no digest says that its model is whole.
            UserError: the model is not the one its record tells of.
        """
        with self._lock():
            champion, record = self._champion(), self._read(id)
            if record.model_digest is None and record.status != "done":
                raise Conflict(f"round {id} is {self._shown(record, None).status}: its model may not be whole")
            digest = self._verify(id, record.model_digest)
            if champion is None or (champion.round, champion.model_digest) != (id, digest):
                self._point(champion, Promotion(round=id, kind="promote", time=time.time(), who=who, why=why), digest)

    def rollback(self, to: str | None = None, who: str = "", why: str = "") -> str:
        """Serve the round that was served before, or go back to an earlier one by name. May be repeated.

        Returns:
            The id of the round served now.

        Raises:
            Conflict: there is nothing to go back to, or ``to`` was not served before the present one.
            NotFound, UserError: the model to go back to is gone or damaged; name an earlier one.
        """
        with self._lock():
            champion = self._champion()
            earlier = [id for id in champion.stack() if id != champion.round] if champion else []
            if champion is None or not earlier:
                raise Conflict(f"no round was served before {champion.round if champion else 'the first promotion'}")
            if to is not None and to not in earlier:
                raise Conflict(f"round {to} was not served before {champion.round}; served were {', '.join(earlier)}")
            target = to or earlier[-1]
            digest = self._verify(target, self._read(target).model_digest)
            self._point(champion, Promotion(round=target, kind="rollback", time=time.time(), who=who, why=why), digest)
        return target

    def _point(self, before: _Champion | None, change: Promotion, digest: str) -> None:
        history = [*(before.history if before else []), change]
        content = _Champion(round=change.round, model_digest=digest, history=history)
        if self._before_change is not None:
            self._before_change(change)
        atomic_write(self.folder / "champion.json", content.model_dump_json(indent=1))

    def _champion(self) -> _Champion | None:
        path = self.folder / "champion.json"
        try:
            return _Champion.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            return None
        except ValidationError as error:
            fault = error.errors()[0]["msg"]
            raise UserError(
                f"{path}: unreadable ({fault}); restore it from a backup, or rename it and promote a round"
            ) from error

    def _verify(self, id: str, digest: str | None) -> str:
        """The model's digest, after comparing it with what it should be. Hashed again only when the file changed."""
        path = self.model_path(id)
        try:
            stat = path.stat()
        except FileNotFoundError:
            raise NotFound(f"{path}: the model of round {id} is gone; restore it, or roll back") from None
        key = (str(path), stat.st_mtime_ns, stat.st_size, stat.st_ino)
        if self._verified[0] != key:
            self._verified = (key, sha256_file(path))
        found = self._verified[1]
        if digest is not None and found != digest:
            raise UserError(f"{path}: damaged: its SHA-256 is {found}, not {digest}; restore it, or roll back")
        return found

    def _read(self, id: str) -> RoundRecord:
        path = self.folder_of(id) / "round.json"
        try:
            return RoundRecord.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            raise NotFound(f"round {id!r} does not exist in {self.folder}") from None
        except ValidationError as error:
            raise UserError(f"{path}: unreadable: {error.errors()[0]['msg']}") from error

    def _write(self, record: RoundRecord) -> None:
        atomic_write(self.folder_of(record.id) / "round.json", record.model_dump_json(indent=1))

    def _shown(self, record: RoundRecord, champion: _Champion | None) -> RoundRecord:
        served = {change.round for change in champion.history} if champion else set()
        gone = record.status == "running" and not _alive(record.pid, record.process_started)
        status: Status = "interrupted" if gone else record.status
        return record.model_copy(update={"promoted": record.id in served, "status": status})

    def _folders(self) -> list[Path]:
        found = [path for path in (self.folder / "rounds").glob("r*") if re.fullmatch(r"r\d{4,}", path.name)]
        return sorted(found, key=lambda path: int(path.name[1:]))

    def _lock(self) -> FileLock:
        self.folder.mkdir(parents=True, exist_ok=True)
        return FileLock(str(self.folder / "ledger.lock"))


def _check_fields(fields: Mapping[str, Any]) -> None:
    if unknown := set(fields) - set(RoundRecord.model_fields):
        raise TypeError(f"a round's record has no {sorted(unknown)}; it has {sorted(RoundRecord.model_fields)}")


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _last(items: list[str], item: str) -> int:
    return len(items) - 1 - items[::-1].index(item)


def _alive(pid: int | None, started: float | None) -> bool:
    """Whether that very process still runs; a zombie does not."""
    if pid is None or started is None:
        return False
    try:
        process = psutil.Process(pid)
        return bool(process.status() != psutil.STATUS_ZOMBIE and abs(process.create_time() - started) < 1)
    except psutil.NoSuchProcess:
        return False
