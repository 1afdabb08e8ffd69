"""Login and logout: ``/auth`` for the host's clients, a login page for browsers, and the OpenID code flow."""

from __future__ import annotations

import html
import logging
from pathlib import Path
from string import Template
from typing import Annotated, Any

import jwt
from fastapi import APIRouter, Depends, Form, Request
from fastapi.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from fastapi.security import OAuth2PasswordRequestForm
from monailabel.config import settings
from pydantic import BaseModel

from samstudent.errors import UserError
from samstudent.server.api.bounded_route import BoundedRoute
from samstudent.server.auth import audit
from samstudent.server.auth.audit import AuditLine, audited
from samstudent.server.auth.current_user import User, caller
from samstudent.server.auth.logins import Login, OpenIdLogin
from samstudent.server.auth.middleware import COOKIE, LOGIN_PAGE, cookie, root_of
from samstudent.server.auth.openid import PENDING_SECONDS
from samstudent.server.auth.roles import LoginRequired, require
from samstudent.server.concurrency import takes_turn
from samstudent.server.context import Context

logger = logging.getLogger(__name__)

_PAGE = Template(Path(__file__).with_name("login_page.html").read_text(encoding="utf-8"))
#: No external resources, and no display inside pages of other sites.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; frame-ancestors 'none'"
_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "Cache-Control": "no-store",
    "Referrer-Policy": "same-origin",
}
#: Cookie with the state of the code flow: the callback must come from the browser that began the login.
_STATE_COOKIE = "samstudent_openid"

#: Routers of all servers with a login, of those with a users file, and of those with an OpenID provider.
router = APIRouter(route_class=BoundedRoute)
form_router = APIRouter(route_class=BoundedRoute, include_in_schema=False)
openid_router = APIRouter(route_class=BoundedRoute, include_in_schema=False)


class Token(BaseModel):
    """Response of OAuth's password grant."""

    access_token: str
    token_type: str
    expires_in: int | None = None


def _login_of(context: Context) -> Login:
    if context.login is None:
        raise LoginRequired("this server has no login")
    return context.login


Configured = Annotated[Login, Depends(_login_of)]


@router.get("/auth/", tags=["Auth"], summary="Whether a login is required, and its OpenID provider")
def get_auth(login: Configured) -> dict[str, Any]:
    realm = settings.MONAI_LABEL_AUTH_REALM_URI if isinstance(login, OpenIdLogin) else None
    return {"enabled": True, "client_id": settings.MONAI_LABEL_AUTH_CLIENT_ID, "realm": realm}


@router.post(
    "/auth/token",
    tags=["Auth"],
    summary="Log in with name and password",
    dependencies=[takes_turn("login")],
    responses={401: {"description": "wrong name or password"}, 429: {"description": "too many failed logins"}},
    response_model=Token,
)
def post_token(login: Configured, form: Annotated[OAuth2PasswordRequestForm, Depends()]) -> Response:
    issued = login.by_password(form.username, form.password)
    # Without a refresh token: 3D Slicer logs in again with name and password.
    token = Token.model_validate(issued).model_dump(exclude_none=True)
    return JSONResponse(token, headers={"Cache-Control": "no-store"})


@router.get("/auth/token/valid", tags=["Auth"], summary="User of the token")
def get_valid_token(user: Annotated[User, require("user")]) -> User:
    return user


@router.post("/samstudent/logout", tags=["samstudent"], summary="End the login and invalidate its tokens")
def post_logout(
    request: Request,
    login: Configured,
    line: Annotated[AuditLine, audited("logout")],
    user: Annotated[User, require("user")],
) -> Response:
    if session := caller().session:
        login.sessions.end(session)
    line.describe(user.username)
    response = JSONResponse({})
    response.delete_cookie(COOKIE, path=root_of(request) or "/")
    return response


# ---- users file: login page ----


@form_router.get(LOGIN_PAGE)
def get_login_page(request: Request, context: Context, next: str = "/") -> Response:
    return _page(request, context.name, next)


