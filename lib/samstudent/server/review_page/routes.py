"""Endpoints of the review page: static files, overview, and review of pseudo labels."""

from __future__ import annotations

import hashlib
import mimetypes
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request, Response
from monailabel.config import settings
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from samstudent.errors import NotFound
from samstudent.imaging.file_names import case_id
from samstudent.server.api.bounded_route import BoundedRoute
from samstudent.server.auth.audit import AuditLine, audited
from samstudent.server.auth.current_user import User, user_name
from samstudent.server.auth.roles import from_page, permissions, require
from samstudent.server.review_page.overview import overview
from samstudent.server.review_page.pictures import Slice, picture
from samstudent.server.review_page.promised import Promise, PromisedLabels
from samstudent.server.review_page.queue import QueuePage
from samstudent.server.review_page.service import ReviewService

STATIC = Path(__file__).parent / "static"
HEADERS = {
    # No external resources, inline scripts or styles: HTML in the name of a case is not interpreted.
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    # Revalidated each time, so that all parts of the page are of one version.
    "Cache-Control": "no-cache",
}

#: Case id, converted to composed Unicode form.
Case = Annotated[str, AfterValidator(case_id)]


class DecidedLabel(BaseModel):
    """Body of a decision about a pseudo label."""

    model_config = ConfigDict(extra="forbid")

    digest: str = Field(max_length=64, description="digest of the reviewed label, from GET /samstudent/review/<case>")


class AcceptedLabel(DecidedLabel):
    """Body of an acceptance."""

    structures: dict[str, str] = Field(
        {},
        description="source by structure: refined, student or absent; required for rejected structures; default for "
        "others: refined if accepted by the quality filter, absent if not found",
    )


class PromisedBody(BaseModel):
    """Body of an acceptance of all promised structures."""

    model_config = ConfigDict(extra="forbid")

    digest: str = Field(max_length=64, description="digest of the selection, from GET /samstudent/promised")
    dice: float = Field(0.9, ge=0, le=1, description="smallest lower bound of Dice")
    partial: bool = Field(
        False,
        description="also cases in which only some of the structures found reach it; the others are not annotated then",
    )


router = APIRouter(prefix="/samstudent", tags=["samstudent"], route_class=BoundedRoute)
READ = [require("user")]
REVIEW = [require("reviewer"), from_page]


async def _review(request: Request) -> ReviewService:
    service: ReviewService = request.app.state.review
    return service


Review = Annotated[ReviewService, Depends(_review)]


# The page has no data of the study.
@router.get("", include_in_schema=False)
def get_page() -> Response:
    return _static("index.html")


@router.get("/page/{name:path}", include_in_schema=False)
def get_part(name: str) -> Response:
    return _static(name)


@router.get("/me", summary="Current user and permissions")
def get_me(user: Annotated[User, require("user")]) -> dict[str, Any]:
    user_data = {"user": user_name(), "name": user.name, "roles": user.roles}
    return user_data | {"login": settings.MONAI_LABEL_AUTH_ENABLE, "may": permissions()}


@router.get("/overview", summary="Counts, served student, running jobs, schedule and rounds", dependencies=READ)
def get_overview(review: Review) -> dict[str, Any]:
    return overview(review)


@router.get("/review", summary="Review queue: pseudo labels, lowest quality or bound first", dependencies=READ)
def get_queue(
    review: Review,
    state: str = "waiting",
    structure: str | None = None,
    first: int = 0,
    count: int = 50,
    order: str = "quality",
    bound: float | None = None,
) -> dict[str, Any]:
    return review.queue(QueuePage(state, structure, first, count, order, bound))


@router.get("/review/{case}", summary="One case of the queue: structures, digest, size", dependencies=READ)
def get_case(review: Review, case: Case) -> dict[str, Any]:
    return review.case(case)


@router.get(
    "/review/{case}/image",
    summary="Image, or a slice of it, as PNG",
    response_class=Response,
    responses={200: {"content": {"image/png": {}}}},
    dependencies=READ,
)
def get_image(
    request: Request, review: Review, case: Case, axis: str | None = None, index: int | None = None, size: int = 1024
) -> Response:
    key = hashlib.sha256(f"{review.image_key(case)} {axis} {index} {size}".encode()).hexdigest()[:32]
    if (same := unchanged(request, key)) is not None:
        return same
    shown = review.shown(case)
    content = picture(shown, Slice.checked(shown.shape, axis, index, size))
    return Response(content, media_type="image/png", headers=private_headers(key))


