"""Logins: by a users file, or by an OpenID provider. ``server/auth/middleware.py`` asks one for every request."""

from __future__ import annotations

import hashlib
import os
import secrets
import threading
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import jwt
from cachetools import TTLCache
from monailabel.config import settings

from samstudent.errors import UserError
from samstudent.server.auth import audit
from samstudent.server.auth.current_user import User, caller
from samstudent.server.auth.login_sessions import InvalidToken, LoginSessions, Session, is_ours
from samstudent.server.auth.openid import PENDING_SECONDS, Claims, PendingLogin, Person, Provider
from samstudent.server.auth.roles import with_lower
from samstudent.server.auth.throttle import Throttle
from samstudent.server.auth.users import Users

#: Names the users file, and with that switches the built-in login on; ``samstudent serve --users`` sets it.
USERS_FILE = "SAMSTUDENT_USERS"
#: Of the OpenID provider: this server's secret there, and other names that tokens may be for, with commas between.
CLIENT_SECRET = "SAMSTUDENT_OPENID_CLIENT_SECRET"
AUDIENCES = "SAMSTUDENT_OPENID_AUDIENCES"
#: Provider's tokens that are remembered as checked, and browsers that may be on their way to it and back.
MOST_CHECKED = MOST_PENDING = 1000
#: Seconds for which a checked token is not checked again.
CHECKED_FOR = 60.0


class Refused(UserError):
    """Name and password, or what a provider says, do not fit (HTTP 401)."""

    status = 401


class Login(ABC):
    """How people log in to one server.

    Args:
        sessions: those of browsers, and with a users file of all clients.
    """

    #: In sessions, and in the audit.
    source: str

    def __init__(self, sessions: LoginSessions) -> None:
        self.sessions = sessions
        self.throttle = Throttle()

    @abstractmethod
    def user_of(self, token: str) -> tuple[User, Session | None]:
        """Whose token this is, and the session if it is one of this server's.

        Raises:
            InvalidToken: nobody's.
        """

    @abstractmethod
    def _by_password(self, name: str, password: str) -> dict[str, Any] | None:
        """OAuth's answer with a token; None where name and password do not fit."""

    def by_password(self, name: str, password: str) -> dict[str, Any]:
        """A token for name and password, as OAuth's password grant answers.

        Raises:
            Refused: they do not fit. Throttled: too many did not. AuditFailed: nobody would know of it.
        """
        address = caller().address
        self.throttle.check(name, address)
        audit.require()
        answer = self._by_password(name, password)
        if answer is None:
            self.throttle.failed(name, address)
            audit.record("login failed", name, by=self.source)
            raise Refused("user name or password is wrong")
        self.throttle.succeeded(name, address)
        audit.record("login", name, by=self.source)
        return answer

    def _session(self, name: str, roles: tuple[str, ...], **more: Any) -> dict[str, Any]:
        token, session = self.sessions.open(name, roles, self.source, **more)
        life = round(session.expires - session.started)
        return {"access_token": token, "token_type": "bearer", "expires_in": life}


class FileLogin(Login):
    """Users and roles in a file. A token counts as long as its user is in it, with the password and role of then."""

    source = "users"

    def __init__(self, users: Users, sessions: LoginSessions) -> None:
        super().__init__(sessions)
        self.users = users
        # Each comparison takes 64 MB and half a core for a moment.
        self._comparing = threading.BoundedSemaphore(2)

    def user_of(self, token: str) -> tuple[User, Session | None]:
        session = self.sessions.read(token)
        entry = self.users.get(session.name)
        if session.source != self.source or entry is None or entry.changed != session.version:
            raise InvalidToken(f"{session.name}: the user, the password or the role changed since the login")
        return User(username=session.name, name=session.name, roles=with_lower([entry.role])), session

    def _by_password(self, name: str, password: str) -> dict[str, Any] | None:
        entry = self.users.get(name)  # first: should the password change meanwhile, the token is worth nothing
        with self._comparing:
            right = self.users.check(name, password)
        return self._session(name, (entry.role,), version=entry.changed) if right and entry else None


