"""Progress of running and waiting jobs, for the review page."""

from __future__ import annotations

from typing import Any

from samstudent.rounds.round_record import RoundRecord
from samstudent.server.jobs.job import KINDS, Job, Status
from samstudent.server.jobs.runner import JobRunner
from samstudent.util.progress import Progress

NAMES = {"train": "training", "batch_infer": "pseudo labels", "scoring": "scores of active learning"}
#: Number of output lines of a job on the page.
LINES = 8


def progress_of_jobs(runner: JobRunner, running: RoundRecord | None) -> list[dict[str, Any]]:
    """Running and waiting jobs of this server, and a round of a command line, as JSON values.

    Args:
        runner: job runner of the server.
        running: running round of this server or a command line; None: there is none.

    Returns:
        A dictionary for each: ``kind``, ``name``, ``round`` and ``reason`` (of a training), ``since``, ``lines``,
        ``steps`` (``Progress.as_json``) in the order of their start, and ``step``: name of the running step.
    """
    active = [job for kind in KINDS for job in runner.active(kind)]
    found = [_of_job(job, running) for job in active]
    if running is not None and not any(job.kind == "train" for job in active):
        found.append(_of_round(running))
    return found


def _of_job(job: Job, running: RoundRecord | None) -> dict[str, Any]:
    record = running if job.kind == "train" and job.status is Status.RUNNING else None
    return {
        "kind": job.kind,
        "name": NAMES[job.kind],
        "round": record.id if record else None,
        "reason": record.reason if record else "",
        "since": f"{job.submitted:%Y-%m-%d %H:%M:%S}",
        "lines": job.details[-LINES:],
        "step": job.current.step if job.current else "starting" if job.status is Status.RUNNING else "waiting",
        "steps": [step.as_json() for step in job.steps],
    }


def _of_round(record: RoundRecord) -> dict[str, Any]:
    """A round of a command line; of its steps only that of the student is kept in the study."""
    total = None if record.steps == "auto" else record.steps
    steps = [Progress("training the student", record.step, total)] if record.step else []
    return {
        "kind": "round",
        "name": "training",
        "round": record.id,
        "reason": record.reason,
        "since": None,
        "lines": [],
        "step": steps[0].step if steps else "running",
        "steps": [step.as_json() for step in steps],
    }
