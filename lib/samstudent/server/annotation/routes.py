"""Endpoints of the tab Annotate: images, live SAM, drafts, labels, flags, and history of a case."""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Iterable
from typing import Annotated, Any

from fastapi import APIRouter, Depends, File, Header, Query, Request, Response, UploadFile
from monailabel.datastore.utils.colors import GENERIC_ANATOMY_COLORS
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from samstudent.errors import NotFound, UserError
from samstudent.imaging.file_names import case_id
from samstudent.imaging.structure_names import plain_name
from samstudent.server.annotation.cases import CasePage, case_list
from samstudent.server.annotation.drafts import as_json
from samstudent.server.annotation.drawn_label import DrawnLabel
from samstudent.server.annotation.live_sam import MAX_POINTS, SamRequest
from samstudent.server.annotation.service import AnnotationService
from samstudent.server.api.bounded_route import BoundedRoute
from samstudent.server.api.reservations import note_work
from samstudent.server.auth.audit import AuditLine, audited
from samstudent.server.auth.current_user import user_name
from samstudent.server.auth.roles import from_page, require
from samstudent.server.concurrency import takes_turn
from samstudent.server.review_page.routes import private_headers, unchanged

#: Longest drawn label, bytes.
MAX_LABEL = 16 << 20

#: Case id, converted to composed Unicode form.
Case = Annotated[str, AfterValidator(case_id)]
Axis = Annotated[str | None, Query(description="z, y or x: plane of a volume; none for a single image")]
Index = Annotated[int | None, Query(description="index of the plane, canonical, from 0")]
Client = Annotated[
    str, Query(max_length=200, description="name of the person, where the server has no login; else ignored")
]
Finite = Annotated[float, Field(allow_inf_nan=False)]


class _PreconditionRequired(UserError):
    status = 428


class SamBody(BaseModel):
    """Prompts of one structure on one plane, in pixels of the plane."""

    model_config = ConfigDict(extra="forbid")

    structure: str = Field(max_length=200, description="name of the structure")
    box: tuple[Finite, Finite, Finite, Finite] | None = Field(None, description="x0, y0, x1, y1")
    positive: list[tuple[Finite, Finite]] = Field([], max_length=MAX_POINTS, description="points on the structure")
    negative: list[tuple[Finite, Finite]] = Field([], max_length=MAX_POINTS, description="points outside of it")
    axis: str | None = Field(None, description="plane of a volume: z, y or x")
    index: int | None = Field(None, description="index of the plane")


class FlagBody(BaseModel):
    """Body of a flag."""

    model_config = ConfigDict(extra="forbid")

    reason: str = Field(max_length=2000, description="why the image is unusable")


router = APIRouter(
    prefix="/samstudent/annotate",
    tags=["samstudent"],
    route_class=BoundedRoute,
    responses={404: {"description": "no such case, label or version"}},
)
READ = [require("user")]
DRAW = [require("annotator"), from_page]


async def _service(request: Request) -> AnnotationService:
    service: AnnotationService = request.app.state.annotation
    return service


Service = Annotated[AnnotationService, Depends(_service)]


@router.get("", summary="Cases of the study with their state", dependencies=READ)
def get_cases(
    service: Service,
    state: str | None = None,
    search: Annotated[str, Query(max_length=200)] = "",
    first: int = 0,
    count: int = 50,
    client: Client = "",
) -> dict[str, Any]:
    return case_list(service, CasePage(state, search, first, count), user_name(client))


@router.get("/{case}", summary="One case: size, label, draft, flag, sources of masks", dependencies=READ)
def get_case(service: Service, case: Case, client: Client = "") -> dict[str, Any]:
    names = service.task.names
    return service.case(case, user_name(client)) | {"structures": names, "slicer_colours": slicer_colours(names)}


@router.get(
    "/{case}/pixels",
    summary="Pixels of the image, or of a plane of it, little-endian, as described by GET /samstudent/annotate/<case>",
    response_class=Response,
    responses={200: {"content": {"application/octet-stream": {}}}},
    dependencies=READ,
)
def get_pixels(request: Request, service: Service, case: Case, axis: Axis = None, index: Index = None) -> Response:
    key = hashlib.sha256(f"pixels {service.review.image_key(case)} {axis} {index}".encode()).hexdigest()[:32]
    if (same := unchanged(request, key)) is not None:
        return same
    headers = private_headers(key) | {"Vary": "Accept-Encoding"}
    content = service.plane(case, axis, index)
    if "gzip" in request.headers.get("accept-encoding", ""):
        content = gzip.compress(content, 1)
        headers["Content-Encoding"] = "gzip"
    return Response(content, media_type="application/octet-stream", headers=headers)


@router.get("/{case}/label", summary="Masks of the human label, or of another version", dependencies=READ)
def get_label_masks(
    service: Service, case: Case, version: Annotated[str | None, Query(description="id, from the history")] = None
) -> dict[str, Any]:
    service.require_known(case)
    return service.label_masks(case, version)


@router.get(
    "/{case}/predicted",
    summary="Masks of the student, or of the student and SAM",
    dependencies=[*READ, takes_turn("inference")],
)
def get_predicted(
    service: Service, case: Case, source: Annotated[str, Query(description="student or sam")] = "student"
) -> dict[str, Any]:
    service.require_known(case)
    return service.model_masks(case, source)


