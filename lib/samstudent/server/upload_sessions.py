"""Uploads for one inference (``/session``), kept inside their folder and inside bounds."""

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

#: An archive may unpack to this much; a CT series is some 0.5 GB.
MAX_UNPACKED_BYTES = 4 << 30
MAX_UNPACKED_FILES = 20_000
#: Names and comments of a tar file's member are read whole, whatever length they announce.
MAX_TAR_READ = 1 << 20
#: LZMA lets an archive choose how much memory its reader takes.
ZIP_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2)


class SafeSessions(Sessions):  # type: ignore[misc]
    """The host's sessions with ids checked, archives unpacked safely, and expired uploads really removed."""

    def __bool__(self) -> bool:
        """True: as a dict, the host's is false while empty, and its clean-up then removes nothing."""
        return True

    def get_session(self, session_id: str, update_ts: bool = True, fetch_cache: bool = True) -> SessionInfo | None:
        """The session; None where there is none, or it has expired: the clean-up comes only every five minutes.

        Raises:
            NotFound: the id is not of the form that sessions have, so it could name another folder.
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

    def belongs_to(self, session_id: str, user: str) -> None:
        """Note whose upload it is."""
        info = self.get_session(session_id)
        if info is not None:
            info.meta = {**info.meta, "user": user}
            self._write_meta_info(session_id, info)

    def remove_session(self, session_id: str) -> None:
        super().remove_session(check_session_id(session_id))

    def remove_expired(self) -> int:
        """Remove what has expired or is no session any more; how many were removed."""
        removed = 0
        for folder in Path(self.store_path).iterdir() if Path(self.store_path).is_dir() else ():
            try:
                check_session_id(folder.name)
            except NotFound:
                continue  # not ours
            if not (folder / "meta.info").exists():
                # Broken off by a crash, or being made right now; the host fails on it.
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
        """``remove_expired`` for a timer: raises nothing."""
        try:
            self.remove_expired()
        except Exception:
            logger.exception("cleaning up uploads failed; the next try is in some minutes")

    def add_session(
        self, data_file: str, expiry: int = 0, uncompress: bool = False, session_id: str | None = None
    ) -> tuple[str, SessionInfo]:
        """Keep an uploaded file or folder for a while; an archive is unpacked where ``uncompress`` asks for it.

        Args:
            data_file: the upload.
            expiry: after so many seconds without a use it is removed; 0: after the server's longest time.
            uncompress: whether it is an archive.
            session_id: a UUID; None: a new one.

        Raises:
            UserError: the archive is none, holds anything but files and folders below its own root, or is too large;
                ``expiry`` is negative, or longer than the server keeps anything.
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
        """Raises UserError where an upload cannot be kept for so long."""
        if not 0 <= seconds <= self.expiry:
            allowed = (
                f"seconds from 1 to {self.expiry} (MONAI_LABEL_SESSION_EXPIRY of the server), or 0 for the longest"
            )
            raise UserError(f"expiry={seconds}: {allowed}")

    def _add(self, data_file: str, expiry: int, session_id: str) -> tuple[str, SessionInfo]:
        result: tuple[str, SessionInfo] = super().add_session(data_file, expiry, False, session_id)
        return result


def open_sessions() -> SafeSessions:
    """Uploads of this server, where and for how long the host's settings say; warns where none could be kept."""
    sessions = SafeSessions(settings.MONAI_LABEL_SESSION_PATH, settings.MONAI_LABEL_SESSION_EXPIRY)
    try:
        require_writable(Path(sessions.store_path), "uploads (PUT /session) are kept")
    except Unusable as error:
        text = f"uploads will be refused: {error}; MONAI_LABEL_SESSION_PATH names another one"
        print(f"samstudent: WARNING: {text}", file=sys.stderr, flush=True)
    return sessions


def has_expired(info: SessionInfo) -> bool:
    return 0 < info.expiry < time.time() - info.last_access_ts


def check_session_id(value: str) -> str:
    """The id as given, if it is a UUID as the host writes one."""
    try:
        if str(uuid.UUID(value)) == value:
            return value
    except (ValueError, AttributeError, TypeError):
        pass
    raise NotFound(f"session {value!r}: no such session; ids are UUIDs, as PUT /session/ gives them")


def unpack(archive: Path, folder: Path) -> None:
    """Unpack a zip or tar file: regular files and folders only, inside of ``folder``, within the bounds above."""
    try:
        if zipfile.is_zipfile(archive):
            _unpack_zip(archive, folder)
        else:
            _unpack_tar(archive, folder)
    except tarfile.ReadError as error:
        raise UserError(f"{archive.name}: uncompress=true needs a zip, tar, tar.gz or tar.bz2: {error}") from error
    except OSError as error:
        if status_of(error) != 500:
            raise  # the disk is full, for instance
        raise UserError(f"{archive.name}: cannot be unpacked: {error}") from error
    except (
        *(zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError),
        *(RuntimeError, NotImplementedError, ValueError, OverflowError),
    ) as error:
        raise UserError(f"{archive.name}: cannot be unpacked: {error}") from error


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
                    f"{archive.name}: {member.filename!r} is packed by a method that is not taken; use deflate"
                )
            target = _inside(folder, member.filename)
            if member.is_dir():
                target.mkdir(parents=True, exist_ok=True)
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            with content.open(member) as source, target.open("xb") as file:
                shutil.copyfileobj(source, file)  # zipfile stops at the size that was checked


class _InPieces:
    """A file that refuses to be read in pieces larger than ``MAX_TAR_READ``."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= MAX_TAR_READ:
            raise tarfile.TarError(f"a member's name or comment of {size} bytes; at most {MAX_TAR_READ} are read")
        return self._file.read(size)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


def _unpack_tar(archive: Path, folder: Path) -> None:
    with archive.open("rb") as file:
        head = file.read(3)
    opener: Any = gzip.open if head.startswith(b"\x1f\x8b") else bz2.open if head == b"BZh" else open
    with opener(archive, "rb") as plain, tarfile.open(fileobj=_InPieces(plain), mode="r:") as content:  # type: ignore[call-overload]
        total = 0
        for count, member in enumerate(content, 1):  # one at a time: a packed bomb is left before it is read to its end
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
    """Where a member goes."""
    target = (folder / name).resolve()
    if not target.is_relative_to(folder.resolve()) or "\\" in name:
        raise UserError(f"archive member {name!r} points outside of the archive")
    return target


def _check_bounds(files: int, size: int) -> None:
    if files > MAX_UNPACKED_FILES or size > MAX_UNPACKED_BYTES:
        raise UserError(f"archive: unpacks to more than {MAX_UNPACKED_FILES} files or {MAX_UNPACKED_BYTES} bytes")
