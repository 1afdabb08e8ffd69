"""Unusable places: reported in one line with a remedy, before work begins."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from samstudent.errors import Conflict, Unusable, UserError, explain, status_of
from samstudent.imaging.case import read_image
from samstudent.util.database import connection, make_tables
from samstudent.util.files import atomic_write
from samstudent.util.places import (
    require_free,
    require_new,
    require_readable,
    require_temporary_folder,
    require_writable,
)
from support.small_disk import small_disk

NOBODY = 65534
SCHEMA = "CREATE TABLE IF NOT EXISTS t (x TEXT)"


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[Path]:
    """A separate disk of 64 KiB."""
    with small_disk(tmp_path / "disk", "64k") as disk:
        yield disk


@pytest.fixture
def read_only(mounted: Path) -> Path:
    make_tables(mounted / "there.sqlite", SCHEMA, "")
    subprocess.run(["mount", "-o", "remount,ro", mounted], check=True)
    return mounted


@pytest.fixture
def full(mounted: Path) -> Path:
    make_tables(mounted / "there.sqlite", SCHEMA, "")
    with contextlib.suppress(OSError), (mounted / "filler").open("wb", buffering=0) as file:
        while True:
            file.write(bytes(512))
    return mounted


@contextlib.contextmanager
def as_nobody() -> Iterator[None]:
    """Run without root, which ignores permissions."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


def test_each_error_names_the_place_and_a_remedy() -> None:
    for number, reported, status in (
        (errno.ENOSPC, "make room there", 507),
        (errno.EDQUOT, "make room there", 507),
        (errno.EROFS, "mount it writable", 503),
        (errno.EACCES, "the permission (chmod, chown)", 503),
        (errno.ELOOP, "a symbolic link leads back to itself", 503),
        (errno.EMFILE, "ulimit -n", 503),
        (errno.EIO, "have it checked", 503),
    ):
        error = OSError(number, os.strerror(number), "/study/x.png")
        assert explain(error).startswith(f"/study/x.png: {os.strerror(number)}; ") and reported in explain(error)
        assert "\n" not in explain(error) and status_of(error) == status
    assert explain(OSError(errno.EXDEV, "Invalid cross-device link")) == "Invalid cross-device link"
    assert explain(OSError("odd")) == "odd" and status_of(OSError("odd")) == 500
    assert explain(UserError("as it is")) == "as it is"
    assert "/there: No space" in explain(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), "/there")


def test_read_only_disk_is_reported(read_only: Path) -> None:
    for call in (
        lambda: require_writable(read_only / "study", "labels are kept"),
        lambda: require_writable(read_only, "labels are kept"),
    ):
        with pytest.raises(
            Unusable, match=r"disk.*Read-only file system; mount it.*In this folder labels are"
        ) as error:
            call()
        assert error.value.status == 503
    with pytest.raises(OSError, match="Read-only") as written:
        atomic_write(read_only / "x.json", "{}")
    assert written.value.filename == str(read_only / "x.json")
    with (
        pytest.raises(OSError, match=r"Read-only file system.*there\.sqlite"),
        connection(read_only / "there.sqlite") as database,
    ):
        database.execute("INSERT INTO t VALUES (1)")


def test_full_disk_is_reported(full: Path) -> None:
    with pytest.raises(Unusable, match="No space left on device; make room there") as error:
        require_writable(full, "labels are kept")
    assert error.value.status == 507
    # A full disk names no file by itself.
    with pytest.raises(OSError, match="No space") as written:
        atomic_write(full / "x.json", "x" * 10_000)
    assert written.value.filename == str(full / "x.json") and not list(full.glob(".tmp-*"))
    with (
        pytest.raises(OSError, match=r"No space left on device.*there\.sqlite"),
        connection(full / "there.sqlite") as database,
    ):
        database.executemany("INSERT INTO t VALUES (?)", [["x" * 1000]] * 50)


def test_folders_and_files_of_other_users_are_reported(tmp_path: Path) -> None:
    image, folder = tmp_path / "x.png", tmp_path / "own"
    image.write_bytes(b"\x89PNG")
    make_tables(folder / "there.sqlite", SCHEMA, "")
    for above in (*tmp_path.parents[:-2], tmp_path):
        with contextlib.suppress(OSError):
            above.chmod(0o755)
    image.chmod(0o000)
    folder.chmod(0o555)
    (folder / "there.sqlite").chmod(0o444)
    with as_nobody():
        for call in (
            lambda: require_readable(image),
            lambda: read_image(image),
            lambda: require_writable(folder, "x"),
            lambda: require_writable(folder / "new", "x"),
        ):
            with pytest.raises(Unusable, match=r"Permission denied; give user \w+ the permission") as error:
                call()
            assert error.value.status == 503
        with pytest.raises(PermissionError, match=r"there\.sqlite"), connection(folder / "there.sqlite") as database:
            database.execute("INSERT INTO t VALUES (1)")
        with pytest.raises(PermissionError, match=r"own/new\.sqlite"):
            make_tables(folder / "new.sqlite", SCHEMA, "rename it")
    folder.chmod(0o755)


