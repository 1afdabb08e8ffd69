"""Folder, task and cases of an experiment or a simulation, by its options."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from samstudent.engine.store import content_key
from samstudent.errors import UserError
from samstudent.research.cases import FolderCases
from samstudent.research.derive_task import derive_task
from samstudent.research.folder import Folder, FolderCase, open_folder
from samstudent.rounds.case_store import CaseStore
from samstudent.sam.cache import EmbeddingCache
from samstudent.task import Steps, Task, load_task
from samstudent.util.files import atomic_write

console = Console()

#: Largest size in bytes of an experiment's embeddings: 16000 slices or images.
_EMBEDDINGS = 32 << 30


@dataclass(frozen=True)
class FolderOptions:
    """Options for the cases and the size of students; see ``samstudent experiment --help``.

    Attributes:
        folder: labelled folder.
        output: folder for models and results.
        task: name or file; None: derived from the folder.
        steps: training steps; None: the task's.
        size: size of the student's image in pixels, (y, x) or (z, y, x); None: the task's.
        unlabelled: largest number of unlabelled cases; None: all.
        test_cases: largest number of measured cases; None: all of the split.
        split: measured split, ``test`` or ``val``.
        embeddings: folder of SAM's embeddings; None: in ``output``.
    """

    folder: Path
    output: Path
    task: str | None = None
    steps: int | None = None
    size: tuple[int, ...] | None = None
    unlabelled: int | None = None
    test_cases: int | None = None
    split: str = "test"
    embeddings: Path | None = None

    def as_json(self) -> dict[str, Any]:
        """Options as JSON values."""
        return {key: str(value) if isinstance(value, Path) else value for key, value in asdict(self).items()}


@dataclass(frozen=True)
class Setting:
    """Folder, task and cases of an experiment or a simulation. It is pickled for worker processes.

    Attributes:
        folder: the labelled folder.
        task: task with the student's size.
        output: folder for models and results.
        embeddings: folder of SAM's embeddings.
        pool: train cases that are used, in their order; the first n that have a label are the labelled pool of size n.
        unlabelled: largest number of unlabelled cases for a method; None: all of the pool.
        test: measured cases.
        split: ``test`` or ``val``.
        steps: training steps, or ``auto``: until a student has converged.
        sources: sources of the pool's and the test cases, by id.
    """

    folder: Folder
    task: Task
    output: Path
    embeddings: Path
    pool: tuple[str, ...]
    unlabelled: int | None
    test: tuple[str, ...]
    split: str
    steps: Steps
    sources: dict[str, FolderCase]

    @property
    def work(self) -> Path:
        """Folder of prepared cases, models and pseudo labels."""
        return self.output / "work"

    @property
    def cases(self) -> FolderCases:
        """The prepared cases."""
        return FolderCases(CaseStore(self.work / "prepared", self.task), self.sources)

    @property
    def embedding_cache(self) -> EmbeddingCache:
        """SAM's embeddings, which all jobs share."""
        return EmbeddingCache(self.embeddings, _EMBEDDINGS)

    def labelled(self, n: int | None) -> list[str]:
        """First n cases of the pool that have a label (None: all)."""
        return [case for case in self.pool if self.sources[case].label is not None][:n]

    def rest(self, n: int) -> list[str]:
        """Cases of the pool whose labels are hidden when n are labelled."""
        known = set(self.labelled(n))
        return [case for case in self.pool if case not in known][: self.unlabelled]

    def digest(self, ids: Sequence[str]) -> str:
        """Digest of the prepared content of some cases."""
        return content_key([[id, self.cases.prepared(id).key] for id in ids])


def make_setting(options: FolderOptions, labels: Sequence[int]) -> Setting:
    """Open the folder and choose task and cases.

    Args:
        options: options of the user.
        labels: numbers of labels; the first train cases are the labelled ones.

    Raises:
        UserError: options that do not fit the folder; a folder or task that cannot be read.
    """
    named = load_task(options.task) if options.task else None
    folder = open_folder(options.folder, None if named is None else named.overlap, task=named)
    train = folder.labelled("train")
    # At least one train case is left to the methods that use cases without their label.
    most = min(len(train), len(folder.order) - 1)
    if not labels or max(labels) > most or min(labels) < 1:
        raise UserError(
            f"--labels: numbers from 1 to {most}; {options.folder} has {len(train)} labelled train cases"
            f" and {len(folder.order) - len(train)} without a label"
        )
    if options.split not in ("test", "val"):
        raise UserError(f"--split is test or val, not {options.split!r}")
    if named is None:
        task, folder = _derived(options, folder, train[: min(labels)])
    else:
        task = _with_size(named, options.size) if options.size else named
    first = train[: max(labels)]
    rest = [case for case in folder.order if case not in set(first)]
    pool = [case for case in folder.order if case in {*first, *rest[: options.unlabelled]}]
    test = folder.labelled("test" if options.split == "test" else "val")[: options.test_cases]
    if not test:
        raise UserError(f"{options.folder / 'split.csv'}: no {options.split} case has a label")
    return Setting(
        folder=folder,
        task=task,
        output=options.output.resolve(),
        embeddings=(options.embeddings or options.output / "embeddings").resolve(),
        pool=tuple(pool),
        unlabelled=options.unlabelled,
        test=tuple(test),
        split=options.split,
        steps=options.steps or task.training.steps,
        sources={id: folder.case(id) for id in (*pool, *test)},
    )


def _derived(options: FolderOptions, folder: Folder, first: Sequence[str]) -> tuple[Task, Folder]:
    """Result of ``derive_task``, stored for the same files because it reads every label."""
    path = options.output / "task.json"
    made_of = [folder.digest(folder.order), list(first), options.size]
    if path.is_file():
        stored = json.loads(path.read_text())
        if stored["made_of"] == json.loads(json.dumps(made_of)):
            return Task.model_validate(stored["task"]), replace(folder, value_names=tuple(stored["value_names"]))
    console.print(f"no --task: deriving one from the labels of {options.folder}")
    task, folder = derive_task(folder, first, options.size)
    stored = {"made_of": made_of, "task": task.model_dump(mode="json"), "value_names": folder.value_names}
    atomic_write(path, json.dumps(stored, indent=1))
    return task, folder


def _with_size(task: Task, size: Sequence[int]) -> Task:
    content = task.model_dump(mode="json")
    content["student"]["size"] = list(size)
    try:
        return Task.model_validate(content)
    except ValueError as error:
        raise UserError(f"--size {','.join(map(str, size))}: {error}") from error
