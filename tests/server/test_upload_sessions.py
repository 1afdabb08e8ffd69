"""Uploads: paths, limits, and expiry."""

from __future__ import annotations

import io
import os
import tarfile
import time
import uuid
import zipfile
from pathlib import Path

import pytest
from monailabel.utils.sessions import Sessions

from samstudent.errors import NotFound, UserError
from samstudent.server import upload_sessions as module
from samstudent.server.upload_sessions import SafeSessions, check_session_id, unpack


@pytest.fixture
def sessions(tmp_path: Path) -> SafeSessions:
    return SafeSessions(str(tmp_path / "store"))


@pytest.fixture
def film(tmp_path: Path) -> str:
    path = tmp_path / "film.png"
    path.write_bytes(b"film")
    return str(path)


def test_stored_file_is_found(sessions: SafeSessions, film: str, tmp_path: Path) -> None:
    name, info = sessions.add_session(film)
    assert Path(info.image).read_bytes() == b"film" and Path(info.image).is_relative_to(tmp_path / "store")
    again = SafeSessions(str(tmp_path / "store")).get_session(name)  # after a restart
    assert again is not None and again.image == info.image
    sessions.remove_session(name)
    assert sessions.get_session(name) is None and not Path(info.image).exists()


@pytest.mark.parametrize("name", ["..", "", "../x", "/tmp", "x", f"{{{uuid.UUID(int=7)}}}", "A" * 8, None])
def test_invalid_session_ids_are_not_found(sessions: SafeSessions, name: str) -> None:
    for call in (sessions.get_session, sessions.remove_session, check_session_id):
        with pytest.raises(NotFound, match="no such session"):
            call(name)


def test_ids_of_the_host_are_accepted(sessions: SafeSessions, film: str) -> None:
    name, _ = Sessions(sessions.store_path).add_session(film)
    assert sessions.get_session(name) is not None


def test_unreadable_session_is_none(sessions: SafeSessions, film: str) -> None:
    name, info = sessions.add_session(film)
    (Path(info.path) / "meta.info").write_text("{")
    assert SafeSessions(sessions.store_path).get_session(name) is None


def test_only_expired_sessions_are_removed(sessions: SafeSessions, film: str, tmp_path: Path) -> None:
    old, info = sessions.add_session(film)
    info.last_access_ts = int(time.time()) - info.expiry - 10
    sessions._write_meta_info(old, info)
    (tmp_path / "new.png").touch()
    new, _ = sessions.add_session(str(tmp_path / "new.png"))
    half, being_made, other = (Path(sessions.store_path) / str(name) for name in (uuid.uuid4(), uuid.uuid4(), "notes"))
    for folder in (half, being_made, other):
        folder.mkdir()
    os.utime(half, (1, 1))
    fresh = SafeSessions(sessions.store_path)
    assert fresh  # the host's is false while it is empty, and is then never cleaned up
    assert fresh.remove_expired() == 2
    assert {p.name for p in Path(sessions.store_path).iterdir()} == {new, being_made.name, "notes"}


def test_missing_folder_has_no_expired_sessions(sessions: SafeSessions) -> None:
    assert sessions.remove_expired() == 0


def test_e10_host_is_still_false_while_empty(tmp_path: Path) -> None:
    assert not Sessions(str(tmp_path)), "the host's empty sessions count as sessions: drop SafeSessions.__bool__"


def test_e10_host_still_fails_on_half_a_session(tmp_path: Path) -> None:
    (tmp_path / str(uuid.uuid4())).mkdir()
    with pytest.raises(AttributeError):
        Sessions(str(tmp_path)).remove_expired()


def tar(*members: tuple[tarfile.TarInfo, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as content:
        for member, data in members:
            member.size = len(data)
            content.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


def special(kind: bytes, name: str = "x", link: str = "/etc/passwd") -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, link
    return member


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE])
def test_only_files_and_folders_are_extracted(tmp_path: Path, kind: bytes) -> None:
    (tmp_path / "a.tar").write_bytes(tar((special(kind), b"")))
    (tmp_path / "out").mkdir()
    with pytest.raises(UserError, match="neither file nor folder"):
        unpack(tmp_path / "a.tar", tmp_path / "out")


def test_link_in_a_zip_is_refused(tmp_path: Path) -> None:
    link = zipfile.ZipInfo("x")
    link.external_attr = 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as content:
        content.writestr(link, "/etc/passwd")
    with pytest.raises(UserError, match="neither file nor folder"):
        unpack(tmp_path / "a.zip", tmp_path)


def test_extracted_size_is_limited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_UNPACKED_BYTES", 100)
    monkeypatch.setattr(module, "MAX_UNPACKED_FILES", 3)
    for count, size in ((1, 101), (4, 1)):
        with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as content:
            for i in range(count):
                content.writestr(f"f{i}", b"0" * size)
        (tmp_path / "a.tar").write_bytes(tar(*((tarfile.TarInfo(f"f{i}"), b"0" * size) for i in range(count))))
        for name in ("a.zip", "a.tar"):
            (tmp_path / f"{name}-{count}").mkdir()
            with pytest.raises(UserError, match="more than 3 files or 100 bytes"):
                unpack(tmp_path / name, tmp_path / f"{name}-{count}")


def test_zip_with_a_false_size_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as content:
        content.writestr("x", b"0" * 100_000)
    data = bytearray((tmp_path / "a.zip").read_bytes())
    entry = data.index(b"PK\x01\x02")
    data[entry + 24 : entry + 28] = (10).to_bytes(4, "little")  # uncompressed size in the directory
    (tmp_path / "a.zip").write_bytes(data)
    (tmp_path / "out").mkdir()
    with pytest.raises(UserError):
        unpack(tmp_path / "a.zip", tmp_path / "out")
    assert sum(p.stat().st_size for p in (tmp_path / "out").iterdir()) <= 10


@pytest.mark.parametrize("content", [b"", b"film", b"PK\x05\x06" + b"\0" * 3])
def test_file_that_is_not_an_archive_is_named(sessions: SafeSessions, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.zip").write_bytes(content)
    with pytest.raises(UserError, match=r"x\.zip"):
        sessions.add_session(str(tmp_path / "x.zip"), uncompress=True)
    assert not Path(sessions.store_path).exists()
