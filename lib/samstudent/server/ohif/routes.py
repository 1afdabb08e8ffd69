"""``/ohif``: OHIF's page, as MONAI Label ships it, with our configuration."""

from __future__ import annotations

from fastapi import APIRouter, Request
from fastapi.responses import Response

from samstudent.server.auth.middleware import root_of
from samstudent.server.auth.roles import require
from samstudent.server.ohif.files import ohif_file

router = APIRouter(prefix="/ohif", include_in_schema=False)


@router.get("/{path:path}", dependencies=[require("user")])
def get_ohif(request: Request, path: str) -> Response:
    return ohif_file(path, root_of(request))
