"""State of the jobs of one kind, in the form of the host's API."""

from __future__ import annotations

from typing import Any

from samstudent.server.jobs.runner import JobRunner

#: State of a job (``jobs.job.Job.as_json``).
JobJson = dict[str, Any]


def job_status(jobs: JobRunner, kind: str, all: bool, check_if_running: bool) -> JobJson | list[JobJson]:
    """Last job of a kind, all of them, or the running one.

    Raises:
        NotFound: there is no such job.
    """
    if check_if_running:
        return jobs.running(kind)
    found = jobs.jobs(kind)
    return found if all else found[-1]
