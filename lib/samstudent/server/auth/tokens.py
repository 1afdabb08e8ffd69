"""Tokens that this server signs: short-lived, and worth nothing once their session has ended."""

from __future__ import annotations

import json
import os
import re
import secrets
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jwt

from samstudent.errors import UserError, explain
from samstudent.util.files import atomic_write

#: A token's life, seconds. A browser's is renewed while it is used.
LIFE = 3600.0
#: A login's life, however much it is used: a working day.
LONGEST_SESSION = 12 * 3600.0
ISSUER = "samstudent"
_ALGORITHM = "HS256"


@dataclass(frozen=True)
class Session:
    """What a token says.

    Attributes:
        name, email, full_name: of the user.
        roles: as recognised at the login.
        source: who recognised the user, "users" (file) or "openid".
        started: the login, seconds since 1970.
        expires: the token, likewise.
        id: of the login; renewed tokens keep it.
        version: of what was known of the user at the login. Not by time: the clock may be set back.
    """

    name: str
    roles: tuple[str, ...]
    source: str
    started: float
    expires: float
    id: str
    email: str | None = None
    full_name: str | None = None
    version: float | None = None


class Tokens:
    """Signs and reads tokens.

    Args:
        key_file: holds the key; made where it is missing, for its owner only. Beside it, ``.ended``: logins that ended
            before their tokens would have.
        life: of a token, seconds.
    """

    def __init__(self, key_file: Path, life: float = LIFE) -> None:
        self.life = life
        self._key = _key(key_file)
        self._ended_file = key_file.with_name(key_file.name + ".ended")
        self._ended = _kept(self._ended_file)
        self._lock = threading.Lock()

    def open(self, name: str, roles: tuple[str, ...], source: str, **more: Any) -> tuple[str, Session]:
        """A new login's first token."""
        now = time.time()
        return self._sign(Session(name, roles, source, now, now + self.life, secrets.token_urlsafe(16), **more))

    def renewed(self, session: Session) -> tuple[str, Session] | None:
        """A token for the same login, if it is time for one and the login is not too old."""
        now = time.time()
        if session.expires - now > self.life / 2 or now - session.started > LONGEST_SESSION:
            return None
        expires = min(now + self.life, session.started + LONGEST_SESSION)
        return self._sign(Session(**{**session.__dict__, "expires": expires}))

    def read(self, token: str) -> Session:
        """What a token says.

        Raises:
            jwt.InvalidTokenError: not ours, changed, expired, or its session has ended.
        """
        claims = jwt.decode(
            token, self._key, algorithms=[_ALGORITHM], issuer=ISSUER, audience=ISSUER,
            options={"require": ["exp", "iss", "aud", "sub"]},
        )  # fmt: skip
        if claims["sid"] in self._ended:
            raise jwt.InvalidTokenError("logged out")
        return Session(
            claims["sub"], tuple(claims["roles"]), claims["source"], claims["started"], claims["exp"], claims["sid"],
            claims.get("email"), claims.get("name"), claims.get("version"),
        )  # fmt: skip

    def end(self, session_id: str) -> None:
        """Log out: no token of this login counts any more. Forgotten when the last of them has expired anyway."""
        now = time.time()
        with self._lock:
            self._ended = {id: until for id, until in self._ended.items() if until > now}
            self._ended[session_id] = now + self.life
            atomic_write(self._ended_file, json.dumps(self._ended), 0o600)

    def _sign(self, session: Session) -> tuple[str, Session]:
        claims = {
            "iss": ISSUER,
            "aud": ISSUER,
            "sub": session.name,
            "roles": list(session.roles),
            "source": session.source,
            "started": session.started,
            "exp": session.expires,
            "sid": session.id,
            "email": session.email,
            "name": session.full_name,
            "version": session.version,
        }
        return jwt.encode(claims, self._key, algorithm=_ALGORITHM), session


def is_ours(token: str) -> bool:
    """Whether a token says that this server signed it; not whether it did."""
    try:
        return jwt.decode(token, options={"verify_signature": False}).get("iss") == ISSUER
    except jwt.InvalidTokenError:
        return False


def _kept(file: Path) -> dict[str, float]:
    """Login -> when the last of its tokens has expired. Logins that ended stay so over a restart."""
    try:
        return {str(id): float(until) for id, until in json.loads(file.read_text()).items()}
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise UserError(explain(error)) from error
    except (ValueError, AttributeError, TypeError) as error:
        raise UserError(
            f"{file}: unreadable; restore it from a backup, or rename it: then all who logged out within the last hour"
            f" can come back with their old tokens: {error}"
        ) from error


def _key(file: Path) -> bytes:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        # Whole or not at all, and the first of two servers that start at once wins.
        temporary = file.with_name(f".{file.name}.{secrets.token_hex(4)}")
        with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as new:
            new.write(secrets.token_hex(32))
            new.flush()
            os.fsync(new.fileno())
        try:
            os.link(temporary, file)
        except FileExistsError:
            pass
        finally:
            temporary.unlink()
        open_to_others = file.stat().st_mode & 0o077
        text = file.read_text().strip()
    except OSError as error:
        raise UserError(f"the key that signs logins cannot be kept: {explain(error)}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{file}: the key that signs logins cannot be read: {error}") from error
    if open_to_others:
        raise UserError(f"{file}: others can read the key that signs logins; rename it, a new one will be made")
    key = bytes.fromhex(text) if re.fullmatch("[0-9a-f]+", text) and len(text) % 2 == 0 else b""
    if len(key) < 32:
        raise UserError(f"{file}: no key; rename it, a new one will be made, and everybody logs in again")
    return key
