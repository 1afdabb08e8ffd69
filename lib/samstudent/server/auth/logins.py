"""Logins: by a users file, or by an OpenID provider; used by ``server/auth/middleware.py`` for every request."""

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

#: Path of the users file, which enables the built-in login; set by ``samstudent serve --users``.
USERS_FILE = "SAMSTUDENT_USERS"
#: OpenID client secret of this server, and further accepted audiences of tokens, separated by commas.
CLIENT_SECRET = "SAMSTUDENT_OPENID_CLIENT_SECRET"
AUDIENCES = "SAMSTUDENT_OPENID_AUDIENCES"
#: Largest number of cached tokens of the provider, and of browsers in the code flow.
MOST_CHECKED = MOST_PENDING = 1000
#: Time for which a verified token is cached, seconds.
CHECKED_FOR = 60.0


class Refused(UserError):
    """Wrong name or password, or a user without a role (HTTP 401)."""

    status = 401


class Login(ABC):
    """Login of one server.

    Args:
        sessions: sessions of browsers, and with a users file of all clients.
    """

    #: Name of the kind of login in sessions and in the audit log.
    source: str

    def __init__(self, sessions: LoginSessions) -> None:
        self.sessions = sessions
        self.throttle = Throttle()

    @abstractmethod
    def user_of(self, token: str) -> tuple[User, Session | None]:
        """User of a token, and its session if this server issued it.

        Raises:
            InvalidToken: invalid or expired token.
        """

    @abstractmethod
    def _by_password(self, name: str, password: str) -> dict[str, Any] | None:
        """Token response of OAuth; None for a wrong name or password."""

    def by_password(self, name: str, password: str) -> dict[str, Any]:
        """Log in with name and password: token response of OAuth's password grant.

        Raises:
            Refused: wrong name or password. Throttled: too many failed logins. AuditFailed: no audit record.
        """
        address = caller().address
        self.throttle.check(name, address)
        audit.require()
        issued = self._by_password(name, password)
        if issued is None:
            self.throttle.failed(name, address)
            audit.record("login failed", name, by=self.source)
            raise Refused("user name or password is wrong")
        self.throttle.succeeded(name, address)
        audit.record("login", name, by=self.source)
        return issued

    def _session(self, name: str, roles: tuple[str, ...], **more: Any) -> dict[str, Any]:
        token, session = self.sessions.open(name, roles, self.source, **more)
        life = round(session.expires - session.started)
        return {"access_token": token, "token_type": "bearer", "expires_in": life}


class FileLogin(Login):
    """Login by a users file. A token is valid as long as the user's entry in the file is unchanged."""

    source = "users"

    def __init__(self, users: Users, sessions: LoginSessions) -> None:
        super().__init__(sessions)
        self.users = users
        # Each comparison of a password needs 64 MB.
        self._comparing = threading.BoundedSemaphore(2)

    def user_of(self, token: str) -> tuple[User, Session | None]:
        session = self.sessions.read(token)
        entry = self.users.get(session.name)
        if session.source != self.source or entry is None or entry.changed != session.version:
            raise InvalidToken(f"{session.name}: the user, the password or the role changed since the login")
        return User(username=session.name, name=session.name, roles=with_lower([entry.role])), session

    def _by_password(self, name: str, password: str) -> dict[str, Any] | None:
        entry = self.users.get(name)  # first: if the password changes meanwhile, the token is invalid
        with self._comparing:
            right = self.users.check(name, password)
        return self._session(name, (entry.role,), version=entry.changed) if right and entry else None


class OpenIdLogin(Login):
    """Login by an OpenID provider.

    Clients send its tokens; browsers use the code flow and get a session of this server, because tokens of some
    providers exceed the size of a cookie.
    """

    source = "openid"

    def __init__(self, provider: Provider, sessions: LoginSessions) -> None:
        super().__init__(sessions)
        self.provider = provider
        self._checked: TTLCache[bytes, User] = TTLCache(MOST_CHECKED, CHECKED_FOR)
        self._pending: TTLCache[str, PendingLogin] = TTLCache(MOST_PENDING, PENDING_SECONDS)
        #: Digests of tokens whose login is in the audit log.
        self._recorded: TTLCache[bytes, bool] = TTLCache(MOST_CHECKED, 86400)
        self._lock = threading.Lock()

    def user_of(self, token: str) -> tuple[User, Session | None]:
        if is_ours(token):
            session = self.sessions.read(token)
            if session.source != self.source:
                raise InvalidToken("the token belongs to another kind of login")
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
        """Begin the code flow: address of the provider for the redirect, and the state parameter.

        Args:
            callback: redirect URI of this server.
            next: address on this server after the login.
        """
        pending = PendingLogin(next)
        address = self.provider.start(callback, pending)
        with self._lock:
            self._pending[pending.state] = pending
        return address, pending.state

    def pending(self, state: str, known_state: str) -> PendingLogin | None:
        """Pending login of a callback, once; None: it was started in another browser, or has expired.

        Args:
            state: state parameter of the callback.
            known_state: state in the browser's cookie.
        """
        with self._lock:
            pending = self._pending.pop(state, None)
        return pending if secrets.compare_digest(known_state.encode(), state.encode()) else None

    def finish(self, code: str, callback: str, pending: PendingLogin) -> dict[str, Any]:
        """Finish the code flow: token response with a session of this server.

        Raises:
            jwt.InvalidTokenError: see ``Provider.finish``. Refused: the user has no role.
        """
        return self.open(self.provider.finish(code, callback, pending))

    def open(self, person: Person) -> dict[str, Any]:
        """Token response with a session for a user of the provider. Raises Refused."""
        if not with_lower(person.roles):
            audit.record("login failed", person.name, by=self.source, why="no role for this server")
            raise Refused(f"{person.name} has no role for this server; roles at the provider: {list(person.roles)}")
        audit.record("login", person.name, by=self.source)
        return self._session(person.name, person.roles, email=person.email, full_name=person.full_name)

    def _by_password(self, name: str, password: str) -> dict[str, Any] | None:
        return self.provider.by_password(name, password)


def _user(person: Person) -> User:
    return User(username=person.name, email=person.email, name=person.full_name, roles=with_lower(person.roles))


def configured(app_dir: str) -> Login | None:
    """Login as configured by the environment; None: no login.

    Args:
        app_dir: folder of the sessions of an OpenID login; those of a users file are beside it.

    Raises:
        UserError: two logins are configured, the users file is invalid, or the host was started without login.
    """
    users_file = os.environ.get(USERS_FILE, "")
    if not settings.MONAI_LABEL_AUTH_ENABLE:
        if users_file:
            raise UserError(f"{USERS_FILE} needs MONAI_LABEL_AUTH_ENABLE=true, too; samstudent serve --users sets both")
        return None
    if users_file:
        # The setting, not the environment, to which the host writes all of its settings.
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
