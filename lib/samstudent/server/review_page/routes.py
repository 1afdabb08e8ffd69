"""The page's endpoints: its files, the overview, and the review of pseudo labels."""

from __future__ import annotations

import hashlib
import mimetypes
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from fastapi import APIRouter, Request, Response
from monailabel.config import settings
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from samstudent.errors import NotFound
from samstudent.imaging.folder import case_id
from samstudent.server.auth import roles
from samstudent.server.auth.current_user import user_name
from samstudent.server.auth.roles import User
from samstudent.server.review_page.overview import overview
from samstudent.server.review_page.pictures import Slice, picture
from samstudent.server.review_page.service import Desk

if TYPE_CHECKING:
    from samstudent.server.app import SamstudentApp

STATIC = Path(__file__).parent / "static"
HEADERS = {
    # Nothing from elsewhere, no inline script or style: a case's name that holds HTML stays a name.
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    # Asked for anew each time: after an update no part of the page is an old one.
    "Cache-Control": "no-cache",
}

#: An id in whatever Unicode form, as the study lists it.
Case = Annotated[str, AfterValidator(case_id)]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid")

    #: Of the pseudo label that was looked at: ``digest`` of GET /samstudent/review/<case>.
    digest: str = Field(max_length=64)


class Acceptance(_Body):
    #: Where a structure is taken from: ``refined``, ``student`` or ``absent``. Needed for rejected ones; others are
    #: refined where they passed the gate and absent where they were not found.
    structures: dict[str, str] = {}


def page_router(app: SamstudentApp) -> APIRouter:
    """Endpoints bound to one app."""
    routes = APIRouter(prefix="/samstudent", tags=["samstudent"])
    desk = Desk(app)

    # The page itself is the same for everybody and tells nothing of the study, so it needs no login.
    @routes.get("", include_in_schema=False)
    def get_page() -> Response:
        return _static("index.html")

    @routes.get("/page/{name}", include_in_schema=False)
    def get_part(name: str) -> Response:
        return _static(name)

    # Plain functions, not coroutines: they read files, and the server's one event loop must not wait for that.
    @routes.get("/me", summary="Who is asking, and what the page offers to that user")
    def get_me(user: User = roles.reader) -> dict[str, Any]:
        about = {"user": user_name(), "name": user.name, "roles": user.roles}
        return about | {"login": settings.MONAI_LABEL_AUTH_ENABLE, "may": roles.permissions(user)}

    @routes.get("/overview", summary="Counts, what is served, what runs, the schedule and all rounds")
    def get_overview(user: User = roles.reader) -> dict[str, Any]:
        return overview(desk)

    @routes.get("/review", summary="The review queue: pseudo labels, the worst first")
    def get_queue(
        state: str = "waiting", structure: str | None = None, first: int = 0, count: int = 50, user: User = roles.reader
    ) -> dict[str, Any]:
        return desk.queue(state, structure, first, count)

    @routes.get("/review/{case}", summary="One case of the queue: its structures, its digest, its size")
    def get_case(case: Case, user: User = roles.reader) -> dict[str, Any]:
        return desk.case(case)

    @routes.get("/review/{case}/image", summary="The image, or a slice of it, as PNG", response_class=Response)
    def get_image(
        request: Request, case: Case, axis: str | None = None, index: int | None = None, size: int = 1024,
        user: User = roles.reader,
    ) -> Response:  # fmt: skip
        key = hashlib.sha256(f"{desk.image_key(case)} {axis} {index} {size}".encode()).hexdigest()[:32]
        if (unchanged := _unchanged(request, key)) is not None:
            return unchanged
        shown = desk.shown(case)
        content = picture(shown, Slice.checked(shown.shape, axis, index, size))
        return Response(content, media_type="image/png", headers=_private(key))

    @routes.get("/review/{case}/masks", summary="Masks on that image's pixels, as runs, by source and structure")
    def get_masks(
        case: Case, axis: str | None = None, index: int | None = None, size: int = 1024, user: User = roles.reader
    ) -> dict[str, Any]:
        shown = desk.shown(case)
        return desk.runs(case, Slice.checked(shown.shape, axis, index, size)) | {"digest": desk.digest(case)}

    @routes.post(
        "/review/{case}/accept", summary="Make the pseudo label this user's label", dependencies=[roles.from_page]
    )
    def post_accept(case: Case, body: Acceptance, user: User = roles.reviewer) -> dict[str, Any]:
        return desk.accept(case, body.digest, body.structures, user_name())

    @routes.post(
        "/review/{case}/{decision}",
        summary="reject: do not train on it until it is made anew; send: offer the case to annotators first",
        dependencies=[roles.from_page],
    )
    def post_decision(
        case: Case, decision: Annotated[Literal["reject", "send"], "path"], body: _Body, user: User = roles.reviewer
    ) -> dict[str, Any]:
        return desk.decide(case, "rejected" if decision == "reject" else "sent", body.digest, user_name())

    @routes.delete("/review/{case}/decision", summary="Take the last decision back", dependencies=[roles.from_page])
    def delete_decision(case: Case, user: User = roles.reviewer) -> dict[str, Any]:
        return desk.undo(case, user_name())

    return routes


def _static(name: str) -> Response:
    """A file of the page. Raises NotFound for anything that is not one."""
    files = {path.name: path for path in STATIC.iterdir() if path.is_file()}
    if name not in files:
        raise NotFound(f"the page has no part {name!r}")
    kind = {".js": "text/javascript"}.get(files[name].suffix) or mimetypes.guess_type(name)[0]
    return Response(files[name].read_bytes(), media_type=kind, headers=HEADERS)


def _private(key: str) -> dict[str, str]:
    """A browser may keep it, but must ask each time, so that nobody sees it without a right to."""
    return {"ETag": f'"{key}"', "Cache-Control": "private, no-cache", "X-Content-Type-Options": "nosniff"}


def _unchanged(request: Request, key: str) -> Response | None:
    sent = [tag.strip().removeprefix("W/") for tag in request.headers.get("if-none-match", "").split(",")]
    return Response(status_code=304, headers=_private(key)) if f'"{key}"' in sent else None
