"""The host's endpoints of jobs, answered by the runner. Leaves with these endpoints."""

from __future__ import annotations

from typing import Any

from monailabel.utils.async_tasks.task import AsyncTask

from samstudent.errors import NotFound
from samstudent.server.jobs.job import JobRunning
from samstudent.server.jobs.runner import JobRunner


def install(jobs: JobRunner) -> None:
    """Have the host's endpoints use the runner."""

    def run(
        method: str, request: Any = None, params: Any = None, force_sync: bool = False, enqueue: bool = False
    ) -> tuple[Any, str | None]:
        start = jobs.run if force_sync else jobs.start
        try:
            return start(method, {**(request or {}), **(params or {})}, enqueue), None
        except JobRunning as error:
            return None, str(error)

    def status(method: str, all: bool = False, check_if_running: bool = False) -> tuple[Any, str | None]:
        try:
            found = jobs.running(method) if check_if_running else jobs.jobs(method)
        except NotFound as error:
            return None, str(error)
        return found[-1] if isinstance(found, list) and not all else found, None

    AsyncTask.run, AsyncTask.status = staticmethod(run), staticmethod(status)
    AsyncTask.stop = staticmethod(jobs.stop)
