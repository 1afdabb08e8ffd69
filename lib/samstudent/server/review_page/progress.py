"""Progress of the jobs that run or wait, for the review page."""

from __future__ import annotations

from typing import Any

from samstudent.rounds.round_record import RoundRecord
from samstudent.server.jobs.job import KINDS, Job, Status
from samstudent.server.jobs.runner import JobRunner
from samstudent.util.progress import Progress

NAMES = {"train": "training", "batch_infer": "pseudo labels", "scoring": "scores of active learning"}
#: Lines of a job's output that the page gets.
LINES = 8


def progress_of_jobs(runner: JobRunner, running: RoundRecord | None) -> list[dict[str, Any]]:
    """Jobs of this server that run or wait, and a round that was started elsewhere, as JSON values.

    Args:
        runner: of the server.
        running: the round that runs, in this server or on a command line; None: none does.

    Returns:
        A dictionary for each: ``kind``, ``name``, ``round`` and ``reason`` (of a training), ``since``, ``lines``,
        ``steps`` (``Progress.as_json``) in the order in which they began, and ``step``: the name of the step that runs.
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
    steps = [Progress("training the student", record.step, record.steps)] if record.step and record.steps else []
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
