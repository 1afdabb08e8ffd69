"""``/train``: rounds, and adaptation of SAM, in job processes."""

from __future__ import annotations

import time
from typing import Annotated, Any

from fastapi import APIRouter, Body, Query

from samstudent.errors import UserError
from samstudent.server.api.bounded_route import BoundedRoute
from samstudent.server.api.job_status import JobJson, job_status
from samstudent.server.api.params import check_params, check_params_by_name, params_of
from samstudent.server.auth.audit import AuditLine, audited
from samstudent.server.auth.current_user import user_name
from samstudent.server.auth.roles import require
from samstudent.server.concurrency import takes_turn
from samstudent.server.context import Context, require_known
from samstudent.server.jobs.job import JobRunning

router = APIRouter(
    prefix="/train",
    tags=["Train"],
    route_class=BoundedRoute,
    responses={404: {"description": "no such trainer or job"}},
)
START = [require("admin"), takes_turn("long")]
Wait = Annotated[bool, Query(description="wait for the end of the job and return its result")]


@router.get("/", summary="Last training, running one, or all", dependencies=[require("user")])
def get_trainings(context: Context, all: bool = False, check_if_running: bool = False) -> JobJson | list[JobJson]:
    return job_status(context.jobs, "train", all, check_if_running)


# OHIF uses this endpoint: it starts all trainers.
@router.post("/", include_in_schema=False, dependencies=START)
def post_all_trainings(
    context: Context,
    line: Annotated[AuditLine, audited("training started")],
    params: Annotated[dict[str, Any] | None, Body(description="options by trainer")] = None,
    run_sync: Wait = False,
) -> dict[str, Any]:
    trainers = context.tasks.trainers
    check_params_by_name(params or {}, trainers, "trainer", context.devices)
    requests = {name: {"model": name, **params_of(params or {}, name)} for name in trainers}
    refusals = []
    for name, trainer in trainers.items():
        try:
            if plan := getattr(trainer, "plan", None):
                plan(requests[name], context.datastore)
        except UserError as error:  # trainers need different numbers of labels
            refusals.append(error)
    if refusals and len(refusals) == len(trainers):
        raise refusals[0]
    line.describe(user_name(), model="all")
    start = context.jobs.run if run_sync else context.jobs.start
    return {name: {"result": start("train", requests[name], enqueue=True), "detail": None} for name in requests}


@router.post(
    "/{model}",
    summary="Start a training",
    dependencies=START,
    responses={JobRunning.status: {"description": "a job of this kind is running"}},
)
def post_training(
    context: Context,
    line: Annotated[AuditLine, audited("training started")],
    model: str,
    params: Annotated[dict[str, Any] | None, Body(description="options of the trainer")] = None,
    run_sync: Wait = False,
    enqueue: Annotated[bool, Query(description="start after the running job")] = False,
) -> Any:
    trainer = require_known(model, context.tasks.trainers, "trainer")
    check_params(params or {}, context.devices, model)
    if plan := getattr(trainer, "plan", None):
        plan(params or {}, context.datastore)
    line.describe(user_name((params or {}).get("client_id")), model=model)
    start = context.jobs.run if run_sync else context.jobs.start
    return start("train", {"model": model, **(params or {})}, enqueue=enqueue)


@router.delete("/", summary="Stop the running training", dependencies=[require("admin")])
def delete_training(context: Context, line: Annotated[AuditLine, audited("training stopped")]) -> JobJson | None:
    ledger = context.study.ledger
    running = ledger.running()
    line.describe(user_name(), round=running.id if running else None)
    stopped = context.jobs.stop("train")
    if running and stopped:
        # "failed", not "interrupted": the schedule must not start a stopped round again.
        ledger.update(running.id, status="failed", finished=time.time(), error="stopped on request")
    return stopped
