"""``/scoring``: computation of the scores for active learning, in a job process."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Body, Query

from samstudent.server.api.bounded_route import BoundedRoute
from samstudent.server.api.job_status import JobJson, job_status
from samstudent.server.api.params import check_params, check_params_by_name, params_of
from samstudent.server.auth.roles import require
from samstudent.server.concurrency import takes_turn
from samstudent.server.context import Context, require_known
from samstudent.server.jobs.job import JobRunning

router = APIRouter(
    prefix="/scoring",
    tags=["Scoring"],
    route_class=BoundedRoute,
    responses={404: {"description": "no such scoring method or job"}},
)
START = [require("admin"), takes_turn("long")]
Wait = Annotated[bool, Query(description="wait for the end of the job and return its result")]


@router.get("/", summary="Last scoring, running one, or all", dependencies=[require("user")])
def get_scorings(context: Context, all: bool = False, check_if_running: bool = False) -> JobJson | list[JobJson]:
    return job_status(context.jobs, "scoring", all, check_if_running)


@router.post("/", include_in_schema=False, dependencies=START)
def post_all_scorings(
    context: Context,
    params: Annotated[dict[str, Any] | None, Body(description="options by method")] = None,
    run_sync: Wait = False,
) -> dict[str, Any]:
    methods = context.tasks.scoring
    check_params_by_name(params or {}, methods, "scoring method", context.devices)
    start = context.jobs.run if run_sync else context.jobs.start
    requests = {name: {"method": name, **params_of(params or {}, name)} for name in methods}
    return {name: {"result": start("scoring", requests[name], enqueue=True), "detail": None} for name in requests}


@router.post(
    "/{method}",
    summary="Start a scoring method",
    dependencies=START,
    responses={JobRunning.status: {"description": "a job of this kind is running"}},
)
def post_scoring(
    context: Context,
    method: str,
    params: Annotated[dict[str, Any] | None, Body(description="options of the method")] = None,
    run_sync: Wait = False,
) -> Any:
    require_known(method, context.tasks.scoring, "scoring method")
    check_params(params or {}, context.devices)
    start = context.jobs.run if run_sync else context.jobs.start
    return start("scoring", {"method": method, **(params or {})})


@router.delete("/", summary="Stop the running scoring", dependencies=[require("admin")])
def delete_scoring(context: Context) -> JobJson | None:
    return context.jobs.stop("scoring")
