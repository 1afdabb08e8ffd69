"""``/activelearning``: selection of the next case to label."""

from __future__ import annotations

import logging
import time
from typing import Annotated, Any

from fastapi import APIRouter, Body

from samstudent.server.api.bounded_route import BoundedRoute
from samstudent.server.api.params import check_params
from samstudent.server.auth.current_user import stamped
from samstudent.server.auth.roles import require
from samstudent.server.concurrency import takes_turn
from samstudent.server.context import Context, require_known

logger = logging.getLogger(__name__)

router = APIRouter(
    prefix="/activelearning",
    tags=["ActiveLearning"],
    route_class=BoundedRoute,
    responses={404: {"description": "no such strategy"}},
)


@router.post(
    "/{strategy}",
    summary="Select the next case to label, and reserve it",
    dependencies=[require("annotator"), takes_turn("sample")],
)
def post_next_sample(
    context: Context,
    strategy: str,
    params: Annotated[dict[str, Any] | None, Body(description="client_id: name of the client")] = None,
) -> dict[str, Any]:
    select = require_known(strategy, context.tasks.strategies, "strategy")
    check_params(params or {}, context.devices)
    request = {"strategy": strategy, **stamped(params or {})}
    logger.info("next sample by %s for %s", strategy, request.get("client_id"))
    sample: dict[str, Any] = select(request, context.datastore) or {}
    if not sample.get("id"):
        reason = getattr(select, "reason_for_none", None)
        return {"reason": reason(context.datastore)} if reason else {}
    image = str(sample["id"])
    path = context.datastore.get_image_uri(image)
    context.refresh_scores()
    if context.grants is not None:
        context.grants.add(image)
    return sample | {"path": path} | _record_selection(context, image, strategy, request.get("client_id"))


def _record_selection(context: Context, image: str, strategy: str, client: object) -> dict[str, Any]:
    """Record time and client of a selection in the metadata of the image; returns the metadata."""
    info: dict[str, Any] = context.datastore.get_image_info(image)
    selections = {**info.get("strategy", {}), strategy: {"ts": int(time.time()), "client_id": client}}
    try:
        context.datastore.update_image_info(image, {"strategy": selections})
    except OSError as error:  # the annotator gets the case all the same
        logger.warning("the selection of %s could not be recorded: %s", image, error)
    return info | {"strategy": selections}
