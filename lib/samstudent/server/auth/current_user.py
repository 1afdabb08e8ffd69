"""User of the current request: set by ``server/auth/middleware.py``, available in all threads of the request."""

from __future__ import annotations

from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

ANONYMOUS = "anonymous"


class User(BaseModel):
    """Person or program that has logged in; response of ``GET /auth/token/valid``.

    Attributes:
        username: login name.
        email: address, if the provider has one.
        name: full name.
        roles: names of the host (``MONAI_LABEL_AUTH_ROLE_...``), including those below.
    """

    username: str
    email: str | None = None
    name: str | None = None
    roles: list[str] = []


@dataclass(frozen=True)
class Caller:
    """Origin of a request.

    Attributes:
        address: network address of the client; "" for a job or a command.
        user: logged-in user; None without a login.
        session: id of the login session, ended by a logout; "" for a token of a provider.
        is_browser: whether the client is a web browser; OHIF loads images from the PACS itself.
    """

    address: str = ""
    user: User | None = None
    session: str = ""
    is_browser: bool = False


_caller: ContextVar[Caller] = ContextVar("samstudent_caller")
NOBODY = Caller()


def caller() -> Caller:
    """Caller of the current request; ``NOBODY`` outside of one."""
    return _caller.get(NOBODY)


def enter(who: Caller) -> Any:
    """Set the caller until ``leave`` gets the token that this returns."""
    return _caller.set(who)


def leave(token: Any) -> None:
    """Restore the caller before ``enter``."""
    _caller.reset(token)


def user_name(claimed: object = None) -> str:
    """Name of the logged-in user; without a login the name that the client claims."""
    user = caller().user
    return user.username if user else str(claimed or ANONYMOUS)


def stamped(params: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters of a request with the name of the logged-in user in place of a claimed one."""
    user = caller().user
    return {**params, "client_id": user.username, "user": user.username} if user else dict(params)
