"""Uploads for inference (``/session``), with limits on size and safe extraction of archives."""

from __future__ import annotations

import bz2
import gzip
import logging
import os
import shutil
import stat
import sys
import tarfile
import tempfile
import time
import uuid
import zipfile
import zlib
from pathlib import Path
from typing import IO, Any

from monailabel.config import settings
from monailabel.utils.sessions import SessionInfo, Sessions

from samstudent.errors import NotFound, Unusable, UserError, status_of
from samstudent.util.places import require_writable

logger = logging.getLogger(__name__)

#: Largest extracted size of an archive, bytes; a CT series has about 0.5 GB.
MAX_UNPACKED_BYTES = 4 << 30
MAX_UNPACKED_FILES = 20_000
#: Largest single read of a tar file, bytes: tarfile reads names and comments of any announced length at once.
MAX_TAR_READ = 1 << 20
#: Accepted compression methods; not LZMA, whose memory use is set by the archive.
ZIP_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2)


class SafeSessions(Sessions):  # type: ignore[misc]
    """The host's sessions with validation of ids, safe extraction of archives, and removal of expired uploads."""

    def __bool__(self) -> bool:
        """True: the host's class is false while it is empty, and its clean-up then removes nothing."""
        return True

    def get_session(self, session_id: str, update_ts: bool = True, fetch_cache: bool = True) -> SessionInfo | None:
        """Session of an id; None if there is none, or if it has expired.

        Raises:
            NotFound: invalid id, which could be the name of another folder.
        """
        check_session_id(session_id)
        try:
            info = super().get_session(session_id, False, fetch_cache)
            if info is not None and has_expired(info):
                self.remove_session(session_id)
                return None
            return super().get_session(session_id, update_ts, fetch_cache) if update_ts else info
        except (ValueError, OSError) as error:
            logger.warning("session %s is unreadable: %s", session_id, error)
            return None

    def set_user(self, session_id: str, user: str) -> None:
        """Record the user of an upload."""
        info = self.get_session(session_id)
        if info is not None:
            info.meta = {**info.meta, "user": user}
            self._write_meta_info(session_id, info)

    def remove_session(self, session_id: str) -> None:
        super().remove_session(check_session_id(session_id))

    def remove_expired(self) -> int:
        """Remove expired and incomplete sessions; returns their number."""
        removed = 0
        for folder in Path(self.store_path).iterdir() if Path(self.store_path).is_dir() else ():
            try:
                check_session_id(folder.name)
            except NotFound:
                continue  # not a session
            if not (folder / "meta.info").exists():
                # Interrupted by a crash, or being created at the moment; the host's clean-up raises an error here.
                if time.time() - folder.stat().st_mtime > self.expiry:
                    self.remove_session(folder.name)
                    removed += 1
                continue
            info = self.get_session(folder.name, update_ts=False, fetch_cache=False)
            if info is None:
                self.remove_session(folder.name)
                removed += 1
        return removed

    def clean_up(self) -> None:
        """``remove_expired`` for a timer; raises nothing."""
        try:
            self.remove_expired()
        except Exception:
            logger.exception("expired uploads could not be removed; the next attempt is in some minutes")

    def add_session(
        self, data_file: str, expiry: int = 0, uncompress: bool = False, session_id: str | None = None
    ) -> tuple[str, SessionInfo]:
        """Store an uploaded file or folder.

        Args:
            data_file: path of the upload.
            expiry: seconds without use until removal; 0: the server's maximum.
            uncompress: whether it is an archive to be extracted.
            session_id: a UUID; None: a new one.

        Raises:
            UserError: not an archive; an archive that is too large, or has members other than files and folders below
                its root; an invalid ``expiry``.
        """
        self.check_expiry(expiry)
        session_id = check_session_id(session_id) if session_id else str(uuid.uuid4())
        if not uncompress or os.path.isdir(data_file):
            return self._add(data_file, expiry, session_id)
        with tempfile.TemporaryDirectory() as folder:
            unpacked = Path(folder) / "files"
            unpacked.mkdir()
            unpack(Path(data_file), unpacked)
            return self._add(str(unpacked), expiry, session_id)

    def check_expiry(self, seconds: int) -> None:
        """Validate the time until removal; raises UserError."""
        if not 0 <= seconds <= self.expiry:
            allowed = (
                f"must be 1 to {self.expiry} seconds (MONAI_LABEL_SESSION_EXPIRY of the server), or 0 for the maximum"
            )
            raise UserError(f"expiry={seconds}: {allowed}")

    def _add(self, data_file: str, expiry: int, session_id: str) -> tuple[str, SessionInfo]:
        result: tuple[str, SessionInfo] = super().add_session(data_file, expiry, False, session_id)
        return result