@router.get(
    "/review/{case}/masks",
    summary="Masks on the pixels of that image, as run lengths by source and structure",
    dependencies=READ,
)
def get_masks(
    review: Review, case: Case, axis: str | None = None, index: int | None = None, size: int = 1024
) -> dict[str, Any]:
    shown = review.shown(case)
    return review.runs(case, Slice.checked(shown.shape, axis, index, size)) | {"digest": review.digest(case)}


@router.post("/review/{case}/accept", summary="Accept the pseudo label as label of this user", dependencies=REVIEW)
def post_accept(
    review: Review, line: Annotated[AuditLine, audited("accept")], case: Case, body: AcceptedLabel
) -> dict[str, Any]:
    accepted = review.accept(case, body.digest, body.structures, user_name())
    line.describe(user_name(), case=case, digest=body.digest, **accepted)
    return {"case": case, "state": "accepted"}


@router.post(
    "/review/{case}/reject",
    summary="Do not train on the pseudo label until it is generated again",
    dependencies=REVIEW,
)
def post_reject(
    review: Review, line: Annotated[AuditLine, audited("reject")], case: Case, body: DecidedLabel
) -> dict[str, Any]:
    provenance = review.decide(case, "rejected", body.digest, user_name())
    line.describe(user_name(), case=case, digest=body.digest, provenance=provenance)
    return {"case": case, "state": "rejected"}


@router.post("/review/{case}/send", summary="Send the case to the annotators, who get it first", dependencies=REVIEW)
def post_send(
    review: Review, line: Annotated[AuditLine, audited("send")], case: Case, body: DecidedLabel
) -> dict[str, Any]:
    provenance = review.decide(case, "sent", body.digest, user_name())
    line.describe(user_name(), case=case, digest=body.digest, provenance=provenance)
    return {"case": case, "state": "sent"}


@router.delete("/review/{case}/decision", summary="Undo the last decision", dependencies=REVIEW)
def delete_decision(review: Review, line: Annotated[AuditLine, audited("undo")], case: Case) -> dict[str, Any]:
    undone = review.undo(case)
    line.describe(user_name(), case=case, undone=undone)
    return {"case": case, "undone": undone}


@router.get("/promised", summary="Structures whose lower bound of Dice reaches a value", dependencies=READ)
def get_promised(review: Review, dice: float = 0.9, partial: bool = False) -> dict[str, Any]:
    return PromisedLabels(review).preview(Promise(dice, partial))


@router.post("/promised", summary="Accept all of them as labels of this user, unseen", dependencies=REVIEW)
def post_promised(
    review: Review, line: Annotated[AuditLine, audited("accept promised")], body: PromisedBody
) -> dict[str, Any]:
    accepted = PromisedLabels(review).accept(Promise(body.dice, body.partial), body.digest, user_name())
    line.describe(user_name(), dice=body.dice, partial=body.partial, **accepted)
    return accepted


@router.delete("/promised/{batch}", summary="Undo such an acceptance", dependencies=REVIEW)
def delete_promised(review: Review, line: Annotated[AuditLine, audited("undo promised")], batch: str) -> dict[str, Any]:
    undone = PromisedLabels(review).undo(batch)
    line.describe(user_name(), batch=batch, **undone)
    return undone


def _static(name: str) -> Response:
    """File of the page. Raises NotFound."""
    files = {path.relative_to(STATIC).as_posix(): path for path in STATIC.rglob("*") if path.is_file()}
    if name not in files:
        raise NotFound(f"the page has no file {name!r}")
    kind = {".js": "text/javascript"}.get(files[name].suffix) or mimetypes.guess_type(name)[0]
    return Response(files[name].read_bytes(), media_type=kind, headers=HEADERS)


def private_headers(key: str) -> dict[str, str]:
    """Headers of a response that a browser may cache, but must revalidate, so that the login is checked each time."""
    return {"ETag": f'"{key}"', "Cache-Control": "private, no-cache", "X-Content-Type-Options": "nosniff"}


def unchanged(request: Request, key: str) -> Response | None:
    """Response 304 if the browser has the content of this key already, else None."""
    sent = [tag.strip().removeprefix("W/") for tag in request.headers.get("if-none-match", "").split(",")]
    return Response(status_code=304, headers=private_headers(key)) if f'"{key}"' in sent else None
