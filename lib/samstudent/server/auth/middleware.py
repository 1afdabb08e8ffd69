"""Authentication middleware: user of a request, and protection against requests from pages of other sites.

A login is required for all endpoints, files and pages except those in ``PUBLIC``, even if an endpoint does not require
a role. Roles are required at the endpoints (``server/auth/roles.py``).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection
from dataclasses import replace
from typing import Any
from urllib.parse import quote, urlsplit

import requests
from anyio import CapacityLimiter, to_thread
from fastapi import Request
from fastapi.responses import JSONResponse, RedirectResponse, Response
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from samstudent.errors import UserError
from samstudent.server.auth.current_user import Caller, caller, enter, leave
from samstudent.server.auth.download_grants import DownloadGrants
from samstudent.server.auth.login_sessions import InvalidToken
from samstudent.server.auth.logins import Login

logger = logging.getLogger(__name__)

COOKIE = "samstudent_session"
LOGIN_PAGE = "/samstudent/login"
#: Paths that are accessible without a login.
PUBLIC = frozenset({"/auth/", "/auth/token", LOGIN_PAGE, f"{LOGIN_PAGE}/callback", "/favicon.ico"})
_READING = frozenset({"GET", "HEAD", "OPTIONS"})
#: Longest body without a login, bytes.
_LARGEST_FORM = 16_384
#: Largest number of concurrent token verifications, some of which wait for an OpenID provider.
_VERIFICATIONS = 8


class Authentication:
    """ASGI middleware.

    Args:
        app: next ASGI application.
        login: login of the server; None: no login, but requests from pages of other sites are refused all the same.
        origins: origins of other sites that are allowed.
        grants: images that may be read without a token; None: disabled.
    """

    def __init__(
        self, app: ASGIApp, login: Login | None, origins: Collection[str] = (), grants: DownloadGrants | None = None
    ) -> None:
        self.app, self.login, self.origins, self.grants = app, login, frozenset(origins), grants
        self._limiter: CapacityLimiter | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        if scope["type"] == "websocket":  # the server has no websockets
            await send({"type": "websocket.close", "code": 1008})
            return
        request = Request(scope)
        address = request.client.host if request.client else ""
        who = enter(Caller(address, is_browser="Mozilla/" in request.headers.get("user-agent", "")))
        try:
            refusal, send = await self._enter(request, address, send)
            await (refusal or self.app)(scope, receive, send)
        finally:
            leave(who)

    async def _enter(self, request: Request, address: str, send: Send) -> tuple[Response | None, Send]:
        """Response in place of the endpoint's, or None; and the send function."""
        if request.method not in _READING and _is_foreign(request, self.origins):
            return _refuse(403, "a request from a page of another site is not allowed"), send
        if self.login is None:
            return None, send
        if _path(request) in PUBLIC:
            small = request.method in _READING or 0 <= _length(request) <= _LARGEST_FORM
            return (None if small else _refuse(413, f"a login has at most {_LARGEST_FORM} bytes")), send
        token, by_cookie = _token(request)
        if token is None:
            if self.grants is None or (granted_to := self.grants.user_of(request, _path(request), address)) is None:
                return _login_required(request, "login required"), send
            enter(replace(caller(), user=granted_to))
            return None, send
        try:
            user, session = await self._in_thread(self.login.user_of, token)
            life = await self._in_thread(self.login.sessions.renew, session) if by_cookie and session else None
        except InvalidToken as error:
            logger.info("invalid token: %s", error)
            return _login_required(request, "the login is invalid or has expired; log in again"), send
        except requests.RequestException as error:
            logger.error("no response from the OpenID provider: %s", error)
            return _refuse(503, "no response from the OpenID provider; try again"), send
        except (UserError, OSError) as error:
            logger.error("a login could not be verified: %s", error)
            return _refuse(503, "logins cannot be verified at the moment; see the server's log for details"), send
        enter(replace(caller(), user=user, session=session.id if session else ""))
        if life is not None:  # a browser's session is renewed while it is used
            send = _with_cookie(cookie(request, token, life), send)
        return None, send

    async def _in_thread(self, function: Callable[..., Any], *arguments: Any) -> Any:
        if self._limiter is None:
            self._limiter = CapacityLimiter(_VERIFICATIONS)
        return await to_thread.run_sync(function, *arguments, limiter=self._limiter)


def _with_cookie(header: str, send: Send) -> Send:
    async def with_cookie(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            if COOKIE not in headers.get("set-cookie", ""):  # a logout deletes it
                headers.append("set-cookie", header)
        await send(message)

    return with_cookie


def cookie(request: Request, token: str, life: float) -> str:
    """Set-Cookie header of a browser's session: not accessible to scripts, and not sent from other sites."""
    response = Response()
    response.set_cookie(
        COOKIE, token, max_age=max(1, round(life)), httponly=True, samesite="strict",
        secure=request.url.scheme == "https", path=root_of(request) or "/",
    )  # fmt: skip
    return response.headers["set-cookie"]


def root_of(request: Request) -> str:
    """Path of the server behind a proxy, without a slash at its end; "" without one."""
    return str(request.scope.get("root_path", ""))


def _path(request: Request) -> str:
    return str(request.scope["path"].removeprefix(root_of(request))) or "/"


def _length(request: Request) -> int:
    """Content-Length in bytes; -1 without the header."""
    length = request.headers.get("content-length", "")
    return int(length) if length.isdecimal() else -1


def _token(request: Request) -> tuple[str | None, bool]:
    """Token of a request, and whether it is a cookie."""
    scheme, _, value = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and value.strip():
        return value.strip(), False
    return request.cookies.get(COOKIE), True


def _is_foreign(request: Request, origins: Collection[str]) -> bool:
    """Whether the browser's headers name a page of another site as origin; other programs send no such headers."""
    origin = request.headers.get("origin")
    if origin in origins:
        return False
    if (site := request.headers.get("sec-fetch-site")) is not None:
        return site not in ("same-origin", "none")
    return origin is not None and urlsplit(origin).netloc.lower() != request.headers.get("host", "").lower()


def _login_required(request: Request, reason: str) -> Response:
    """Redirect to the login page for a browser, else 401."""
    if request.method == "GET" and "text/html" in request.headers.get("accept", ""):
        root = root_of(request)
        address = _path(request) + (f"?{request.url.query}" if request.url.query else "")
        return RedirectResponse(f"{root}{LOGIN_PAGE}?next={quote(root + address)}", status_code=302)
    return _refuse(401, reason, {"WWW-Authenticate": "Bearer"})


def _refuse(status: int, reason: str, headers: dict[str, str] | None = None) -> Response:
    return JSONResponse({"detail": reason}, status_code=status, headers=headers)
