"""Atomic writing of files, digests, and protection of files outside of a study."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from samstudent.errors import Conflict


@contextmanager
def atomic_path(path: Path, mode: int = 0o644) -> Iterator[Path]:
    """Temporary path beside ``path`` to write to; it replaces ``path`` in one step if the block ends without an error.

    ``mode``: the file's permissions; while it is written, only its owner may read it.

    The temporary name keeps the full suffix (``.seg.nrrd``), because writers choose the format by it.

    Raises:
        OSError: the file cannot be written; the error's ``filename`` is ``path``.
    """
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # A dot in front: folder watchers and the datastore's file patterns must not read it as a case.
        handle, name = tempfile.mkstemp(prefix=".tmp-", suffix="-" + path.name, dir=path.parent)
        os.close(handle)
        temporary = Path(name)
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        # mkstemp makes 0600; a study folder is read by other users of the machine.
        os.chmod(temporary, mode)
        os.replace(temporary, path)
    except OSError as error:
        # The error of a full disk has no file name, and a user does not know the temporary one.
        if error.filename is None or os.path.basename(os.fsdecode(error.filename)).startswith(".tmp-"):
            error.filename, error.filename2 = str(path), None
        raise
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def atomic_write(path: Path, content: bytes | str, mode: int = 0o644) -> None:
    """Write a file atomically: readers, also after a crash, find either the old or the new content."""
    with atomic_path(path, mode) as temporary:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)


def file_stamp(path: Path | None) -> tuple[int, int, int] | None:
    """Modification time, size and inode of a file, to detect its changes; None: it does not exist."""
    try:
        stat = path.stat() if path else None
    except FileNotFoundError:
        return None
    return (stat.st_mtime_ns, stat.st_size, stat.st_ino) if stat else None


def sha256_file(path: Path) -> str:
    """SHA-256 of a file's bytes, in hex."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def outside(path: Path, root: Path) -> Path | None:
    """Real place of a file or folder of a tree, if a link or a mount on its path leads out of the tree; else None.

    Files at such a place are read, but never written or removed. ``path`` itself may be a link, which can be replaced
    or removed without harm; it must not be a mount. ``root`` itself may be reached by links.
    """
    real_root, folder = root.resolve(), path.parent.resolve()
    if not folder.is_relative_to(real_root):
        return folder
    entry = folder / path.name
    mounts = _mounts()
    return next(
        (p for p in (entry, *entry.parents) if p.is_relative_to(real_root) and p != real_root and p in mounts), None
    )


def require_own(path: Path, study: Path) -> None:
    """Raises Conflict if a file of a study is outside of it, behind a link or a mount, where nothing is written or
    removed."""
    if where := outside(path, study):
        name, reason = os.path.relpath(path.parent, study), f"leads out of the study, to {where}"
        if where.is_relative_to(study.resolve()):
            name, reason = os.path.relpath(where, study.resolve()), "is a mount"
        raise Conflict(f"{name} {reason}: its files are read, but not written or removed; make {name} the study's own")


def _mounts() -> set[Path]:
    """Mount points; on Linux also bind mounts of the same file system, which os.path.ismount does not detect."""
    try:
        lines = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return set()
    points = (line.split(" ")[4] for line in lines)
    return {Path(re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), point)) for point in points}


def own_copy(path: Path) -> None:
    """Replace a file that is written in place by a copy, if it is a link or has further hard links (e.g. in a study
    copied by ``cp -al``). Without such a file nothing is done."""
    if path.is_file() and (path.is_symlink() or path.stat().st_nlink > 1):
        with atomic_path(path, path.stat().st_mode & 0o777) as temporary:
            shutil.copyfile(path, temporary)
