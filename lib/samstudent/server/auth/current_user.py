"""The user of the request that is worked on: set by ``server/auth/middleware.py``, known in every thread of it."""

from __future__ import annotations

from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from monailabel.endpoints.user.auth import User

ANONYMOUS = "anonymous"


@dataclass(frozen=True)
class Caller:
    """Attributes:
    address: of the client, as far as the server can tell; "" for a job or a command.
    user: who is logged in; None where nobody is asked to.
    session: of the login, to be ended by a logout.
    is_browser: OHIF, for one, which gets its images from the PACS itself.
    """

    address: str = ""
    user: User | None = None
    session: str = ""
    is_browser: bool = False


_caller: ContextVar[Caller] = ContextVar("samstudent_caller")
NOBODY = Caller()


def caller() -> Caller:
    return _caller.get(NOBODY)


def enter(who: Caller) -> Any:
    """Until ``leave`` is called with the answer."""
    return _caller.set(who)


def leave(token: Any) -> None:
    _caller.reset(token)


def user_name(claimed: object = None) -> str:
    """Who is logged in. Without a login: what the client calls itself, so that several can be told apart."""
    user = caller().user
    return user.username if user else str(claimed or ANONYMOUS)


def stamped(params: Mapping[str, Any]) -> dict[str, Any]:
    """A client's parameters in which nobody calls himself by another's name: with a login, it says who he is."""
    user = caller().user
    return {**params, "client_id": user.username, "user": user.username} if user else dict(params)
