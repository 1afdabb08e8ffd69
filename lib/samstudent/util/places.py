"""Checks of folders and network addresses at the start of a command, before imports that take seconds."""

from __future__ import annotations

import errno
import os
import socket
import stat
import sys
import tempfile
from pathlib import Path

from samstudent.errors import Conflict, Unusable, UserError

#: One block: an empty file fits on a full disk.
_PROBE = bytes(4096)


def require_writable(folder: Path, purpose: str) -> None:
    """Create the folder and write a temporary file into it.

    Args:
        folder: created if missing.
        purpose: use of the folder for the error, after "In this folder".

    Raises:
        Conflict: it is a file.
        Unusable: it cannot be written; with reason and remedy.
    """
    _require_no_file(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(_PROBE)
            file.flush()
    except OSError as error:
        error.filename = error.filename2 = None  # of the temporary file
        raise Unusable(error, folder, f"In this folder {purpose}") from error


def require_new(output: Path, overwrite: bool) -> None:
    """Check the folder of results, which need not exist.

    Raises:
        Conflict: it is a file, or it is not empty and ``overwrite`` is False.
    """
    _require_no_file(output)
    if not overwrite and output.is_dir() and any(output.iterdir()):
        raise Conflict(f"{output}: exists and is not empty; choose another folder, or replace files by --overwrite")


def require_readable(path: Path) -> None:
    """Raises Unusable if a file exists and cannot be opened. A missing file is reported by its reader."""
    try:
        if stat.S_ISREG(path.stat().st_mode):
            path.open("rb").close()
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        raise Unusable(error, path) from error


def require_study_writable(studies: Path, app_dir: Path) -> None:
    """Raises Unusable if a server, or a round, cannot write into a study folder."""
    purpose = "a study's labels, students and list of cases are kept"
    state = studies / ".samstudent"
    for folder in (studies, studies / "labels", studies / "labels" / "final", state, *_subfolders(state), app_dir):
        if folder.exists() or folder in (state, app_dir):
            require_writable(folder, purpose)


def require_temporary_folder() -> None:
    """Raises UserError if no temporary file can be written; uploads and responses need such files."""
    try:
        tempfile.gettempdir()
    except FileNotFoundError as error:
        raise UserError(f"no folder for temporary files can be written; set one in TMPDIR: {error.strerror}") from error


def require_free(host: str, port: int) -> None:
    """Listen on an address for a moment, as the server will.

    Raises:
        Conflict: another program listens there.
        UserError: this machine has no such address, or the port is reserved for administrators.
    """
    try:
        addresses = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except socket.gaierror as error:
        raise UserError(
            f"--host {host}: {error.strerror}; use an address of this machine, or 0.0.0.0 for all"
        ) from error
    for family, kind, protocol, _, address in addresses:
        try:
            with socket.socket(family, kind, protocol) as probe:
                if os.name == "posix" and sys.platform != "cygwin":
                    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as asyncio does
                if family == getattr(socket, "AF_INET6", None):
                    probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                probe.bind(address)
                probe.listen(1)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise Conflict(
                    f"port {port} of {host} is in use: another program, perhaps another samstudent server, listens"
                    " there. Stop it, or choose another with --port"
                ) from error
            if error.errno == errno.EACCES:
                raise UserError(
                    f"port {port} is reserved for administrators; choose one from 1024 on with --port"
                ) from error
            if error.errno == errno.EADDRNOTAVAIL:
                raise UserError(
                    f"--host {host}: this machine has no such address; 0.0.0.0 is all of its addresses"
                ) from error
            if error.errno != errno.EAFNOSUPPORT:  # a machine without IPv6; asyncio skips it, too
                raise


def _require_no_file(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise Conflict(f"{folder}: is a file; expected a folder")


def _subfolders(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if path.is_dir())
    except OSError:
        return []
