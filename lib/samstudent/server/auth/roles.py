"""Roles, each of which includes those below it. Endpoints require a role by ``require``:

    @router.put("/label", dependencies=[require("annotator")])

A user gets all included roles at the login (``with_lower``).
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

#: In ascending order. ``user`` may only read, and exists with OpenID only.
Role = Literal["user", "annotator", "reviewer", "admin"]


class RoleRequired(UserError):
    """The user lacks a role (HTTP 403)."""

    status = 403


class LoginRequired(UserError):
    """A login is required (HTTP 401)."""

    status = 401


#: Login in the OpenAPI description; tokens are verified by ``server/auth/middleware.py``.
bearer_token = OAuth2PasswordBearer(tokenUrl="auth/token", auto_error=False)


def role_name(role: Role) -> str:
    """Name of a role at this site (``MONAI_LABEL_AUTH_ROLE_...``)."""
    names: dict[Role, str] = {
        "user": settings.MONAI_LABEL_AUTH_ROLE_USER,
        "annotator": settings.MONAI_LABEL_AUTH_ROLE_ANNOTATOR,
        "reviewer": settings.MONAI_LABEL_AUTH_ROLE_REVIEWER,
        "admin": settings.MONAI_LABEL_AUTH_ROLE_ADMIN,
    }
    return names[role]


def role_names() -> tuple[str, str, str, str]:
    """Names of all roles at this site, in ascending order."""
    return role_name("user"), role_name("annotator"), role_name("reviewer"), role_name("admin")


def with_lower(roles: Iterable[str]) -> list[str]:
    """Names of a user's roles at this site, with all included ones; unknown roles are ignored.

    Args:
        roles: names at this site, or of a users file.
    """
    names = role_names()
    known = {name: rank for rank, name in enumerate(names)} | {role: rank for rank, role in enumerate(ROLES, 1)}
    highest = max((known[role] for role in roles if role in known), default=-1)
    return list(names[: highest + 1])


def has_role(role: Role) -> bool:
    """Whether the current user has a role; True without a login."""
    user = caller().user
    return user is None or role_name(role) in user.roles


def current_user() -> User:
    """User of the current request; without a login the host's default administrator.

    Raises:
        LoginRequired: the server has a login, and the request has no user.
    """
    user = caller().user
    if user is not None:
        return user
    if settings.MONAI_LABEL_AUTH_ENABLE:
        raise LoginRequired("login required")
    return User(username="admin", email="admin@monailabel.com", name="UNK", roles=with_lower(["admin"]))


def require(role: Role) -> Any:
    """Dependency of an endpoint: a role that the user must have."""

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
        raise _ForeignRequest("header X-Samstudent is required, with any value; pages of other sites cannot set it")


#: Dependency of endpoints with changes: a request that a page of another site causes has the cookies of the browser,
#: but no custom header.
from_page: Any = Depends(_require_header)


def permissions() -> dict[str, bool]:
    """Actions of the review page that the current user is allowed to do."""
    return {"annotate": has_role("annotator"), "review": has_role("reviewer"), "administer": has_role("admin")}
