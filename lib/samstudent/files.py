"""Files that are never half-written, and their digests."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def atomic_path(path: Path, mode: int = 0o644) -> Iterator[Path]:
    """A temporary path beside ``path`` to write to; it becomes ``path`` in one step when the block ends without error.

    ``mode``: the file's permissions; while it is written, only its owner may read it.

    The temporary name keeps the full suffix (``.seg.nrrd``), because writers choose the format by it.

    Raises:
        OSError: it cannot be written; the error's ``filename`` is ``path``.
    """
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # A dot in front: folder watchers and the datastore's file patterns must not take it for a case.
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
        # A full disk names no file, and nobody knows the temporary one.
        if error.filename is None or os.path.basename(os.fsdecode(error.filename)).startswith(".tmp-"):
            error.filename, error.filename2 = str(path), None
        raise
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def atomic_write(path: Path, content: bytes | str, mode: int = 0o644) -> None:
    """Write a whole file so that a reader or a crash sees the old content or the new, nothing between."""
    with atomic_path(path, mode) as temporary:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)


def sha256_file(path: Path) -> str:
    """SHA-256 of a file's bytes, in hex."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
