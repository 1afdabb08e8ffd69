"""Ledger of a study: the record of every round, and which round is served.

Rounds lie in ``rounds/<id>/`` with ``model.pt``, ``round.json`` and the files of ``RoundStore.write_record``.
Only ``champion.json`` determines the served round: a promotion or a roll-back, with its line in the history, is one
atomic write of that file, so a kill leaves the old champion or the new one.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
from filelock import FileLock
from pydantic import ValidationError

from samstudent.errors import Conflict, NotFound, UserError, explain
from samstudent.rounds.round_record import RoundRecord, Status, check_fields
from samstudent.rounds.served_round import Promotion, ServedRound
from samstudent.util.files import atomic_write, sha256_file


class Ledger:
    """Rounds of one study. Several processes of one machine may use the same folder at once; to another machine their
    running rounds look interrupted."""

    def __init__(self, folder: Path, before_change: Callable[[Promotion], None] | None = None) -> None:
        """Use a study's state folder; nothing is written yet.

        Args:
            folder: folder of ``rounds/`` and ``champion.json``.
            before_change: called with each promotion and roll-back before it is made; an exception prevents the change.
        """
        self.folder = folder
        self._before_change = before_change
        self._verified: tuple[object, str] = (None, "")

    def folder_of(self, id: str) -> Path:
        """Folder of a round with ``model.pt`` and its other files."""
        if not re.fullmatch(r"r\d{4,}", id):
            raise NotFound(f"round {id!r}: ids look like r0001")
        return self.folder / "rounds" / id

    def model_path(self, id: str) -> Path:
        """Model file of a round, whether it exists yet or not."""
        return self.folder_of(id) / "model.pt"

    def new_round(self, reason: str = "", **fields: Any) -> str:
        """Open a round, ``running`` in the calling process, and return its id. ``fields``: any of ``RoundRecord``."""
        check_fields(fields)
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
        check_fields(changes)
        with self._lock():
            record = RoundRecord.model_validate(self._read(id).model_dump() | changes)
            self._write(record)
        return record

    def read_json(self, id: str, name: str) -> dict[str, Any] | None:
        """Content of ``<name>.json`` in a round's folder; None: there is no such file.

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
        """Context manager of one round: ``done`` at the end of the block, ``failed`` with the message of its exception.

        A block that is stopped (Ctrl-C, ``sys.exit``) or killed leaves an ``interrupted`` round.
        """
        id = self.new_round(reason, **fields)
        try:
            yield id
        except Exception as error:
            reason = explain(error) if isinstance(error, OSError) else f"{type(error).__name__}: {error}"
            self.update(id, status="failed", finished=time.time(), error=reason)
            raise
        except BaseException:
            self.update(id, status="interrupted", finished=time.time(), error="stopped before its end")
            raise
        if self._read(id).status == "running":
            self.update(id, status="done", finished=time.time())

    def mark_interrupted(self, why: str) -> None:
        """Record the status ``interrupted`` of rounds whose process is gone; ``rounds`` returns it in any case."""
        for record in self.rounds():
            if record.status == "interrupted" and record.finished is None:
                self.update(record.id, status="interrupted", finished=time.time(), error=why)

    def get(self, id: str) -> RoundRecord:
        """Record of one round, as in ``rounds``.

        Raises:
            NotFound: no such round.
            UserError: its round.json cannot be read.
        """
        return self._shown(self._read(id), ServedRound.load(self.folder))

    def rounds(self) -> list[RoundRecord]:
        """Records of all rounds, oldest first.

        A ``running`` round whose process is gone has the status ``interrupted``. A round whose record cannot be read
        has the status ``failed`` and the reason as its error, so that the others remain available.
        """
        champion = ServedRound.load(self.folder)
        records = []
        for folder in self._folders():
            if not (folder / "round.json").exists():
                continue  # killed, or about to write its record, just after it was opened
            try:
                records.append(self._shown(self._read(folder.name), champion))
            except UserError as error:
                records.append(RoundRecord(id=folder.name, status="failed", error=str(error)))
        return records

    def running(self) -> RoundRecord | None:
        """The latest round that runs."""
        return next((record for record in reversed(self.rounds()) if record.status == "running"), None)

    def last_concluded(self) -> RoundRecord | None:
        """The latest round with the status done or failed."""
        return max(
            (record for record in self.rounds() if record.status in ("done", "failed")),
            key=lambda record: record.started,
            default=None,
        )

    def champion(self) -> RoundRecord | None:
        """The record of the served round; None before the first promotion."""
        champion = ServedRound.load(self.folder)
        return self._shown(self._read(champion.round), champion) if champion else None

    def champion_path(self) -> Path | None:
        """Served model file, checked against its digest; None before the first promotion.

        There is no automatic fallback to an older model: the served model changes only by a promotion or a roll-back,
        which the history shows.

        Raises:
            NotFound: the file is gone.
            UserError: the file is not the one that was promoted.
        """
        champion = ServedRound.load(self.folder)
        if champion is None:
            return None
        self._verify(champion.round, champion.model_digest)
        return self.model_path(champion.round)

    def complete_model(self, id: str) -> Path:
        """Model file of a round, served or not, checked against its digest. Raises as ``promote``."""
        self._complete(id)
        return self.model_path(id)

    def history(self) -> list[Promotion]:
        """All promotions and roll-backs, oldest first."""
        champion = ServedRound.load(self.folder)
        return champion.history if champion else []

    def previous(self) -> str | None:
        """The round that ``rollback`` would serve; None where there is nothing to go back to."""
        champion = ServedRound.load(self.folder)
        return next(reversed(champion.earlier()), None) if champion else None

    def promote(self, id: str, who: str = "", why: str = "") -> None:
        """Serve a round's model. Nothing changes when it is served already.

        Raises:
            NotFound: no such round, or it has no model.
            Conflict: the round did not end, and no digest shows that its model is complete.
            UserError: the model does not match the digest in its record.
        """
        with self._lock():
            champion, digest = ServedRound.load(self.folder), self._complete(id)
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
            champion = ServedRound.load(self.folder)
            earlier = champion.earlier() if champion else []
            if champion is None or not earlier:
                raise Conflict(f"no round was served before {champion.round if champion else 'the first promotion'}")
            if to is not None and to not in earlier:
                raise Conflict(f"round {to} was not served before {champion.round}; served were {', '.join(earlier)}")
            target = to or earlier[-1]
            digest = self._verify(target, self._read(target).model_digest)
            self._point(champion, Promotion(round=target, kind="rollback", time=time.time(), who=who, why=why), digest)
        return target

    def _point(self, before: ServedRound | None, change: Promotion, digest: str) -> None:
        history = [*(before.history if before else []), change]
        if self._before_change is not None:
            self._before_change(change)
        ServedRound(round=change.round, model_digest=digest, history=history).save(self.folder)

    def _complete(self, id: str) -> str:
        """Digest of the model of a round that is complete. Raises as ``promote``."""
        record = self._read(id)
        if record.model_digest is None and record.status != "done":
            raise Conflict(f"round {id} is {self._shown(record, None).status}: its model may be incomplete")
        return self._verify(id, record.model_digest)

    def _verify(self, id: str, digest: str | None) -> str:
        """Digest of a round's model, compared with the expected one. The file is hashed only when it has changed."""
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
            known = ", ".join(folder.name for folder in self._folders()) or "none"
            raise NotFound(f"round {id!r} does not exist in {self.folder}; there are: {known}") from None
        except ValidationError as error:
            raise UserError(f"{path}: unreadable: {error.errors()[0]['msg']}") from error

    def _write(self, record: RoundRecord) -> None:
        atomic_write(self.folder_of(record.id) / "round.json", record.model_dump_json(indent=1))

    def _shown(self, record: RoundRecord, champion: ServedRound | None) -> RoundRecord:
        served = {change.round for change in champion.history} if champion else set()
        gone = record.status == "running" and not record.is_alive
        status: Status = "interrupted" if gone else record.status
        return record.model_copy(update={"promoted": record.id in served, "status": status})

    def _folders(self) -> list[Path]:
        found = [path for path in (self.folder / "rounds").glob("r*") if re.fullmatch(r"r\d{4,}", path.name)]
        return sorted(found, key=lambda path: int(path.name[1:]))

    def _lock(self) -> FileLock:
        self.folder.mkdir(parents=True, exist_ok=True)
        return FileLock(str(self.folder / "ledger.lock"))
