"""State of the jobs of one kind, as the host's clients ask for it."""

from __future__ import annotations

from typing import Any

from samstudent.server.jobs.runner import JobRunner

#: A job as the host's clients read it (``jobs.job.Job.as_json``).
JobJson = dict[str, Any]


def job_status(jobs: JobRunner, kind: str, all: bool, check_if_running: bool) -> JobJson | list[JobJson]:
    """The last job of a kind, all of them, or the one that runs.

    Raises:
        NotFound: there is none.
    """
    if check_if_running:
        return jobs.running(kind)
    found = jobs.jobs(kind)
    return found if all else found[-1]
