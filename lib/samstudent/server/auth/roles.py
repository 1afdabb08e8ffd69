"""Roles: what each may do more than the one below it, and which the host's endpoints ask for.

The host compares roles exactly, so that its administrator may not save a label. Here each role includes those below it:
a user's roles are filled up when he is recognised (``with_lower``), and the host's exact check does the rest.

``reader``, ``reviewer`` and ``admin`` are what an endpoint of ours takes as default of a parameter, to
ask for a role and to learn who calls: ``def promote(user: User = admin)``.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from fastapi import Depends, FastAPI, Header
from monailabel.config import settings
from monailabel.endpoints.user.auth import RBAC, User

from samstudent.errors import UserError
from samstudent.server.api.threads import api_routes
from samstudent.server.auth.users import ROLES

__all__ = ["User", "admin", "from_page", "permissions", "reader", "reviewer"]

reader: Any = Depends(RBAC(settings.MONAI_LABEL_AUTH_ROLE_USER))
reviewer: Any = Depends(RBAC(settings.MONAI_LABEL_AUTH_ROLE_REVIEWER))
admin: Any = Depends(RBAC(settings.MONAI_LABEL_AUTH_ROLE_ADMIN))


class _ForeignRequest(UserError):
    status = 403


def _require_header(x_samstudent: str | None = Header(None, description="anything; see from_page")) -> None:
    if not x_samstudent:
        raise _ForeignRequest("header X-Samstudent: must be there, with any value; pages of other sites cannot set it")


#: For requests that change something: pages of other sites can make a browser send one, with its cookies, but not with
#: a header of its own.
from_page: Any = Depends(_require_header)

#: Endpoints of the host that annotators may use there, and only administrators here: what changes which images a study
#: holds, and what everybody's jobs are.
_FOR_ADMINS = frozenset(
    {
        *(("PUT", "/datastore/image"), ("PUT", "/datastore/"), ("PUT", "/datastore/image/info")),
        *(("PUT", "/model/{model}"), ("DELETE", "/model/{model}")),
        *(("POST", "/scoring/"), ("POST", "/scoring/{method}"), ("DELETE", "/scoring/")),
    }
)
#: Those that everybody may use there, and whoever may save labels here: they reserve a case, or take space.
_FOR_ANNOTATORS = frozenset(
    {
        *(("POST", "/activelearning/{strategy}"), ("PUT", "/session/")),
        # What is stored in the PACS becomes a label. OHIF stores where it retrieves.
        *(("POST", f"/proxy/dicom{op}/{{path:path}}") for op in ("/wado", "/stow", "")),
    }
)


def permissions(user: User) -> dict[str, bool]:
    """What the page offers to a user."""
    everybody = not settings.MONAI_LABEL_AUTH_ENABLE
    return {
        "annotate": everybody or settings.MONAI_LABEL_AUTH_ROLE_ANNOTATOR in user.roles,
        "review": everybody or settings.MONAI_LABEL_AUTH_ROLE_REVIEWER in user.roles,
        "administer": everybody or settings.MONAI_LABEL_AUTH_ROLE_ADMIN in user.roles,
    }


def host_names() -> tuple[str, str, str, str]:
    """The host's words, from the least to the most; the first, a reader, only exists with OpenID."""
    return (
        settings.MONAI_LABEL_AUTH_ROLE_USER,
        settings.MONAI_LABEL_AUTH_ROLE_ANNOTATOR,
        settings.MONAI_LABEL_AUTH_ROLE_REVIEWER,
        settings.MONAI_LABEL_AUTH_ROLE_ADMIN,
    )


def with_lower(roles: Iterable[str]) -> list[str]:
    """A user's roles in the host's words, with all that they include; roles that mean nothing here are left out.

    Args:
        roles: in the host's words, or in those of a users file.
    """
    names = host_names()
    known = {name: rank for rank, name in enumerate(names)} | {role: rank for rank, role in enumerate(ROLES, 1)}
    highest = max((known[role] for role in roles if role in known), default=-1)
    return list(names[: highest + 1])


def raise_roles(fastapi_app: FastAPI) -> None:
    """Have the host's endpoints ask for the roles that docs/how-to/login.md promises. Idempotent."""
    for route in api_routes(fastapi_app):
        for method in route.methods or ():
            name = None
            if (method, route.path) in _FOR_ADMINS:
                name = settings.MONAI_LABEL_AUTH_ROLE_ADMIN
            elif (method, route.path) in _FOR_ANNOTATORS:
                name = settings.MONAI_LABEL_AUTH_ROLE_ANNOTATOR
            if name:
                for dependency in route.dependant.dependencies:
                    if isinstance(dependency.call, RBAC):
                        # One of its own: the host's may be that of another method, too.
                        dependency.call = RBAC(name)