@form_router.post(LOGIN_PAGE, dependencies=[takes_turn("login")])
def post_login_page(
    request: Request,
    context: Context,
    login: Configured,
    username: Annotated[str, Form()] = "",
    password: Annotated[str, Form()] = "",
    next: Annotated[str, Form()] = "/",
) -> Response:
    try:
        issued = login.by_password(username, password)
    except UserError as error:
        response = _page(request, context.name, next, str(error), getattr(error, "status", 400))
        if after := getattr(error, "retry_after", None):
            response.headers["Retry-After"] = str(after)
        return response
    redirect = RedirectResponse(_local(request, next), status_code=303, headers={"Cache-Control": "no-store"})
    redirect.headers["set-cookie"] = cookie(request, issued["access_token"], issued["expires_in"])
    return redirect


def _page(request: Request, name: str, next: str, message: str = "", status: int = 200) -> Response:
    action = f"{root_of(request)}{LOGIN_PAGE}"
    values = {"title": name, "message": message, "next": _local(request, next), "action": action}
    page = _PAGE.substitute({key: html.escape(value) for key, value in values.items()})
    return HTMLResponse(page, status_code=status, headers=_HEADERS)


# ---- OpenID provider: code flow ----


def _openid_login_of(login: Configured) -> OpenIdLogin:
    assert isinstance(login, OpenIdLogin)  # the router is included for such logins only
    return login


OpenId = Annotated[OpenIdLogin, Depends(_openid_login_of)]


@openid_router.get(LOGIN_PAGE, dependencies=[takes_turn("login")])
def get_provider_login(request: Request, login: OpenId, next: str = "/") -> Response:
    address, state = login.start(_callback_address(request), _local(request, next))
    response = RedirectResponse(address, status_code=302, headers={"Cache-Control": "no-store"})
    # Lax: the callback is a navigation from another site.
    response.set_cookie(
        _STATE_COOKIE, state, max_age=PENDING_SECONDS, httponly=True, samesite="lax",
        secure=request.url.scheme == "https", path=f"{root_of(request)}{LOGIN_PAGE}",
    )  # fmt: skip
    return response


@openid_router.get(f"{LOGIN_PAGE}/callback", dependencies=[takes_turn("login")])
def get_provider_callback(
    request: Request, login: OpenId, state: str = "", code: str = "", error: str = ""
) -> Response:
    pending = login.pending(state, request.cookies.get(_STATE_COOKIE, ""))
    if pending is None:
        return _message("This login was started in another browser, or has expired.", 400)
    if error or not code:
        return _message(f"The OpenID provider refused the login: {error or 'no reason given'}.", 403)
    try:
        issued = login.finish(code, _callback_address(request), pending)
    except jwt.InvalidTokenError as fault:
        logger.warning("a login by OpenID failed: %s", fault)
        audit.record("login failed", "", by=login.source, why=str(fault))
        return _message("The response of the OpenID provider is invalid; see the server's log for details.", 401)
    except UserError as fault:
        return _message(f"{fault}.", getattr(fault, "status", 400))
    # Not a redirect: the browser would treat it as part of the navigation from the provider, and not send the cookie.
    target = html.escape(pending.next)
    response = HTMLResponse(
        f'<!doctype html><meta http-equiv="refresh" content="0; url={target}"><a href="{target}">Logged in</a>',
        headers=_HEADERS,
    )
    response.headers["set-cookie"] = cookie(request, issued["access_token"], issued["expires_in"])
    return response


def _callback_address(request: Request) -> str:
    return f"{request.url.scheme}://{request.url.netloc}{root_of(request)}{LOGIN_PAGE}/callback"


def _message(message: str, status: int) -> Response:
    page = f'<!doctype html><title>Log in</title><p>{html.escape(message)}</p><p><a href="login">Try again</a></p>'
    return HTMLResponse(page, status_code=status, headers=_HEADERS)


def _local(request: Request, address: str) -> str:
    """Address after the login if it is on this server, else the first page."""
    root = root_of(request)
    path = address.removeprefix(root)
    plain = address.startswith(f"{root}/") and path[1:2] not in ("/", "\\") and path.isprintable()
    return address if plain else f"{root}/"
