"""Jobs of an experiment that depend on others, each in a folder named by all that its result depends on.

Two methods that need the same student name the same job, so it is done once; a job whose folder has ``done.json`` is
done, so a run that was killed goes on where it was.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from samstudent import __version__
from samstudent.engine.store import content_key
from samstudent.research.setting import FolderOptions


@dataclass(frozen=True)
class Job:
    """One piece of work.

    Attributes:
        kind: which function of ``work.KINDS`` does it.
        label: for people.
        params: plain values that it depends on.
        cases: ids of the cases that it reads; their content is among ``params``.
        needs: jobs that must be done before, by the name under which the function finds their folders.
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
        """Where the job leaves its results, in the folder of all of them."""
        return work / f"{self.kind}-{self.key}"


@dataclass(frozen=True)
class ExperimentOptions:
    """Options of an experiment; see ``samstudent experiment --help``.

    Attributes:
        folder: which cases, and how students look.
        labels: numbers of labels.
        methods: names in ``methods.METHODS``.
        seeds: of the trainings.
        jobs: number of processes; None: one a GPU or core; 0: everything in this process.
        command: the command line, for the report.
    """

    folder: FolderOptions
    labels: tuple[int, ...] = (10, 30)
    methods: tuple[str, ...] = ("labels", "raw", "paper", "ours", "all")
    seeds: tuple[int, ...] = (0, 1, 2)
    jobs: int | None = None
    command: str = ""


def in_order(jobs: Sequence[Job]) -> dict[str, Job]:
    """All jobs and what they need, by key, each after what it needs."""
    found: dict[str, Job] = {}

    def visit(job: Job) -> None:
        if job.key not in found:
            for needed in job.needs.values():
                visit(needed)
            found[job.key] = job

    for job in jobs:
        visit(job)
    return found
