"""Who may do what on the server's own endpoints: FastAPI dependencies that return the user."""

from __future__ import annotations

from fastapi import Depends, Header
from monailabel.config import settings
from monailabel.endpoints.user.auth import RBAC, User

from samstudent.errors import UserError

__all__ = ["User", "admin", "annotator", "from_page", "permissions", "reader", "reviewer"]

_ANNOTATORS = (settings.MONAI_LABEL_AUTH_ROLE_ANNOTATOR, settings.MONAI_LABEL_AUTH_ROLE_REVIEWER)

#: Looks at everything.
reader = Depends(RBAC(settings.MONAI_LABEL_AUTH_ROLE_USER))
#: Makes labels: draws, accepts and rejects them. A reviewer may do so, too.
annotator = Depends(RBAC(_ANNOTATORS))
reviewer = Depends(RBAC(settings.MONAI_LABEL_AUTH_ROLE_REVIEWER))
#: Changes what is served and when is trained.
admin = Depends(RBAC(settings.MONAI_LABEL_AUTH_ROLE_ADMIN))


class _ForeignRequest(UserError):
    status = 403


def _require_header(x_samstudent: str | None = Header(None, description="anything; see from_page")) -> None:
    if not x_samstudent:
        raise _ForeignRequest("header X-Samstudent: must be there, with any value; pages of other sites cannot set it")


#: For requests that change something: pages of other sites can make a browser send one, with its cookies, but not with
#: a header of its own.
from_page = Depends(_require_header)


def permissions(user: User) -> dict[str, bool]:
    """What the page offers to a user."""
    open_to_all = not settings.MONAI_LABEL_AUTH_ENABLE
    return {
        "review": open_to_all or any(role in user.roles for role in _ANNOTATORS),
        "administer": open_to_all or settings.MONAI_LABEL_AUTH_ROLE_ADMIN in user.roles,
    }
