"""In front of every endpoint: who asks, whether the browser was made to ask by another site, and nobody without login.

Closed by default: an endpoint, file or page that is not named in ``PUBLIC`` needs a login, also one that forgets to ask
for a role. Which role is needed is for the endpoint to say (``server/auth/roles.py``).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Collection
from dataclasses import replace
from urllib.parse import quote, urlsplit

import jwt
import requests
from anyio import CapacityLimiter, to_thread
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, RedirectResponse, Response
from monailabel.endpoints.user import auth
from starlette.datastructures import MutableHeaders
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from samstudent.errors import UserError
from samstudent.server.auth.current_user import Caller, caller, enter, leave
from samstudent.server.auth.download_grants import Offers
from samstudent.server.auth.logins import Login
from samstudent.server.auth.tokens import Session

logger = logging.getLogger(__name__)

COOKIE = "samstudent_session"
LOGIN_PAGE = "/samstudent/login"
#: What must work before anybody is logged in.
PUBLIC = frozenset({"/auth/", "/auth/token", LOGIN_PAGE, f"{LOGIN_PAGE}/callback", "/favicon.ico"})
_READING = frozenset({"GET", "HEAD", "OPTIONS"})
#: Bytes that anybody may send before he has logged in; the host reads whatever comes into memory.
_LARGEST_FORM = 16_384
#: Threads that may ask the OpenID provider at once.
_ASKING = 8


class Gate:
    """ASGI middleware.

    Args:
        app: what lies behind.
        login: None: everybody may do everything, but other sites may not make a browser do it.
        origins: of other sites that may.
        offers: images that may be read without a token, where this is switched on.
    """

    def __init__(
        self, app: ASGIApp, login: Login | None, origins: Collection[str] = (), offers: Offers | None = None
    ) -> None:
        self.app, self.login, self.origins, self.offers = app, login, frozenset(origins), offers
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
            return _refuse(403, "this was asked for by a page of another site"), send
        if self.login is None:
            return None, send
        if _path(request) in PUBLIC:
            small = request.method in _READING or 0 <= _length(request) <= _LARGEST_FORM
            return (None if small else _refuse(413, "a login is shorter")), send
        given, by_cookie = _token(request)
        if given is None:
            if self.offers is None or (offered_to := self.offers.user_of(request, _path(request), address)) is None:
                return _ask_to_log_in(request, "log in first"), send
            enter(replace(caller(), user=offered_to))
            _authorize(request, "offered")
            return None, send
        try:
            user, session = await self._user_of(self.login, given)
        except jwt.InvalidTokenError as error:
            logger.info("a token is refused: %s", error)
            return _ask_to_log_in(request, "this login is not valid, or has expired; log in again"), send
        except requests.RequestException as error:
            logger.error("the OpenID provider does not answer: %s", error)
            return _refuse(503, "the OpenID provider does not answer; try again"), send
        except UserError as error:
            logger.error("%s", error)
            return _refuse(503, "logins cannot be checked at the moment; the log says why"), send
        enter(replace(caller(), user=user, session=session.id if session else ""))
        if by_cookie:
            _authorize(request, given)
            send = self._renewing(self.login, request, session, send)
        return None, send

    async def _user_of(self, login: Login, token: str) -> tuple[auth.User, Session | None]:
        if not login.waits:
            return login.user_of(token)
        if self._limiter is None:
            self._limiter = CapacityLimiter(_ASKING)
        return await to_thread.run_sync(login.user_of, token, limiter=self._limiter)

    @staticmethod
    def _renewing(login: Login, request: Request, session: Session | None, send: Send) -> Send:
        """A browser's login lasts as long as it is used."""
        renewed = login.tokens.renewed(session) if session else None
        if renewed is None:
            return send

        async def with_cookie(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                if COOKIE not in headers.get("set-cookie", ""):  # a logout clears it
                    headers.append("set-cookie", cookie(request, *renewed))
            await send(message)

        return with_cookie


def install(fastapi_app: FastAPI, login: Login | None, origins: Collection[str], offers: Offers | None = None) -> None:
    """Put the gate before the host's endpoints; its middleware must be built anew after this. Idempotent."""
    inner = [m for m in fastapi_app.user_middleware if getattr(m.cls, "__name__", "") != Gate.__name__]
    # Behind the host's own, which answers what browsers ask before they ask from another site.
    fastapi_app.user_middleware[:] = [*inner, Middleware(Gate, login=login, origins=origins, offers=offers)]
    if login is not None:
        auth.from_token = _recognised


def _recognised(token: str) -> auth.User:
    """Takes the place of the host's ``from_token``, which cannot read today's tokens (E4): the gate has read it."""
    user = caller().user
    if user is None:
        raise jwt.InvalidTokenError("no login")
    return user


def cookie(request: Request, token: str, session: Session) -> str:
    """The Set-Cookie header of a browser's login: out of reach for scripts, and never sent from another site."""
    response = Response()
    response.set_cookie(
        COOKIE, token, max_age=max(1, round(session.expires - time.time())), httponly=True, samesite="strict",
        secure=request.url.scheme == "https", path=request.scope.get("root_path") or "/",
    )  # fmt: skip
    return response.headers["set-cookie"]


def _authorize(request: Request, token: str) -> None:
    """The host's endpoints ask for this header, which a browser does not send by itself."""
    MutableHeaders(scope=request.scope)["authorization"] = f"Bearer {token}"


def _path(request: Request) -> str:
    return request.scope["path"].removeprefix(request.scope.get("root_path", "")) or "/"


def _length(request: Request) -> int:
    """Bytes that a request says it has; -1 if it does not say, or says no number."""
    length = request.headers.get("content-length", "")
    return int(length) if length.isdecimal() else -1


def _token(request: Request) -> tuple[str | None, bool]:
    """The token that a request brings, and whether as a cookie."""
    scheme, _, value = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and value.strip():
        return value.strip(), False
    return request.cookies.get(COOKIE), True


def _is_foreign(request: Request, origins: Collection[str]) -> bool:
    """Whether a browser says that a page of another site asks. Other programs say nothing."""
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
