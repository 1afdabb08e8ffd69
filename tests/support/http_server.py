"""HTTP application of the server in this process, with the test's own context."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from samstudent.rounds.schedule import ScheduledJobs, Scheduler
from samstudent.rounds.study import Study
from samstudent.server.auth.current_user import User
from samstudent.server.auth.login_sessions import InvalidToken
from samstudent.server.auth.logins import Login
from samstudent.server.concurrency import InferencePool, all_turns
from samstudent.server.context import ServerContext, Tasks
from samstudent.server.datastore.study_folder import StudyFolderDatastore
from samstudent.server.jobs.runner import JobRunner
from samstudent.server.jobs.start_methods import by_context
from samstudent.server.upload_sessions import SafeSessions
from samstudent.task import Task
from support.drawn import small_task


def _no_work(kind: str, request: dict[str, Any], report: Any) -> None:
    raise AssertionError("these tests start no job")


def make_context(folder: Path, task: Task | None = None, **changes: Any) -> ServerContext:
    """Parts of a server on a study folder, without models and login.

    Args:
        folder: of the study; its log and uploads go beside it.
        task: by default ``small_task``.
        changes: other parts.
    """
    study = Study(str(folder), str(folder), task or small_task())
    inference = InferencePool(2)
    scheduler = Scheduler(study.task.schedule, study.ledger, ScheduledJobs(list, lambda: False, lambda reason: None))
    context = ServerContext(
        name="test",
        description="",
        study=study,
        datastore=StudyFolderDatastore(str(folder), auto_reload=False),
        tasks=Tasks({}, {}, {}, {}),
        jobs=JobRunner(_no_work, by_context()),
        scheduler=scheduler,
        sessions=SafeSessions(str(folder.parent / "sessions")),
        inference=inference,
        turns=all_turns(inference),
        refresh_scores=lambda: None,
        login=None,
        grants=None,
        log_file=folder.parent / "app.log",
        devices=("cpu",),
    )
    return replace(context, **changes)


class RolesByToken(Login):
    """A login whose tokens are names of users, each with roles in the host's words."""

    source = "users"

    def __init__(self, users: dict[str, list[str]]) -> None:
        self.users = users

    def user_of(self, token: str) -> tuple[User, None]:
        if token not in self.users:
            raise InvalidToken(token)
        return User(username=token, roles=self.users[token]), None

    def _by_password(self, name: str, password: str) -> None:
        return None