def test_broken_links_are_reported(tmp_path: Path) -> None:
    (tmp_path / "a.png").symlink_to("a.png")
    with pytest.raises(Unusable, match=r"a\.png: Too many levels of symbolic links; a symbolic link leads back"):
        require_readable(tmp_path / "a.png")
    with pytest.raises(Unusable, match="symbolic link leads back"):
        read_image(tmp_path / "a.png")
    require_readable(tmp_path / "missing.png")  # others say more about that


def test_damaged_database_message_does_not_suggest_removal(tmp_path: Path) -> None:
    (tmp_path / "d.sqlite").write_text("no database, but long enough to look like one. " * 100)
    with pytest.raises(UserError, match=r"d\.sqlite: file is not a database; restore it"):
        make_tables(tmp_path / "d.sqlite", SCHEMA, "restore it")


def test_locked_database_is_not_reported_as_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sqlite3

    path = tmp_path / "d.sqlite"
    make_tables(path, SCHEMA, "")
    connect = sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", lambda file, timeout: connect(file, timeout=0.1))
    holder = connect(path, isolation_level=None)
    holder.execute("BEGIN EXCLUSIVE")
    with pytest.raises(OSError, match=r"d\.sqlite") as error, connection(path) as database:
        database.execute("INSERT INTO t VALUES (1)")
    assert "another program holds it" in explain(error.value)
    holder.close()


def test_no_message_suggests_to_delete_state() -> None:
    import samstudent

    for file in Path(samstudent.__file__).parent.rglob("*.py"):
        text = file.read_text().lower()
        for words in ("unreadable; remove it", "; remove it:", "or remove it:", "remove it and", "delete it and"):
            assert words not in text, f"{file}: {words}"


def test_used_and_forbidden_ports_are_reported() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        taken.listen()
        with pytest.raises(Conflict, match=f"port {port} of 127.0.0.1 is in use.*--port"):
            require_free("127.0.0.1", port)
        with pytest.raises(Conflict, match="in use"):
            require_free("localhost", port)
    require_free("127.0.0.1", port)
    require_free("0.0.0.0", port)
    with pytest.raises(UserError, match="no such address"):
        require_free("192.0.2.7", port)
    with pytest.raises(UserError, match=r"--host no\.such\.host"):
        require_free("no.such.host.invalid", port)


def test_missing_temporary_folder_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    import tempfile

    def none() -> str:
        raise FileNotFoundError(errno.ENOENT, "No usable temporary directory found in ['/tmp']")

    monkeypatch.setattr(tempfile, "gettempdir", none)
    with pytest.raises(UserError, match=r"TMPDIR.*\['/tmp'\]"):
        require_temporary_folder()


@pytest.mark.parametrize("words", [["serve", "--port", "0"], ["train"], ["pseudo-label"]])
def test_commands_report_errors_in_one_line(read_only: Path, tmp_path: Path, words: list[str]) -> None:
    words = [word if word != "0" else str(free_port()) for word in words]
    command = [sys.executable, "-m", "samstudent.cli.main", *words, "-s", str(read_only), "-t", "phantom"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 2 and done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"samstudent: {read_only}: Read-only file system; ") and "labels, students" in line


def test_port_in_use_is_the_last_line(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        command = [
            sys.executable,
            "-m",
            "samstudent.cli.main",
            "serve",
            "-s",
            str(tmp_path),
            "-t",
            "phantom",
            "--port",
            port,
        ]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 2 and done.stderr.splitlines() == [
        f"samstudent: port {port} of 127.0.0.1 is in use: another program, perhaps another samstudent server, listens"
        " there. Stop it, or choose another with --port"
    ]
    assert not list(tmp_path.iterdir())


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_folder_of_results_is_new_or_empty(tmp_path: Path) -> None:
    require_new(tmp_path / "new", False)
    require_new(tmp_path, False)
    (tmp_path / "masks.png").touch()
    with pytest.raises(Conflict, match="not empty; choose another folder, or replace files by --overwrite"):
        require_new(tmp_path, False)
    require_new(tmp_path, True)
    for check in (lambda path: require_new(path, True), lambda path: require_writable(path, "masks are written")):
        with pytest.raises(Conflict, match=r"masks\.png: is a file; expected a folder"):
            check(tmp_path / "masks.png")
