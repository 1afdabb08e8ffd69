"""The user of the request that is worked on: set by ``server/auth/middleware.py``, known in every thread of it."""

from __future__ import annotations

from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

ANONYMOUS = "anonymous"


class User(BaseModel):
    """A person or program that has logged in, as ``GET /auth/token/valid`` answers it.

    Attributes:
        username: identifies the user.
        email: address, where the provider knows one.
        name: full name.
        roles: in the host's words (``MONAI_LABEL_AUTH_ROLE_...``), with all that each includes.
    """

    username: str
    email: str | None = None
    name: str | None = None
    roles: list[str] = []


@dataclass(frozen=True)
class Caller:
    """Who a request comes from.

    Attributes:
        address: of the client, as far as the server can tell; "" for a job or a command.
        user: who is logged in; None where the server has no login.
        session: id of the login session, ended by a logout; "" where this server keeps none.
        is_browser: whether it is a web browser. OHIF, for one, gets its images from the PACS itself.
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
    """Name of the user who is logged in. Without a login: what the client calls itself, to tell clients apart."""
    user = caller().user
    return user.username if user else str(claimed or ANONYMOUS)


def stamped(params: Mapping[str, Any]) -> dict[str, Any]:
    """A client's parameters with the name of the logged-in user, so that no client uses the name of another."""
    user = caller().user
    return {**params, "client_id": user.username, "user": user.username} if user else dict(params)