@router.post(
    "/{case}/prepare",
    summary="Make the SAM embedding of a plane in advance",
    dependencies=[*DRAW, takes_turn("inference")],
)
def post_prepare(service: Service, case: Case, axis: Axis = None, index: Index = None) -> dict[str, Any]:
    service.require_known(case)
    service.prepare(case, axis, index)
    return {"case": case, "ready": True}


@router.post("/{case}/sam", summary="Mask of SAM for a box and points", dependencies=[*DRAW, takes_turn("inference")])
def post_sam(service: Service, case: Case, body: SamBody, client: Client = "") -> dict[str, Any]:
    service.require_known(case)
    request = SamRequest(body.structure, body.box, body.positive, body.negative)
    found = service.sam_mask(case, body.axis, body.index, request)
    note_work(service.context, case, {"client_id": user_name(client)})
    return found


@router.get("/{case}/draft", summary="Draft of this person", dependencies=READ)
def get_draft(service: Service, case: Case, client: Client = "") -> dict[str, Any]:
    service.require_known(case)
    draft = service.drafts.get(user_name(client), case)
    if draft is None:
        raise NotFound(f"there is no draft of {case!r}")
    return as_json(draft)


@router.put("/{case}/draft", summary="Save a draft of this person", dependencies=DRAW)
def put_draft(
    service: Service,
    case: Case,
    label: Annotated[UploadFile, File(description="JSON: the drawn label")],
    client: Client = "",
) -> dict[str, Any]:
    service.require_known(case)
    drawn = _drawn(label, service)
    note_work(service.context, case, {"client_id": user_name(client)})
    return {"case": case, "saved": service.drafts.put(user_name(client), case, drawn)}


@router.delete("/{case}/draft", summary="Remove the draft of this person", dependencies=DRAW)
def delete_draft(service: Service, case: Case, client: Client = "") -> dict[str, Any]:
    service.require_known(case)
    if not service.drafts.remove(user_name(client), case):
        raise NotFound(f"there is no draft of {case!r}")
    return {"case": case}


@router.put(
    "/{case}/label",
    summary="Save a drawn label as human label",
    dependencies=[*DRAW, takes_turn("write")],
    responses={
        409: {"description": "the label was changed in the meantime; both versions are kept"},
        428: {"description": "no If-Match"},
    },
)
def put_drawn_label(
    service: Service,
    line: Annotated[AuditLine, audited("label saved")],
    case: Case,
    label: Annotated[UploadFile, File(description="JSON: the drawn label")],
    if_match: Annotated[str | None, Header(description="digest of the label that the person has seen, or none")] = None,
    client: Client = "",
) -> dict[str, Any]:
    service.require_known(case)
    if if_match is None:
        raise _PreconditionRequired("header If-Match is required: label.digest of GET /samstudent/annotate/<case>")
    drawn, who = _drawn(label, service), user_name(client)
    line.describe(who, case=case, tag="final", seconds=round(drawn.seconds), actions=drawn.actions)
    note_work(service.context, case, {"client_id": who})
    return service.save(case, drawn, if_match.strip().strip('"'), who)


@router.put("/{case}/flag", summary="Flag the case as unusable: no training and selection", dependencies=DRAW)
def put_flag(
    service: Service, line: Annotated[AuditLine, audited("flag")], case: Case, body: FlagBody, client: Client = ""
) -> dict[str, Any]:
    service.require_known(case)
    flag = service.context.label_reviews.flag(case, body.reason, user_name(client))
    line.describe(user_name(client), case=case, reason=flag.reason)
    return {"case": case, "flag": flag.model_dump()}


@router.delete("/{case}/flag", summary="Remove the flag of the case", dependencies=DRAW)
def delete_flag(
    service: Service, line: Annotated[AuditLine, audited("flag removed")], case: Case, client: Client = ""
) -> dict[str, Any]:
    if not service.context.label_reviews.unflag(case):
        raise NotFound(f"{case!r} is not flagged")
    line.describe(user_name(client), case=case)
    return {"case": case, "flag": None}


@router.get("/{case}/history", summary="Versions of the human label, those of 3D Slicer included", dependencies=READ)
def get_history(service: Service, case: Case) -> dict[str, Any]:
    return {"case": case, "versions": service.history(case)}


def slicer_colours(names: Iterable[str]) -> dict[str, tuple[int, int, int] | None]:
    """Red, green and blue (0 to 255) of 3D Slicer's table of anatomical colours, by name; None: not in it."""
    table = {plain_name(name): colour for name, colour in GENERIC_ANATOMY_COLORS.items()}
    return {name: table.get(plain_name(name)) for name in names}


def _drawn(upload: UploadFile, service: AnnotationService) -> DrawnLabel:
    """Drawn label of an upload.

    Raises:
        UserError: not valid; the text names the key.
    """
    content = upload.file.read(MAX_LABEL + 1)
    if len(content) > MAX_LABEL:
        raise UserError(f"label: longer than {MAX_LABEL} bytes")
    try:
        drawn = DrawnLabel.model_validate_json(content)
    except ValidationError as error:
        first = error.errors()[0]
        raise UserError(f"label: {'.'.join(map(str, first['loc']))}: {first['msg']}") from error
    drawn.check_names(service.task)
    return drawn
