"""``/samstudent``: schedule, rounds and SAM. All may read; administrators change the served model."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field

from samstudent.errors import NotFound
from samstudent.server.api.bounded_route import BoundedRoute
from samstudent.server.auth.audit import AuditLine, audited
from samstudent.server.auth.current_user import user_name
from samstudent.server.auth.roles import require
from samstudent.server.context import Context
from samstudent.server.pacs.datastore import PacsDatastore

router = APIRouter(prefix="/samstudent", tags=["samstudent"], route_class=BoundedRoute)
READ = [require("user")]
ADMINISTER = [require("admin")]


class ScheduleChange(BaseModel):
    """Body of ``PUT /samstudent/schedule``."""

    model_config = ConfigDict(extra="forbid")

    paused: bool = Field(description="true: no round starts by itself until it is set to false again")


@router.get("/schedule", summary="What is pending, running, the last round, the next time", dependencies=READ)
def get_schedule(context: Context) -> dict[str, Any]:
    return context.scheduler.status()


@router.put("/schedule", summary="Hold or release the schedule", dependencies=ADMINISTER)
def put_schedule(
    context: Context, line: Annotated[AuditLine, audited("schedule held or released")], change: ScheduleChange
) -> dict[str, Any]:
    line.action = "schedule held" if change.paused else "schedule released"
    context.scheduler.pause(change.paused)
    return context.scheduler.status()


@router.get("/rounds", summary="All rounds with their figures, and which is served", dependencies=READ)
def get_rounds(context: Context) -> dict[str, Any]:
    ledger = context.study.ledger
    champion = ledger.champion()
    return {
        "champion": champion.id if champion else None,
        "rounds": [record.model_dump(mode="json") for record in ledger.rounds()],
    }


@router.get("/rounds/{round_id}", summary="All that is kept of one round, to check and repeat it", dependencies=READ)
def get_round(context: Context, round_id: str) -> dict[str, Any]:
    ledger = context.study.ledger
    kept = {name: ledger.read_json(round_id, name) for name in ("scores", "inputs")}
    return ledger.get(round_id).model_dump(mode="json") | kept


# The audit's line is the ledger's, which writes it before it promotes.
@router.post("/rounds/{round_id}/promote", summary="Serve the student of this round", dependencies=ADMINISTER)
def post_promote(context: Context, round_id: str) -> dict[str, Any]:
    context.study.ledger.promote(round_id, who=user_name())
    return {"champion": round_id}


@router.post("/rollback", summary="Serve the student that was served before", dependencies=ADMINISTER)
def post_rollback(context: Context) -> dict[str, Any]:
    return {"champion": context.study.ledger.rollback(who=user_name())}


@router.get("/pacs", summary="Whether the PACS answers, and which labels it does not have yet", dependencies=READ)
def get_pacs(context: Context) -> dict[str, Any]:
    if not isinstance(context.datastore, PacsDatastore):
        raise NotFound("this study is a folder, not a PACS")
    return dict(context.datastore.exchange.status())


@router.get("/sam", summary="Which SAM is active, and all that were adapted to this study's labels", dependencies=READ)
def get_sam(context: Context) -> dict[str, Any]:
    models, active = context.study.adapted_models, context.study.active_model
    return {
        "backend": context.task.sam.backend,
        "active": active,
        "digest": context.study.sam().digest,
        "record": models.record(active) if active else None,
        "adapted": models.records(),
        "history": [change.model_dump(mode="json") for change in models.history],
    }


@router.post(
    "/sam/plain", summary="Go back to SAM as it comes, until another one is adapted and better", dependencies=ADMINISTER
)
def post_plain_sam(context: Context, line: Annotated[AuditLine, audited("plain SAM served")]) -> dict[str, Any]:
    line.describe(user_name())
    context.study.adapted_models.activate_plain(who=user_name())
    return {"active": None}