def open_sessions() -> SafeSessions:
    """Sessions of this server, with path and expiry of the host's settings; warns if the path is not writable."""
    sessions = SafeSessions(settings.MONAI_LABEL_SESSION_PATH, settings.MONAI_LABEL_SESSION_EXPIRY)
    try:
        require_writable(Path(sessions.store_path), "uploads (PUT /session) are stored")
    except Unusable as error:
        text = f"uploads will be refused: {error}; set MONAI_LABEL_SESSION_PATH to another folder"
        print(f"samstudent: WARNING: {text}", file=sys.stderr, flush=True)
    return sessions


def has_expired(info: SessionInfo) -> bool:
    """Whether a session was not used for longer than its expiry."""
    return 0 < info.expiry < time.time() - info.last_access_ts


def check_session_id(value: str) -> str:
    """Validated session id: a UUID in the form that the host writes."""
    try:
        if str(uuid.UUID(value)) == value:
            return value
    except (ValueError, AttributeError, TypeError):
        pass
    raise NotFound(f"session {value!r}: no such session; ids are UUIDs, as returned by PUT /session/")


def unpack(archive: Path, folder: Path) -> None:
    """Extract a zip or tar file: regular files and folders only, inside of ``folder``, within the limits above."""
    try:
        if zipfile.is_zipfile(archive):
            _unpack_zip(archive, folder)
        else:
            _unpack_tar(archive, folder)
    except tarfile.ReadError as error:
        raise UserError(f"{archive.name}: uncompress=true needs a zip, tar, tar.gz or tar.bz2: {error}") from error
    except OSError as error:
        if status_of(error) != 500:
            raise  # a full disk, for instance
        raise UserError(f"{archive.name}: cannot be extracted: {error}") from error
    except (
        *(zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError),
        *(RuntimeError, NotImplementedError, ValueError, OverflowError),
    ) as error:
        raise UserError(f"{archive.name}: cannot be extracted: {error}") from error


def _unpack_zip(archive: Path, folder: Path) -> None:
    with zipfile.ZipFile(archive) as content:
        members = content.infolist()
        _check_bounds(len(members), sum(m.file_size for m in members))
        for member in members:
            kind = stat.S_IFMT(member.external_attr >> 16)
            if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise UserError(f"{archive.name}: {member.filename!r} is neither file nor folder")
            if member.compress_type not in ZIP_METHODS:
                raise UserError(
                    f"{archive.name}: {member.filename!r} has an unsupported compression method; use deflate"
                )
            target = _inside(folder, member.filename)
            if member.is_dir():
                target.mkdir(parents=True, exist_ok=True)
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            with content.open(member) as source, target.open("xb") as file:
                shutil.copyfileobj(source, file)  # zipfile reads no more than the declared size


class _BoundedReads:
    """File with reads of at most ``MAX_TAR_READ`` bytes."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= MAX_TAR_READ:
            raise tarfile.TarError(f"name or comment of a member has {size} bytes; at most {MAX_TAR_READ} are allowed")
        return self._file.read(size)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


def _unpack_tar(archive: Path, folder: Path) -> None:
    with archive.open("rb") as file:
        head = file.read(3)
    opener: Any = gzip.open if head.startswith(b"\x1f\x8b") else bz2.open if head == b"BZh" else open
    with opener(archive, "rb") as plain, tarfile.open(fileobj=_BoundedReads(plain), mode="r:") as content:  # type: ignore[call-overload]
        total = 0
        for count, member in enumerate(content, 1):  # one at a time: extraction of an archive bomb stops early
            if not (member.isfile() or member.isdir()):
                raise UserError(f"{archive.name}: {member.name!r} is neither file nor folder")
            total += member.size
            _check_bounds(count, total)
            target = _inside(folder, member.name)
            if member.isdir():
                target.mkdir(parents=True, exist_ok=True)
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            source = content.extractfile(member)
            if source is not None:
                with source, target.open("xb") as file:
                    shutil.copyfileobj(source, file)


def _inside(folder: Path, name: str) -> Path:
    """Path of an extracted member; raises UserError if it is outside of the folder."""
    target = (folder / name).resolve()
    if not target.is_relative_to(folder.resolve()) or "\\" in name:
        raise UserError(f"archive member {name!r} points outside of the archive")
    return target


def _check_bounds(files: int, size: int) -> None:
    if files > MAX_UNPACKED_FILES or size > MAX_UNPACKED_BYTES:
        raise UserError(f"archive: unpacks to more than {MAX_UNPACKED_FILES} files or {MAX_UNPACKED_BYTES} bytes")
