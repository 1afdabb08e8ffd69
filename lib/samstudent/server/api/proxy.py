"""``/proxy/dicom``: proxy of the PACS for viewers in the browser."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Request
from fastapi.responses import Response

from samstudent.errors import NotFound, UserError
from samstudent.server.api.bounded_route import BoundedRoute
from samstudent.server.auth.roles import require
from samstudent.server.concurrency import takes_turn
from samstudent.server.context import Context
from samstudent.server.pacs.proxy import forward

router = APIRouter(prefix="/proxy", route_class=BoundedRoute, include_in_schema=False)
_SERVICES = ("qido", "wado", "stow")


async def _stored(request: Request, context: Context) -> bytes:
    """Body of the request; not read if the study is a folder."""
    if not context.study.is_remote:
        raise NotFound("the study is a folder, not a DICOMweb server: there is no PACS to forward requests to")
    return await request.body()


Stored = Annotated[bytes, Depends(_stored)]


@router.get("/dicom/{path:path}", dependencies=[require("user"), takes_turn("pacs")])
def get_from_pacs(request: Request, path: str, body: Stored) -> Response:
    return forward(request, body, *_service_and_path(path))


# Stored segmentations become labels. OHIF stores at the WADO-RS address, so not ``stow`` alone.
@router.post("/dicom/{path:path}", dependencies=[require("annotator"), takes_turn("pacs")])
def post_to_pacs(request: Request, path: str, body: Stored) -> Response:
    return forward(request, body, *_service_and_path(path))


def _service_and_path(path: str) -> tuple[str, str]:
    """Service (qido, wado, stow or "") and the path below it."""
    if ".." in path.split("/"):
        raise UserError("path: must not contain ..")
    first, _, rest = path.partition("/")
    return (first, rest) if first in _SERVICES else ("", path)
