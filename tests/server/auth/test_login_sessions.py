"""Login sessions: renewed while they are used, for a day at most, and invalid after their end."""

from __future__ import annotations

import sqlite3
import time
from pathlib import Path

import pytest

from samstudent.errors import UserError
from samstudent.server.auth import login_sessions
from samstudent.server.auth.login_sessions import LONGEST_SESSION, InvalidToken, LoginSessions, is_ours


@pytest.fixture
def sessions(tmp_path: Path) -> LoginSessions:
    return LoginSessions(tmp_path / "sessions", life=100)


def test_token_identifies_its_session(sessions: LoginSessions) -> None:
    token, session = sessions.open("anna", ("annotator",), "openid", email="a@b.c", full_name="Anna", version=3.5)
    assert sessions.read(token) == session
    assert (session.name, session.roles, session.email, session.version) == ("anna", ("annotator",), "a@b.c", 3.5)
    assert is_ours(token) and not is_ours("a.b.c")
    for other in ("", "nonsense", token[:-1], f"{token}x", "samstudent.\ud800"):
        with pytest.raises(InvalidToken):
            sessions.read(other)


def test_sessions_survive_a_restart_in_a_private_file(sessions: LoginSessions, tmp_path: Path) -> None:
    token, session = sessions.open("anna", ("annotator",), "users")
    sessions.path.chmod(0o644)
    assert LoginSessions(sessions.path).read(token) == session
    for file in tmp_path.iterdir():
        assert file.stat().st_mode & 0o077 == 0, file
        assert token.encode() not in file.read_bytes()  # only its digest
    with pytest.raises(InvalidToken):
        LoginSessions(tmp_path / "another").read(token)


def test_session_is_renewed_for_at_most_a_day(sessions: LoginSessions, monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.time()
    token, session = sessions.open("anna", (), "users")
    assert sessions.renew(session) is None  # fresh
    monkeypatch.setattr(login_sessions.time, "time", lambda: now + 60)
    assert sessions.renew(session) == 100
    assert sessions.read(token).expires == now + 160
    monkeypatch.setattr(login_sessions.time, "time", lambda: now + LONGEST_SESSION + 1)
    assert sessions.renew(session) is None
    with pytest.raises(InvalidToken, match="expired"):
        sessions.read(token)


def test_ended_and_expired_sessions_are_deleted(sessions: LoginSessions, monkeypatch: pytest.MonkeyPatch) -> None:
    first, session = sessions.open("anna", (), "users")
    second, _ = sessions.open("anna", (), "users")
    sessions.end(session.id)
    with pytest.raises(InvalidToken, match="logged out"):
        sessions.read(first)
    assert sessions.read(second).name == "anna"
    later = time.time() + 200
    monkeypatch.setattr(login_sessions.time, "time", lambda: later)
    sessions.open("rita", (), "users")
    with sqlite3.connect(sessions.path) as database:
        assert [row[0] for row in database.execute("SELECT name FROM sessions")] == ["rita"]


def test_file_that_is_not_a_database_is_named(tmp_path: Path) -> None:
    (tmp_path / "sessions").write_text("no database, though it is longer than the head of one: " + "x" * 200)
    with pytest.raises(UserError, match="everybody logs in again"):
        LoginSessions(tmp_path / "sessions")
