"""What is to be done: jobs that depend on others, each in a folder named by all that its result depends on.

Two methods that need the same student name the same job, so it is done once; a job whose folder has ``done.json`` is
done, so a run that was killed goes on where it was.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from samstudent import __version__
from samstudent.research.experiment.data import Folder
from samstudent.research.experiment.store import Store
from samstudent.task import Task


@dataclass(frozen=True)
class Job:
    """One piece of work.

    Attributes:
        kind: which function of ``work.KINDS`` does it.
        label: for people.
        params: plain values that it depends on.
        needs: jobs that must be done before, by the name under which the function finds their folders.
    """

    kind: str
    label: str
    params: Mapping[str, Any]
    needs: Mapping[str, Job] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """A digest of everything the result depends on."""
        content = [__version__, self.kind, self.params, {name: job.key for name, job in sorted(self.needs.items())}]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Options:
    """What the user asked for; see ``samstudent experiment --help``."""

    folder: Path
    output: Path
    task: str | None = None
    labels: tuple[int, ...] = (10, 30)
    methods: tuple[str, ...] = ("labels", "raw", "paper", "ours", "all")
    seeds: tuple[int, ...] = (0, 1, 2)
    steps: int | None = None
    size: tuple[int, ...] | None = None
    jobs: int | None = None
    unlabelled: int | None = None
    test_cases: int | None = None
    split: str = "test"
    embeddings: Path | None = None
    command: str = ""

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return {k: str(v) if isinstance(v, Path) else v for k, v in asdict(self).items()}


@dataclass(frozen=True)
class Setting:
    """What all jobs of an experiment share. It travels to the worker processes as JSON."""

    folder: Folder
    task: Task
    output: Path
    embeddings: Path
    #: Train cases that the experiment uses, in their order; the first n are the labelled pool of size n.
    pool: tuple[str, ...]
    #: The most unlabelled cases that a method may use.
    unlabelled: int | None
    test: tuple[str, ...]
    split: str
    steps: int
    stamp: str

    @property
    def store(self) -> Store:
        """The prepared cases; another student's grid or other files are another store."""
        content = self.task.model_dump(
            mode="json", include={"dimension", "structures", "overlap", "unmentioned", "image", "student"}
        )
        name = hashlib.sha256(json.dumps([content, self.stamp, self.folder.meaning]).encode()).hexdigest()[:16]
        return Store(self.output / "work" / f"cases-{name}", self.task)

    def labelled(self, n: int | None) -> list[str]:
        """The labelled pool of size n (None: all) among the cases that have a label."""
        return [case for case in self.pool if case in self.folder.labels][:n]

    def rest(self, n: int) -> list[str]:
        """The cases whose labels are hidden when n are labelled."""
        known = set(self.labelled(n))
        return [case for case in self.pool if case not in known][: self.unlabelled]

    def work_folder(self, kind: str, key: str) -> Path:
        """Where a job works."""
        return self.output / "work" / f"{kind}-{key}"

    def as_json(self) -> dict[str, Any]:
        """Plain values; ``from_json`` reads them."""
        folder = self.folder
        return {
            "folder": {
                "path": str(folder.path),
                "images": {case: str(path) for case, path in folder.images.items()},
                "labels": {case: str(path) for case, path in folder.labels.items()},
                "bits": folder.bits,
                "split": dict(folder.split),
                "order": list(folder.order),
                "meaning": folder.meaning,
            },
            "task": self.task.model_dump(mode="json"),
            "output": str(self.output),
            "embeddings": str(self.embeddings),
            **{key: getattr(self, key) for key in ("pool", "unlabelled", "test", "split", "steps", "stamp")},
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Setting:
        """The reverse of ``as_json``."""
        given = content["folder"]
        folder = Folder(
            Path(given["path"]),
            {case: Path(path) for case, path in given["images"].items()},
            {case: Path(path) for case, path in given["labels"].items()},
            given["bits"],
            given["split"],
            given["order"],
            None if given["meaning"] is None else tuple(given["meaning"]),
        )
        return cls(
            folder,
            Task.model_validate(content["task"]),
            Path(content["output"]),
            Path(content["embeddings"]),
            tuple(content["pool"]),
            content["unlabelled"],
            tuple(content["test"]),
            content["split"],
            content["steps"],
            content["stamp"],
        )


def in_order(jobs: Sequence[Job]) -> dict[str, Job]:
    """All jobs and what they need, by key, each after what it needs."""
    found: dict[str, Job] = {}

    def visit(job: Job) -> None:
        if (key := job.key) not in found:
            for needed in job.needs.values():
                visit(needed)
            found[key] = job

    for job in jobs:
        visit(job)
    return found


#: Called with work done and work in all.
Report = Callable[[int, int], None]
