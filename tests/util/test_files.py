"""Files of a study: files outside of it, and shared files."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

import pytest

from samstudent.errors import Conflict
from samstudent.util import files
from samstudent.util.audit_log import AuditLog
from samstudent.util.database import connection, make_tables
from samstudent.util.files import outside, own_copy, require_own


@pytest.fixture
def study(tmp_path: Path) -> Path:
    (tmp_path / "study" / "labels" / "final").mkdir(parents=True)
    (tmp_path / "elsewhere" / "final").mkdir(parents=True)
    return tmp_path / "study"


def test_link_in_the_path_is_outside(study: Path, tmp_path: Path) -> None:
    assert outside(study / "labels" / "final" / "a.png", study) is None
    (study / "a.png").symlink_to(tmp_path / "elsewhere")  # an entry that can be replaced
    assert outside(study / "a.png", study) is None
    (study / "images").symlink_to(tmp_path / "elsewhere")
    assert outside(study / "images" / "final" / "a.png", study) == tmp_path / "elsewhere" / "final"
    with pytest.raises(Conflict, match=r"^images leads out of the study, to "):
        require_own(study / "images" / "a.png", study)
    (study / "inside").symlink_to(study / "labels")
    assert outside(study / "inside" / "a.png", study) is None
    (tmp_path / "link").symlink_to(study)
    assert outside(tmp_path / "link" / "labels" / "a.png", tmp_path / "link") is None


def test_mount_in_the_path_is_outside(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = study / "labels" / "final" / "a.png"
    for mount in (study / "labels", study / "labels" / "final", file):
        monkeypatch.setattr(files, "_mounts", lambda mount=mount: {mount.resolve()})
        assert outside(file, study) == mount.resolve()
    for mount in (study, study.parent, Path("/"), study / "labels" / "other"):
        monkeypatch.setattr(files, "_mounts", lambda mount=mount: {mount.resolve()})
        assert outside(file, study) is None


def test_table_of_mounts_is_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Path("/") in files._mounts() or not Path("/proc/self/mountinfo").exists()
    line = "36 35 98:0 /mnt1 /mnt/with\\040space rw,noatime master:1 - ext3 /dev/root rw,errors=continue\n"
    monkeypatch.setattr(Path, "read_text", lambda self, **options: line)
    assert files._mounts() == {Path("/mnt/with space")}


@pytest.mark.parametrize("kind", ["hard", "symbolic"])
def test_hard_linked_file_is_copied_before_a_write_in_place(study: Path, tmp_path: Path, kind: str) -> None:
    """A study copied with ``cp -al`` shares its files with the original."""
    first, path = tmp_path / "elsewhere" / "state.sqlite", study / "state.sqlite"
    make_tables(first, "CREATE TABLE t (a)", "")
    audit = AuditLog(tmp_path / "elsewhere" / "audit.jsonl")
    audit.record("first", "anna")
    for name in ("state.sqlite", "audit.jsonl"):
        if kind == "hard":
            os.link(tmp_path / "elsewhere" / name, study / name)
        else:
            (study / name).symlink_to(tmp_path / "elsewhere" / name)
    before = first.read_bytes(), audit.path.read_bytes()
    make_tables(path, "CREATE TABLE IF NOT EXISTS t (a)", "")
    with connection(path) as database:
        database.execute("INSERT INTO t VALUES (1)")
    AuditLog(study / "audit.jsonl").record("second", "bob")
    assert (first.read_bytes(), audit.path.read_bytes()) == before
    with sqlite3.connect(path) as database:
        assert database.execute("SELECT a FROM t").fetchall() == [(1,)]
    assert len((study / "audit.jsonl").read_text().splitlines()) == 2


def test_own_file_is_not_copied(study: Path) -> None:
    file = study / "a.json"
    file.write_text("{}")
    file.chmod(0o640)
    before = file.stat().st_ino
    own_copy(file)
    assert file.stat().st_ino == before
    os.link(file, study / "b.json")
    own_copy(file)
    assert file.stat().st_ino != before and file.stat().st_mode & 0o777 == 0o640
    own_copy(study / "missing.json")
    assert not (study / "missing.json").exists()
