"""The server's own endpoints, under /samstudent."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict

from samstudent.errors import NotFound
from samstudent.server.auth import audit
from samstudent.server.auth.current_user import user_name
from samstudent.server.auth.roles import User, admin, reader
from samstudent.server.review_page.routes import page_router

if TYPE_CHECKING:
    from samstudent.server.app import SamstudentApp


class ScheduleChange(BaseModel):
    model_config = ConfigDict(extra="forbid")

    #: True: no round starts by itself until it is set to False again. Triggers are kept.
    paused: bool


def router(app: SamstudentApp) -> APIRouter:
    """Endpoints bound to one app. Reading is for every user, what changes the served model for administrators."""
    routes = APIRouter(prefix="/samstudent", tags=["samstudent"])

    # Plain functions, not coroutines: they read files, and the server's one event loop must not wait for that.
    @routes.get("/schedule", summary="What is pending, running, the last round, the next time")
    def get_schedule(user: User = reader) -> dict[str, Any]:
        return app.scheduler.status()

    @routes.put("/schedule", summary="Hold or release the schedule")
    def put_schedule(change: ScheduleChange, user: User = admin) -> dict[str, Any]:
        audit.record("schedule held" if change.paused else "schedule released", user_name())
        app.scheduler.pause(change.paused)
        return app.scheduler.status()

    @routes.get("/rounds", summary="All rounds with their figures, and which is served")
    def get_rounds(user: User = reader) -> dict[str, Any]:
        ledger = app.study.ledger
        champion = ledger.champion()
        return {
            "champion": champion.id if champion else None,
            "rounds": [record.model_dump(mode="json") for record in ledger.rounds()],
        }

    @routes.get("/rounds/{round_id}", summary="All that is kept of one round, so that it can be checked and repeated")
    def get_round(round_id: str, user: User = reader) -> dict[str, Any]:
        ledger = app.study.ledger
        kept = {name: ledger.kept(round_id, name) for name in ("scores", "inputs")}
        return ledger.get(round_id).model_dump(mode="json") | kept

    @routes.post("/rounds/{round_id}/promote", summary="Serve the student of this round")
    def post_promote(round_id: str, user: User = admin) -> dict[str, Any]:
        app.study.ledger.promote(round_id, who=user_name())
        return {"champion": round_id}

    @routes.post("/rollback", summary="Serve the student that was served before")
    def post_rollback(user: User = admin) -> dict[str, Any]:
        return {"champion": app.study.ledger.rollback(who=user_name())}

    @routes.get("/pacs", summary="Whether the PACS answers, and which labels it does not have yet")
    def get_pacs(user: User = reader) -> dict[str, Any]:
        exchange = getattr(app.datastore(), "exchange", None)
        if exchange is None:
            raise NotFound("this study is a folder, not a PACS")
        return dict(exchange.status())

    @routes.get("/sam", summary="Which SAM is in force, and all that were adapted to this study's labels")
    def get_sam(user: User = reader) -> dict[str, Any]:
        sams, in_force = app.study.sams, app.study.sam_in_force
        return {
            "backend": app.task.sam.backend,
            "in_force": in_force,
            "digest": app.study.sam().digest,
            "record": sams.record(in_force) if in_force else None,
            "adapted": sams.records(),
            "history": [change.model_dump(mode="json") for change in sams.history],
        }

    @routes.post("/sam/plain", summary="Go back to SAM as it comes, until another one is adapted and better")
    def post_plain_sam(user: User = admin) -> dict[str, Any]:
        audit.record("plain SAM in force", user_name())
        app.study.sams.use_plain(who=user_name())
        return {"in_force": None}

    everything = APIRouter()
    everything.include_router(routes)
    everything.include_router(page_router(app))
    return everything
