"""Errors that users can correct. The command line prints them, the server responds with a status 4xx or 5xx.

Each message contains the wrong file, key or value and the valid ones.
"""

from __future__ import annotations

import errno
import getpass
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

#: Error numbers of a full disk.
NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
#: Remedy for an error of the operating system.
_REMEDIES = {
    **dict.fromkeys(NO_ROOM, "make room there and try again; earlier files are complete"),
    errno.EROFS: "mount it writable, or copy the folder to a place that can be written",
    **dict.fromkeys((errno.EACCES, errno.EPERM), "give user {user} the permission (chmod, chown)"),
    errno.ELOOP: "a symbolic link leads back to itself; let it point to the file that is meant",
    **dict.fromkeys((errno.EMFILE, errno.ENFILE), "allow more open files (ulimit -n) and start again"),
    errno.EIO: "the disk or the network drive does not work; have it checked",
    errno.EBUSY: "another program holds it; try again when that has ended",
    errno.ESTALE: "the network drive was away; mount it again",
}


class UserError(ValueError):
    """Wrong input of a user (HTTP 400)."""

    status = 400


class NotFound(UserError):
    """A case, label, model, round or file that does not exist (HTTP 404)."""

    status = 404


class Conflict(UserError):
    """Valid, but not possible now: a job is running, there is nothing to train on (HTTP 409)."""

    status = 409


class Unavailable(UserError):
    """Another server (the PACS) does not respond, or its response cannot be used (HTTP 503).

    The request was not carried out and may be repeated later.
    """

    status = 503


class Unusable(UserError):
    """A file or folder that cannot be used: no permission, a read-only or full disk, a link loop (HTTP 503 or 507).

    Args:
        error: the system's.
        place: the file or folder.
        note: a further sentence.
    """

    def __init__(self, error: OSError, place: str | os.PathLike[str] | None = None, note: str = "") -> None:
        super().__init__(explain(error, place) + (f". {note}" if note else ""))
        self.status = max(status_of(error), 503)


@contextmanager
def named(path: Path, name: str) -> Iterator[None]:
    """Errors of the block contain ``name`` instead of ``path``, for uploads, whose path is the server's own."""
    try:
        yield
    except UserError as error:
        put_name(error, path, name)
        raise


def put_name(error: UserError, path: Path, name: str) -> None:
    """Replace ``path`` by ``name`` in an error's message."""
    both = "|".join(re.escape(text) for text in (str(path), path.name))
    error.args = (re.sub(both, lambda found: name, str(error)), *error.args[1:])


def explain(error: UserError | OSError, place: str | os.PathLike[str] | None = None) -> str:
    """Message of an error in one line: file, fault, remedy.

    Args:
        error: of the operating system, or a ``UserError``, whose message is returned.
        place: file, for errors without one.
    """
    if isinstance(error, UserError):
        return str(error)
    place = error.filename2 or error.filename or place
    if error.errno is None or error.strerror is None:
        return str(error) or type(error).__name__
    message = error.strerror if place is None or isinstance(place, int) else f"{os.fsdecode(place)}: {error.strerror}"
    remedy = _REMEDIES.get(error.errno)
    return message if remedy is None else f"{message}; {remedy.format(user=_user())}"


def status_of(error: OSError) -> int:
    """HTTP status of an error of the operating system: 507 for a full disk; 503 for a place that cannot be used now;
    else 500."""
    if error.errno in NO_ROOM:
        return 507
    return 503 if error.errno in _REMEDIES else 500


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a number without a name, as in a container
        return str(os.getuid())
