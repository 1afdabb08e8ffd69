"""Endpoints of the host that this server does not support: response 403 with the reason."""

from __future__ import annotations

from fastapi import APIRouter

from samstudent.errors import UserError
from samstudent.server.api.bounded_route import BoundedRoute
from samstudent.server.auth.roles import require

router = APIRouter(route_class=BoundedRoute)


class Disabled(UserError):
    """Endpoint of the host that this server does not support (HTTP 403)."""

    status = 403


_WHOLE_SLIDE = "whole-slide images are not supported; use POST /infer/<model>"


@router.post("/infer/wsi/{model}", include_in_schema=False, dependencies=[require("user")])
@router.post("/infer/wsi_v2/{model}", include_in_schema=False, dependencies=[require("user")])
def post_whole_slide(model: str) -> None:
    raise Disabled(_WHOLE_SLIDE)


# After a reload the host's app no longer recognises that it runs in a server, and sends requests to itself until it
# hangs (E10).
@router.post("/reload", include_in_schema=False)
def post_reload() -> None:
    raise Disabled("reload is not supported; restart the server")
