"""Authentication middleware: who sends a request, and whether a page of another site made the browser send it.

Closed by default: an endpoint, file or page that is not named in ``PUBLIC`` needs a login, also one that forgets to ask
for a role. Which role is needed is for the endpoint to say (``server/auth/roles.py``).
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
#: What must work before anybody is logged in.
PUBLIC = frozenset({"/auth/", "/auth/token", LOGIN_PAGE, f"{LOGIN_PAGE}/callback", "/favicon.ico"})
_READING = frozenset({"GET", "HEAD", "OPTIONS"})
#: Bytes that may be sent before a login.
_LARGEST_FORM = 16_384
#: Threads that may look tokens up at once; an OpenID provider may have to be asked.
_LOOKING_UP = 8


class Authentication:
    """ASGI middleware.

    Args:
        app: what lies behind.
        login: None: everybody may do everything, but other sites may not make a browser do it.
        origins: of other sites that may.
        grants: images that may be read without a token, where this is switched on.
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
        if scope["type"] == "websocket":  # there are none; should one come, it does not come in by itself
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
        """What to answer instead of the endpoint, if anything; and how to send."""
        if request.method not in _READING and _is_foreign(request, self.origins):
            return _refuse(403, "a page of another site sent this request"), send
        if self.login is None:
            return None, send
        if _path(request) in PUBLIC:
            small = request.method in _READING or 0 <= _length(request) <= _LARGEST_FORM
            return (None if small else _refuse(413, "a login is shorter")), send
        given, by_cookie = _token(request)
        if given is None:
            if self.grants is None or (granted_to := self.grants.user_of(request, _path(request), address)) is None:
                return _ask_to_log_in(request, "log in first"), send
            enter(replace(caller(), user=granted_to))
            return None, send
        try:
            user, session = await self._look_up(self.login.user_of, given)
            life = await self._look_up(self.login.sessions.renew, session) if by_cookie and session else None
        except InvalidToken as error:
            logger.info("a token is refused: %s", error)
            return _ask_to_log_in(request, "this login is not valid, or has expired; log in again"), send
        except requests.RequestException as error:
            logger.error("the OpenID provider does not answer: %s", error)
            return _refuse(503, "the OpenID provider does not answer; try again"), send
        except (UserError, OSError) as error:
            logger.error("a login cannot be checked: %s", error)
            return _refuse(503, "logins cannot be checked at the moment; the log says why"), send
        enter(replace(caller(), user=user, session=session.id if session else ""))
        if life is not None:  # a browser's login lasts as long as it is used
            send = _with_cookie(cookie(request, given, life), send)
        return None, send

    async def _look_up(self, look_up: Callable[..., Any], *arguments: Any) -> Any:
        if self._limiter is None:
            self._limiter = CapacityLimiter(_LOOKING_UP)
        return await to_thread.run_sync(look_up, *arguments, limiter=self._limiter)


def _with_cookie(header: str, send: Send) -> Send:
    async def with_cookie(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            if COOKIE not in headers.get("set-cookie", ""):  # a logout clears it
                headers.append("set-cookie", header)
        await send(message)

    return with_cookie


def cookie(request: Request, token: str, life: float) -> str:
    """The Set-Cookie header of a browser's login: out of reach for scripts, and never sent from another site."""
    response = Response()
    response.set_cookie(
        COOKIE, token, max_age=max(1, round(life)), httponly=True, samesite="strict",
        secure=request.url.scheme == "https", path=request.scope.get("root_path") or "/",
    )  # fmt: skip
    return response.headers["set-cookie"]


def _path(request: Request) -> str:
    return request.scope["path"].removeprefix(request.scope.get("root_path", "")) or "/"


def _length(request: Request) -> int:
    """Length of the body in bytes by its header; -1 without one."""
    length = request.headers.get("content-length", "")
    return int(length) if length.isdecimal() else -1


def _token(request: Request) -> tuple[str | None, bool]:
    """Token of a request, and whether it is a cookie."""
    scheme, _, value = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and value.strip():
        return value.strip(), False
    return request.cookies.get(COOKIE), True


def _is_foreign(request: Request, origins: Collection[str]) -> bool:
    """Whether a browser says that a page of another site sends the request. Other programs say nothing."""
    origin = request.headers.get("origin")
    if origin in origins:
        return False
    if (site := request.headers.get("sec-fetch-site")) is not None:
        return site not in ("same-origin", "none")
    return origin is not None and urlsplit(origin).netloc.lower() != request.headers.get("host", "").lower()


def _ask_to_log_in(request: Request, reason: str) -> Response:
    if request.method == "GET" and "text/html" in request.headers.get("accept", ""):
        root = request.scope.get("root_path", "")
        wanted = _path(request) + (f"?{request.url.query}" if request.url.query else "")
        return RedirectResponse(f"{root}{LOGIN_PAGE}?next={quote(root + wanted)}", status_code=302)
    return _refuse(401, reason, {"WWW-Authenticate": "Bearer"})


def _refuse(status: int, reason: str, headers: dict[str, str] | None = None) -> Response:
    return JSONResponse({"detail": reason}, status_code=status, headers=headers)
