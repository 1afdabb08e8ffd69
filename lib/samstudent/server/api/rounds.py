"""``/samstudent``: schedule, rounds and SAM. Every user may read; administrators exchange the served models."""

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

    paused: bool = Field(description="true: the schedule starts no rounds until it is set to false")


@router.get(
    "/schedule", summary="State of the schedule: pending and running round, last round, next time", dependencies=READ
)
def get_schedule(context: Context) -> dict[str, Any]:
    return context.scheduler.status()


@router.put("/schedule", summary="Pause or resume the schedule", dependencies=ADMINISTER)
def put_schedule(
    context: Context, line: Annotated[AuditLine, audited("schedule paused or resumed")], change: ScheduleChange
) -> dict[str, Any]:
    line.action = "schedule paused" if change.paused else "schedule resumed"
    context.scheduler.pause(change.paused)
    return context.scheduler.status()


@router.get("/rounds", summary="All rounds with their results, and the served one", dependencies=READ)
def get_rounds(context: Context) -> dict[str, Any]:
    ledger = context.study.ledger
    champion = ledger.champion()
    return {
        "champion": champion.id if champion else None,
        "rounds": [record.model_dump(mode="json") for record in ledger.rounds()],
    }


@router.get(
    "/rounds/{round_id}", summary="Complete record of one round, for verification and repetition", dependencies=READ
)
def get_round(context: Context, round_id: str) -> dict[str, Any]:
    ledger = context.study.ledger
    files = {name: ledger.read_json(round_id, name) for name in ("scores", "inputs")}
    return ledger.get(round_id).model_dump(mode="json") | files


# The ledger writes the audit record before it promotes.
@router.post("/rounds/{round_id}/promote", summary="Serve the student of this round", dependencies=ADMINISTER)
def post_promote(context: Context, round_id: str) -> dict[str, Any]:
    context.study.ledger.promote(round_id, who=user_name())
    return {"champion": round_id}


@router.post("/rollback", summary="Serve the previously served student", dependencies=ADMINISTER)
def post_rollback(context: Context) -> dict[str, Any]:
    return {"champion": context.study.ledger.rollback(who=user_name())}


@router.get("/pacs", summary="Connection to the PACS, and labels that are not transferred yet", dependencies=READ)
def get_pacs(context: Context) -> dict[str, Any]:
    if not isinstance(context.datastore, PacsDatastore):
        raise NotFound("the study is a folder, not a PACS")
    return dict(context.datastore.exchange.status())


@router.get("/sam", summary="Active SAM, and all adapted models of this study", dependencies=READ)
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


@router.post("/sam/plain", summary="Use the plain SAM until a better adapted model exists", dependencies=ADMINISTER)
def post_plain_sam(context: Context, line: Annotated[AuditLine, audited("plain SAM served")]) -> dict[str, Any]:
    line.describe(user_name())
    context.study.adapted_models.activate_plain(who=user_name())
    return {"active": None}
