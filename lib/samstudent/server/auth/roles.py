"""Roles: each includes those below it. ``require`` is what an endpoint asks for one by.

    @router.put("/label", dependencies=[require("annotator")])

A user's roles are filled up with those that they include when the user is recognised (``with_lower``).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any, Literal

from fastapi import Depends, Header
from fastapi.security import OAuth2PasswordBearer
from monailabel.config import settings

from samstudent.errors import UserError
from samstudent.server.auth.current_user import User, caller
from samstudent.server.auth.users import ROLES

#: From the least to the most. ``user`` may only read, and only exists with OpenID.
Role = Literal["user", "annotator", "reviewer", "admin"]


class RoleRequired(UserError):
    """Another role is needed (HTTP 403)."""

    status = 403


class LoginRequired(UserError):
    """Nobody is logged in where the server has a login (HTTP 401)."""

    status = 401


#: Describes the login in the OpenAPI description; tokens are checked by ``server/auth/middleware.py``.
bearer_token = OAuth2PasswordBearer(tokenUrl="auth/token", auto_error=False)


def role_name(role: Role) -> str:
    """A role in the host's words, which a site may choose (``MONAI_LABEL_AUTH_ROLE_...``)."""
    names: dict[Role, str] = {
        "user": settings.MONAI_LABEL_AUTH_ROLE_USER,
        "annotator": settings.MONAI_LABEL_AUTH_ROLE_ANNOTATOR,
        "reviewer": settings.MONAI_LABEL_AUTH_ROLE_REVIEWER,
        "admin": settings.MONAI_LABEL_AUTH_ROLE_ADMIN,
    }
    return names[role]


def role_names() -> tuple[str, str, str, str]:
    """All roles in the host's words, from the least to the most."""
    return role_name("user"), role_name("annotator"), role_name("reviewer"), role_name("admin")


def with_lower(roles: Iterable[str]) -> list[str]:
    """A user's roles in the host's words, with all that they include; unknown roles are left out.

    Args:
        roles: in the host's words, or in those of a users file.
    """
    names = role_names()
    known = {name: rank for rank, name in enumerate(names)} | {role: rank for rank, role in enumerate(ROLES, 1)}
    highest = max((known[role] for role in roles if role in known), default=-1)
    return list(names[: highest + 1])


def has_role(role: Role) -> bool:
    """Whether the caller has a role; true for everybody where the server has no login."""
    user = caller().user
    return user is None or role_name(role) in user.roles


def current_user() -> User:
    """The caller; an administrator without a name of its own where the server has no login.

    Raises:
        LoginRequired: the server has a login, and nobody is logged in.
    """
    user = caller().user
    if user is not None:
        return user
    if settings.MONAI_LABEL_AUTH_ENABLE:
        raise LoginRequired("log in first")
    return User(username="admin", email="admin@monailabel.com", name="UNK", roles=with_lower(["admin"]))


def require(role: Role) -> Any:
    """Dependency of an endpoint that only users with a role may call."""

    async def check() -> User:
        user = current_user()
        if role_name(role) not in user.roles:
            raise RoleRequired(f'Role "{role_name(role)}" is required to perform this action')
        return user

    return Depends(check)


class _ForeignRequest(UserError):
    status = 403


async def _require_header(
    x_samstudent: Annotated[str | None, Header(description="any value; pages of other sites cannot set it")] = None,
) -> None:
    if not x_samstudent:
        raise _ForeignRequest("header X-Samstudent: must be there, with any value; pages of other sites cannot set it")


#: Dependency of endpoints that change something: pages of other sites can make a browser send a request with its
#: cookies, but not with a header of its own.
from_page: Any = Depends(_require_header)


def permissions() -> dict[str, bool]:
    """What the review page offers to the caller."""
    return {"annotate": has_role("annotator"), "review": has_role("reviewer"), "administer": has_role("admin")}
