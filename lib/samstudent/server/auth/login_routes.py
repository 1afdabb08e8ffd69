"""Logging in and out: a page for browsers, the host's ``/auth`` for 3D Slicer, and who one is."""

from __future__ import annotations

import html
import logging
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from string import Template
from typing import Any

import jwt
from fastapi import APIRouter, Form, Request
from fastapi.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from monailabel.config import settings
from monailabel.endpoints import login as host_login
from monailabel.endpoints.user.auth import User

from samstudent.errors import UserError
from samstudent.server.auth import audit
from samstudent.server.auth.current_user import caller
from samstudent.server.auth.logins import FileLogin, Login, OpenIdLogin
from samstudent.server.auth.middleware import COOKIE, LOGIN_PAGE, cookie
from samstudent.server.auth.roles import reader

logger = logging.getLogger(__name__)

_PAGE = Template(Path(__file__).with_name("login_page.html").read_text(encoding="utf-8"))
#: Nothing is loaded from anywhere, and no other site may show the page inside of its own.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; frame-ancestors 'none'"
_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "Cache-Control": "no-store",
    "Referrer-Policy": "same-origin",
}
#: The cookie by which a browser that comes back from the provider is known for the one that was sent.
_SENT = "samstudent_openid"
#: Seconds for logging in at the provider's; and how many may be about to.
_SENT_FOR = 600
_MOST_SENT = 1000


def router(name: str, login: Login | None) -> APIRouter:
    """Endpoints of one server.

    Args:
        name: of the app, the page's heading.
        login: None: there are none.
    """
    routes = APIRouter(prefix="/samstudent", tags=["samstudent"])

    if login is None:
        return routes

    @routes.post("/logout", summary="End this login; none of its tokens counts any more")
    def post_logout(request: Request, user: User = reader) -> Response:
        who = caller()
        if who.session:
            login.tokens.end(who.session)
        audit.record("logout", user.username)
        response = JSONResponse({})
        response.delete_cookie(COOKIE, path=request.scope.get("root_path") or "/")
        return response

    if isinstance(login, FileLogin):
        _add_form(routes, name, login)
    elif isinstance(login, OpenIdLogin):
        _add_redirect(routes, login)
    return routes


def instead_of_the_hosts(login: Login | None) -> dict[Callable[..., Any], Callable[..., Any]]:
    """For ``threads.install``: the host asks the provider by itself, and answers 503 for a wrong password."""
    if login is None:
        return {}

    def access_token(form_data: Any) -> Response:
        answer = login.by_password(form_data.username, form_data.password)
        # Without what browsers do not need: 3D Slicer asks again with name and password.
        kept = {key: answer[key] for key in ("access_token", "token_type", "expires_in") if key in answer}
        return JSONResponse(kept, headers={"Cache-Control": "no-store"})

    def auth_enabled() -> dict[str, Any]:
        realm = settings.MONAI_LABEL_AUTH_REALM_URI if isinstance(login, OpenIdLogin) else None
        return {"enabled": True, "client_id": settings.MONAI_LABEL_AUTH_CLIENT_ID, "realm": realm}

    return {host_login.access_token: access_token, host_login.auth_enabled: auth_enabled}


def _add_form(routes: APIRouter, name: str, login: FileLogin) -> None:
    @routes.get("/login", include_in_schema=False)
    def get_login(request: Request, next: str = "/") -> Response:
        return _form(request, name, next)

    @routes.post("/login", include_in_schema=False)
    def post_login(
        request: Request, username: str = Form(""), password: str = Form(""), next: str = Form("/")
    ) -> Response:
        try:
            answer = login.by_password(username, password)
        except UserError as error:
            response = _form(request, name, next, str(error), getattr(error, "status", 400))
            if after := getattr(error, "retry_after", None):
                response.headers["Retry-After"] = str(after)
            return response
        response = RedirectResponse(_local(next), status_code=303, headers={"Cache-Control": "no-store"})
        token: str = answer["access_token"]
        response.headers["set-cookie"] = cookie(request, token, login.tokens.read(token))
        return response


def _form(request: Request, name: str, next: str, message: str = "", status: int = 200) -> Response:
    action = f"{request.scope.get('root_path', '')}{LOGIN_PAGE}"
    values = {"title": name, "message": message, "next": _local(next), "action": action}
    page = _PAGE.substitute({key: html.escape(value) for key, value in values.items()})
    return HTMLResponse(page, status_code=status, headers=_HEADERS)


def _add_redirect(routes: APIRouter, login: OpenIdLogin) -> None:
    sent: OrderedDict[str, tuple[dict[str, str], str, float]] = OrderedDict()
    lock = threading.Lock()

    def back(request: Request) -> str:
        return f"{request.url.scheme}://{request.url.netloc}{request.scope.get('root_path', '')}{LOGIN_PAGE}/callback"

    @routes.get("/login", include_in_schema=False)
    def get_login(request: Request, next: str = "/") -> Response:
        address, memory = login.provider.start(back(request))
        with lock:
            sent[memory["state"]] = (memory, _local(next), time.monotonic())
            while len(sent) > _MOST_SENT:
                sent.popitem(last=False)
        response = RedirectResponse(address, status_code=302, headers={"Cache-Control": "no-store"})
        # Lax: the browser comes back from another site.
        response.set_cookie(
            _SENT, memory["state"], max_age=_SENT_FOR, httponly=True, samesite="lax",
            secure=request.url.scheme == "https", path=f"{request.scope.get('root_path', '')}{LOGIN_PAGE}",
        )  # fmt: skip
        return response

    @routes.get("/login/callback", include_in_schema=False)
    def get_callback(request: Request, state: str = "", code: str = "", error: str = "") -> Response:
        with lock:
            memory, next, at = sent.pop(state, ({}, "/", 0.0))
        right = secrets.compare_digest(request.cookies.get(_SENT, "").encode(), state.encode())
        if not memory or not right or time.monotonic() - at > _SENT_FOR:
            return _told("This login was not begun here, or took too long.", 400)
        if error or not code:
            return _told(f"The provider says: {error or 'nothing'}.", 403)
        try:
            person = login.provider.finish(code, back(request), memory)
            token = login.open(person)["access_token"]
        except jwt.InvalidTokenError as fault:
            logger.warning("a login by OpenID failed: %s", fault)
            audit.record("login failed", "", by=login.source, why=str(fault))
            return _told("The provider's answer is not valid; the server's log says why.", 401)
        except UserError as fault:
            return _told(f"{fault}.", getattr(fault, "status", 400))
        # Not a redirect: the browser would take it for a part of its way from the provider, and keep back the cookie.
        response = HTMLResponse(
            f'<!doctype html><meta http-equiv="refresh" content="0; url={html.escape(next)}"><a href='
            f'"{html.escape(next)}">Logged in</a>',
            headers=_HEADERS,
        )
        response.headers["set-cookie"] = cookie(request, token, login.tokens.read(token))
        return response


def _told(message: str, status: int) -> Response:
    page = f'<!doctype html><title>Log in</title><p>{html.escape(message)}</p><p><a href="login">Try again</a></p>'
    return HTMLResponse(page, status_code=status, headers=_HEADERS)


def _local(address: str) -> str:
    """Where to go after the login, if it is on this server; else its first page."""
    plain = address.startswith("/") and address[1:2] not in ("/", "\\") and address.isprintable()
    return address if plain else "/"
