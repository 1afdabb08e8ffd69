"""Jobs of an experiment and their dependencies, each with a folder named by a digest of everything it depends on.

Two methods that need the same student have the same job, so it is done once; a job whose folder has ``done.json`` is
done, so a killed run continues where it stopped.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from samstudent import __version__
from samstudent.engine.store import content_key
from samstudent.research.experiment.published import Published
from samstudent.research.setting import FolderOptions


@dataclass(frozen=True)
class Job:
    """One piece of work.

    Attributes:
        kind: key of its function in ``work.KINDS``.
        label: name for users.
        params: JSON values that it depends on.
        cases: ids of the cases that it reads; digests of their content are in ``params``.
        needs: jobs that must be done before, by their role for the function.
    """

    kind: str
    label: str
    params: Mapping[str, Any]
    cases: tuple[str, ...]
    needs: Mapping[str, Job] = field(default_factory=dict)

    @cached_property
    def key(self) -> str:
        """Digest of everything the result depends on."""
        needs = {name: job.key for name, job in self.needs.items()}
        return content_key(__version__, self.kind, dict(self.params), needs)

    def folder(self, work: Path) -> Path:
        """Folder of the job's results in ``work``."""
        return work / f"{self.kind}-{self.key}"


@dataclass(frozen=True)
class ExperimentOptions:
    """Options of an experiment; see ``samstudent experiment --help``.

    Attributes:
        folder: options for cases and size of students.
        labels: numbers of labels.
        methods: names in ``methods.METHODS``.
        seeds: seeds of the trainings.
        jobs: number of processes; None: one per GPU or core; 0: everything in this process.
        command: the command line, for the report.
        notes: remarks for the report, before its warnings.
        published: figures of a publication, for a table beside the measured ones.
    """

    folder: FolderOptions
    labels: tuple[int, ...] = (10, 30)
    methods: tuple[str, ...] = ("labels", "raw", "paper", "ours", "all")
    seeds: tuple[int, ...] = (0, 1, 2)
    jobs: int | None = None
    command: str = ""
    notes: tuple[str, ...] = ()
    published: Published | None = None


def in_order(jobs: Sequence[Job]) -> dict[str, Job]:
    """Jobs and those that they need, by key, each after those that it needs."""
    found: dict[str, Job] = {}

    def visit(job: Job) -> None:
        if job.key not in found:
            for needed in job.needs.values():
                visit(needed)
            found[job.key] = job

    for job in jobs:
        visit(job)
    return found
