"""Login sessions of this server in SQLite.

A token is random; the table contains only its SHA-256 digest, so the file cannot be used for a login.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from samstudent.util.database import connection, make_tables

#: Lifetime of a session, seconds; a browser's session is renewed while it is used.
LIFE = 3600.0
#: Longest lifetime of a renewed session, seconds: a working day.
LONGEST_SESSION = 12 * 3600.0
#: Prefix of this server's tokens, in contrast to those of OpenID providers.
PREFIX = "samstudent."
_SCHEMA = """
CREATE TABLE IF NOT EXISTS sessions (
    digest TEXT PRIMARY KEY, name TEXT NOT NULL, roles TEXT NOT NULL, source TEXT NOT NULL, started REAL NOT NULL,
    expires REAL NOT NULL, email TEXT, full_name TEXT, version REAL
);
"""
_COLUMNS = "digest, name, roles, source, started, expires, email, full_name, version"


class InvalidToken(Exception):
    """Token that is unknown, expired or logged out, or whose user has changed since the login."""


@dataclass(frozen=True)
class Session:
    """One login.

    Attributes:
        id: SHA-256 digest of the token.
        name, email, full_name: data of the user.
        roles: roles at the login.
        source: kind of the login, "users" (file) or "openid".
        started, expires: seconds since 1970.
        version: version of the user's entry at the login.
    """

    id: str
    name: str
    roles: tuple[str, ...]
    source: str
    started: float
    expires: float
    email: str | None = None
    full_name: str | None = None
    version: float | None = None


class LoginSessions:
    """Sessions of one server, preserved over a restart.

    Args:
        path: SQLite file; created if missing, accessible to its owner only.
        life: lifetime of a session, seconds.

    Raises:
        UserError: the file is no database. OSError: it cannot be opened.
    """

    def __init__(self, path: Path, life: float = LIFE) -> None:
        self.path, self.life = path, life
        path.parent.mkdir(parents=True, exist_ok=True)
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
        os.chmod(path, 0o600)
        make_tables(path, _SCHEMA, "rename it: a new one is created, and everybody logs in again")

    def open(self, name: str, roles: tuple[str, ...], source: str, **more: Any) -> tuple[str, Session]:
        """Token and session of a new login.

        Args:
            name: name of the user.
            roles: see ``Session``.
            source: see ``Session``.
            more: ``email``, ``full_name``, ``version``.
        """
        token, now = PREFIX + secrets.token_urlsafe(32), time.time()
        session = Session(_digest(token), name, roles, source, now, now + self.life, **more)
        values = [*vars(session).values()]
        values[2] = json.dumps(session.roles)
        with connection(self.path) as database:
            database.execute("DELETE FROM sessions WHERE expires < ?", (now,))
            database.execute(f"INSERT INTO sessions ({_COLUMNS}) VALUES ({', '.join('?' * len(values))})", values)
        return token, session

    def read(self, token: str) -> Session:
        """Session of a token.

        Raises:
            InvalidToken: unknown or expired.
        """
        with connection(self.path) as database:
            row = database.execute(f"SELECT {_COLUMNS} FROM sessions WHERE digest = ?", (_digest(token),)).fetchone()
        if row is None:
            raise InvalidToken("no login of this server, or logged out")
        id, name, roles, source, started, expires, email, full_name, version = row
        session = Session(id, name, tuple(json.loads(roles)), source, started, expires, email, full_name, version)
        if session.expires <= time.time():
            raise InvalidToken("the login has expired")
        return session

    def renew(self, session: Session) -> float | None:
        """Extend a session after half of its lifetime; the new remaining seconds, or None if it was not extended."""
        now = time.time()
        if session.expires - now > self.life / 2 or now - session.started > LONGEST_SESSION:
            return None
        expires = min(now + self.life, session.started + LONGEST_SESSION)
        with connection(self.path) as database:
            database.execute("UPDATE sessions SET expires = ? WHERE digest = ?", (expires, session.id))
        return expires - now

    def end(self, session_id: str) -> None:
        """Log out, with immediate effect."""
        with connection(self.path) as database:
            database.execute("DELETE FROM sessions WHERE digest = ?", (session_id,))


def is_ours(token: str) -> bool:
    """Whether a token was issued by a server of this kind."""
    return token.startswith(PREFIX)


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()