class OpenIdLogin(Login):
    """An OpenID provider's users. Clients bring its tokens; browsers are sent there and get a session of ours, because
    the tokens of some providers are larger than a cookie may be."""

    source = "openid"

    def __init__(self, provider: Provider, sessions: LoginSessions) -> None:
        super().__init__(sessions)
        self.provider = provider
        self._checked: TTLCache[bytes, User] = TTLCache(MOST_CHECKED, CHECKED_FOR)
        self._pending: TTLCache[str, PendingLogin] = TTLCache(MOST_PENDING, PENDING_SECONDS)
        #: Digests of tokens that the audit has a line about.
        self._recorded: TTLCache[bytes, bool] = TTLCache(MOST_CHECKED, 86400)
        self._lock = threading.Lock()

    def user_of(self, token: str) -> tuple[User, Session | None]:
        if is_ours(token):
            session = self.sessions.read(token)
            if session.source != self.source:
                raise InvalidToken("of another kind of login")
            roles = with_lower(session.roles)
            return User(username=session.name, email=session.email, name=session.full_name, roles=roles), session
        key = hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()
        with self._lock:
            user = self._checked.get(key)
            recorded = key in self._recorded
        if user is None:
            try:
                user = _user(self.provider.person(token))
            except jwt.InvalidTokenError as error:
                raise InvalidToken(str(error)) from error
            if not recorded:
                audit.record("login", user.username, by=self.source)
            with self._lock:
                self._checked[key], self._recorded[key] = user, True
        return user, None

    def start(self, callback: str, next: str) -> tuple[str, str]:
        """Address of the provider to which a browser is sent, and the state by which it is known when it comes back.

        Args:
            callback: address of this server to which the provider sends it back.
            next: address on this server to which it goes then.
        """
        pending = PendingLogin(next)
        address = self.provider.start(callback, pending)
        with self._lock:
            self._pending[pending.state] = pending
        return address, pending.state

    def pending(self, state: str, known_state: str) -> PendingLogin | None:
        """The login that a browser comes back from, once; None: it was not begun here, or took too long.

        Args:
            state: what the provider sent back.
            known_state: what the browser was given when it was sent.
        """
        with self._lock:
            pending = self._pending.pop(state, None)
        return pending if secrets.compare_digest(known_state.encode(), state.encode()) else None

    def finish(self, code: str, callback: str, pending: PendingLogin) -> dict[str, Any]:
        """A browser's session for the user who came back with a code.

        Raises:
            jwt.InvalidTokenError: see ``Provider.finish``. Refused: no role here.
        """
        return self.open(self.provider.finish(code, callback, pending))

    def open(self, person: Person) -> dict[str, Any]:
        """A browser's session for a user whom the provider knows. Raises Refused."""
        if not with_lower(person.roles):
            audit.record("login failed", person.name, by=self.source, why="no role here")
            raise Refused(f"{person.name} has no role for this server; the provider gives {list(person.roles)}")
        audit.record("login", person.name, by=self.source)
        return self._session(person.name, person.roles, email=person.email, full_name=person.full_name)

    def _by_password(self, name: str, password: str) -> dict[str, Any] | None:
        return self.provider.by_password(name, password)


def _user(person: Person) -> User:
    return User(username=person.name, email=person.email, name=person.full_name, roles=with_lower(person.roles))


def configured(app_dir: str) -> Login | None:
    """The login that the environment asks for; None: everybody may do everything.

    Args:
        app_dir: for the sessions, where there is no users file to keep them beside.

    Raises:
        UserError: two are asked for, the users file is none, or the host was started without knowing of it.
    """
    users_file = os.environ.get(USERS_FILE, "")
    if not settings.MONAI_LABEL_AUTH_ENABLE:
        if users_file:
            raise UserError(f"{USERS_FILE} needs MONAI_LABEL_AUTH_ENABLE=true, too; samstudent serve --users sets both")
        return None
    if users_file:
        # Not the environment: the host writes all of its settings there.
        if type(settings).model_fields["MONAI_LABEL_AUTH_REALM_URI"].default != settings.MONAI_LABEL_AUTH_REALM_URI:
            raise UserError(f"either {USERS_FILE} or MONAI_LABEL_AUTH_REALM_URI: one server has one login")
        users = Users(Path(users_file))
        users.all()
        return FileLogin(users, LoginSessions(users.path.with_name(users.path.name + ".sessions")))
    claims = Claims(
        username=settings.MONAI_LABEL_AUTH_TOKEN_USERNAME,
        email=settings.MONAI_LABEL_AUTH_TOKEN_EMAIL,
        name=settings.MONAI_LABEL_AUTH_TOKEN_NAME,
        roles=settings.MONAI_LABEL_AUTH_TOKEN_ROLES,
    )
    provider = Provider(
        settings.MONAI_LABEL_AUTH_REALM_URI,
        settings.MONAI_LABEL_AUTH_CLIENT_ID,
        claims,
        os.environ.get(CLIENT_SECRET, ""),
        [name.strip() for name in os.environ.get(AUDIENCES, "").split(",") if name.strip()],
        settings.MONAI_LABEL_AUTH_TIMEOUT,
    )
    return OpenIdLogin(provider, LoginSessions(Path(app_dir) / "login.sessions"))
