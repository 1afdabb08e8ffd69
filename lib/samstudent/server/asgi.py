"""ASGI application of the server, for ``monailabel start_server --uvicorn_app samstudent.server.asgi:app``.

``server/bootstrap.py`` adds this option to the host's command line for our app. The host's own application
(``monailabel.app``) is not imported.
"""

from __future__ import annotations

import functools
import sys
from pathlib import Path

from fastapi import FastAPI
from monailabel.config import settings
from monailabel.interfaces.utils.app import app_instance
from monailabel.utils.others.generic import device_map

from samstudent.rounds.schedule import ScheduleClock, ScheduledJobs, Scheduler
from samstudent.server import bootstrap, http, log_files
from samstudent.server.app import SamstudentApp, ends_host
from samstudent.server.auth import audit, download_grants, logins
from samstudent.server.concurrency import InferencePool, all_turns, inferences_at_once
from samstudent.server.context import ServerContext, Tasks
from samstudent.server.open_datastore import label_times
from samstudent.server.pacs.datastore import PacsDatastore
from samstudent.server.score_updates import ScoreUpdates
from samstudent.server.upload_sessions import open_sessions
from samstudent.util.timer import Timer

#: Interval between checks of the schedule and of the scores, seconds.
POLL_SECONDS = 5
#: Interval between removals of expired uploads, seconds.
CLEAN_UP_SECONDS = 300


def serve(app: SamstudentApp) -> FastAPI:
    """HTTP application of one app."""
    log_files.use_brief_handlers()
    with ends_host():
        context = _context(app)
    audit.write_to(context.study.audit)
    with ends_host():
        context.label_reviews.adopt()
    return http.build(context, functools.partial(_start, app, context))


def _context(app: SamstudentApp) -> ServerContext:
    study, datastore, jobs = app.study, app.datastore(), app.jobs
    assert jobs is not None  # created in the constructor of a server's app
    inference = InferencePool(inferences_at_once())
    automatic = list(app._scoring_methods) if settings.MONAI_LABEL_AUTO_UPDATE_SCORING else []

    def start_round(reason: str) -> None:
        audit.record("training started", "schedule", model="student", why=reason)
        jobs.start("train", {"model": "student", "reason": reason})

    scheduler = Scheduler(
        app.task.schedule,
        study.ledger,
        ScheduledJobs(functools.partial(label_times, datastore), lambda: jobs.is_busy("train"), start_round),
        ScheduleClock(POLL_SECONDS),
    )
    return ServerContext(
        name=app.name,
        description=app.description,
        study=study,
        datastore=datastore,
        tasks=Tasks(app._infers, app._trainers, app._strategies, app._scoring_methods),
        jobs=jobs,
        scheduler=scheduler,
        sessions=open_sessions() if settings.MONAI_LABEL_SESSIONS else None,
        inference=inference,
        turns=all_turns(inference),
        refresh_scores=ScoreUpdates(study, datastore, jobs, automatic).update,
        login=logins.configured(app.app_dir),
        grants=download_grants.configured(),
        log_file=Path(settings.MONAI_LABEL_APP_DIR) / "logs" / "app.log",
        devices=tuple({**device_map(), **{name: name for name in device_map().values()}}),
    )


def _start(app: SamstudentApp, context: ServerContext) -> None:
    """Start the server's background work; called before the first request."""
    assert app.jobs is not None
    app.shutdown.install(app.jobs)  # again: the HTTP server has set its own signal handlers since
    bootstrap.warn_if_open(sys.argv[1:], context.login is not None)
    if not context.datastore.list_images():
        text = f"the study is empty: no image in {app.studies}; images that are copied there or uploaded are listed"
        print(f"samstudent: {text}", file=sys.stderr, flush=True)
    if isinstance(context.datastore, PacsDatastore):
        context.datastore.exchange.start()
    context.scheduler.run()
    if settings.MONAI_LABEL_AUTO_UPDATE_SCORING:
        Timer(POLL_SECONDS, context.refresh_scores, "scores")
    if context.sessions is not None:
        Timer(CLEAN_UP_SECONDS, context.sessions.clean_up, "uploads")
    app.shutdown.ledger = context.study.ledger


app = serve(app_instance())
