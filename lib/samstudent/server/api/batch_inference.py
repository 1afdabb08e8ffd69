"""``/batch/infer``: pseudo labels for many cases, in a job process."""

from __future__ import annotations

from enum import Enum
from typing import Annotated, Any

from fastapi import APIRouter, Body, Query

from samstudent.server.api.bounded_route import BoundedRoute
from samstudent.server.api.job_status import JobJson, job_status
from samstudent.server.api.params import check_params
from samstudent.server.auth.audit import AuditLine, audited
from samstudent.server.auth.current_user import user_name
from samstudent.server.auth.roles import require
from samstudent.server.concurrency import takes_turn
from samstudent.server.context import Context
from samstudent.server.jobs.job import JobRunning

router = APIRouter(
    prefix="/batch", tags=["Infer"], route_class=BoundedRoute, responses={404: {"description": "no such model or job"}}
)


class Images(str, Enum):
    """Set of cases."""

    all = "all"
    labeled = "labeled"
    unlabeled = "unlabeled"


@router.get("/infer", summary="Last batch inference, running one, or all", dependencies=[require("user")])
def get_batch_inferences(
    context: Context, all: bool = False, check_if_running: bool = False
) -> JobJson | list[JobJson]:
    return job_status(context.jobs, "batch_infer", all, check_if_running)


@router.post(
    "/infer/{model}",
    summary="Generate pseudo labels",
    dependencies=[require("admin"), takes_turn("long")],
    responses={JobRunning.status: {"description": "a job of this kind is running"}},
)
def post_batch_inference(
    context: Context,
    line: Annotated[AuditLine, audited("batch inference started")],
    model: str,
    images: Annotated[Images, Query(description="set of cases; a list of ids belongs into the body")] = Images.all,
    params: Annotated[dict[str, Any] | None, Body(description="options of the task; images: list of case ids")] = None,
    run_sync: Annotated[bool, Query(description="wait for the end of the job and return its result")] = False,
) -> Any:
    context.model(model)
    params = dict(params or {})
    check_params(params, context.devices, model)
    if isinstance(params.get("images"), list):
        params["images"] = [context.image_id(image) for image in params["images"]]
    line.describe(user_name(), model=model, images=images.value)
    start = context.jobs.run if run_sync else context.jobs.start
    return start("batch_infer", {"model": model, "images": images.value, **params})


@router.delete("/infer", summary="Stop the running batch inference", dependencies=[require("admin")])
def delete_batch_inference(context: Context) -> JobJson | None:
    return context.jobs.stop("batch_infer")
