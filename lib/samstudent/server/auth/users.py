"""Users file of the built-in login: names, roles and password hashes.

JSON, readable for its owner only, replaced atomically. Passwords are hashed by argon2id with the library's default
parameters (RFC 9106), and rehashed at the next login after a change of these.
"""

from __future__ import annotations

import functools
import logging
import re
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError
from filelock import FileLock
from pydantic import BaseModel, ConfigDict, ValidationError, field_validator

from samstudent.errors import Conflict, NotFound, UserError
from samstudent.util.files import atomic_write

logger = logging.getLogger(__name__)

#: In ascending order; each role includes those before it.
ROLES = ("annotator", "reviewer", "admin")
SHORTEST_PASSWORD = 8
#: Upper bound, because the time of argon2 is proportional to the length.
LONGEST_PASSWORD = 1024
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")
_hasher = PasswordHasher()


@functools.cache
def _dummy_hash() -> str:
    """Hash for a comparison without a user, so that the response time does not show which names exist."""
    return _hasher.hash("nobody has this password")


class Entry(BaseModel):
    """One user."""

    model_config = ConfigDict(extra="forbid")

    role: str
    #: Hash string of argon2, with parameters and salt.
    password: str
    #: Time of the last change of password or role, seconds since 1970; sessions with another value are invalid.
    changed: float

    @field_validator("role")
    @classmethod
    def _known(cls, value: str) -> str:
        if value not in ROLES:
            raise ValueError(f"must be one of {', '.join(ROLES)}, not {value!r}")
        return value


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid")

    users: dict[str, Entry] = {}


class Users:
    """Users file; created with the first user."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._cached: tuple[object, dict[str, Entry]] = (None, {})

    def all(self) -> dict[str, Entry]:
        """Entries by name; read again after a change of the file.

        Raises:
            NotFound: no such file.
            UserError: invalid file.
        """
        try:
            status = self.path.stat()
        except FileNotFoundError:
            raise NotFound(
                f"{self.path}: no such users file; make one: samstudent users add NAME --users FILE"
            ) from None
        key = (status.st_mtime_ns, status.st_size, status.st_ino)
        if self._cached[0] != key:
            if status.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
                logger.warning("%s can be read by other users of this machine; chmod 600 it", self.path)
            try:
                self._cached = (key, _File.model_validate_json(self.path.read_bytes()).users)
            except ValidationError as error:
                where = ".".join(map(str, error.errors()[0]["loc"]))
                raise UserError(f"{self.path}: no users file: {where}: {error.errors()[0]['msg']}") from error
        return self._cached[1]

    def get(self, name: str) -> Entry | None:
        return self.all().get(name)

    def check(self, name: str, password: str) -> bool:
        """Whether the password is right; takes the same time without such a user."""
        entry = self.get(name)
        try:
            _hasher.verify(entry.password if entry else _dummy_hash(), password[:LONGEST_PASSWORD])
        except (VerificationError, InvalidHashError):
            return False
        if entry is not None and _hasher.check_needs_rehash(entry.password):
            with self._changing() as users:
                users[name] = entry.model_copy(update={"password": _hasher.hash(password)})
        return entry is not None

    def add(self, name: str, role: str, password: str) -> None:
        """Add a user. Raises Conflict if the name exists, UserError for an invalid name, role or password."""
        if not _NAME.fullmatch(name):
            raise UserError(
                f"user {name!r}: a name has up to 64 letters, digits and . _ @ - and starts with none of these"
            )
        entry = Entry(role=_checked_role(role), password=_hashed(password), changed=time.time())
        with self._changing() as users:
            if name in users:
                raise Conflict(f"user {name!r} is in {self.path} already; samstudent users passwd changes the password")
            users[name] = entry

    def remove(self, name: str) -> None:
        """Remove a user, whose sessions become invalid."""
        with self._changing() as users:
            del users[self._known(name, users)]

    def set_password(self, name: str, password: str) -> None:
        """Change the password of a user, whose sessions become invalid."""
        hashed = _hashed(password)
        with self._changing() as users:
            entry = users[self._known(name, users)]
            users[name] = entry.model_copy(update={"password": hashed, "changed": time.time()})

    def set_role(self, name: str, role: str) -> None:
        """Change the role of a user, whose sessions become invalid."""
        with self._changing() as users:
            entry = users[self._known(name, users)]
            users[name] = entry.model_copy(update={"role": _checked_role(role), "changed": time.time()})

    def _known(self, name: str, users: dict[str, Entry]) -> str:
        if name not in users:
            raise NotFound(f"there is no user {name!r} in {self.path}; there is {', '.join(sorted(users)) or 'nobody'}")
        return name

    @contextmanager
    def _changing(self) -> Iterator[dict[str, Entry]]:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{self.path}.lock"):
            users = dict(self.all()) if self.path.exists() else {}
            yield users
            atomic_write(self.path, _File(users=users).model_dump_json(indent=1), mode=0o600)


def _checked_role(role: str) -> str:
    if role not in ROLES:
        raise UserError(f"role must be one of {', '.join(ROLES)}, not {role!r}")
    return role


def _hashed(password: str) -> str:
    if not SHORTEST_PASSWORD <= len(password) <= LONGEST_PASSWORD:
        raise UserError(f"a password has {SHORTEST_PASSWORD} to {LONGEST_PASSWORD} characters")
    return _hasher.hash(password)
