"""Prepared cases of a labelled folder, by id: read once from their files, then from a ``CaseStore``."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import overload

from samstudent.imaging.annotations import LabelledMasks
from samstudent.imaging.case import CaseImage
from samstudent.research.folder import FolderCase
from samstudent.rounds.case_store import CaseStore, PreparedCase
from samstudent.rounds.pseudo_store import PseudoLabelStore
from samstudent.student.training_case import TrainingCase
from samstudent.task import Task
from samstudent.util.progress import Progress, Report


@dataclass(frozen=True)
class FolderCases:
    """Cases of a folder in a store.

    Attributes:
        store: store of the prepared cases.
        sources: source of each case by id.
    """

    store: CaseStore
    sources: Mapping[str, FolderCase]

    @property
    def task(self) -> Task:
        """Task of the store: the structures, and the student's grid."""
        return self.store.task

    def source(self, id: str, hidden: bool = False) -> FolderCase:
        """Files of a case; ``hidden``: without its label."""
        return self.sources[id].without_label() if hidden else self.sources[id]

    def prepared(self, id: str, hidden: bool = False) -> PreparedCase:
        """Entry of a case in the store, prepared or not; ``hidden``: without its label."""
        content = self.source(id, hidden).digests
        return PreparedCase(id, content, self.store.key_of(content))

    def image(self, id: str) -> CaseImage:
        """The image, decoded and reduced."""
        return self.store.image(self.prepared(id))

    def truth(self, id: str) -> LabelledMasks | None:
        """The label; None: the case has no label."""
        return self.store.truth(self.prepared(id))

    def labelled(self, id: str) -> tuple[CaseImage, LabelledMasks]:
        """Image and label of a case that has one."""
        return self.store.labelled(self.prepared(id))

    def training_case(self, id: str) -> TrainingCase:
        """The case with its human label, for the training of a student."""
        return self.store.training_case(self.prepared(id))

    def unlabelled_case(self, id: str) -> TrainingCase:
        """The case without its label, as ``student.training_case.without_label``."""
        return self.store.training_case(self.prepared(id, hidden=True))

    def pseudo_labels(self, folder: Path) -> PseudoLabelStore:
        """Pseudo labels of these cases in a folder."""
        return PseudoLabelStore(folder, self.store)


@dataclass(frozen=True)
class PrepareCases:
    """Work of an engine: decodes and prepares cases. Content keys are those of the store.

    Attributes:
        store: store of the prepared cases.
        sources: source of each case by key.
    """

    store: CaseStore
    sources: Mapping[str, FolderCase]

    def is_done(self, key: str) -> bool:
        """Whether the case is in the store."""
        return (self.store.folder / f"{key}.safetensors").is_file()

    def __call__(self, key: str, report: Report) -> None:
        """Read a case's files and write the prepared case."""
        self.store.add(self.sources[key])
        report(Progress("reading cases", 1, 1))


class LazyCases(Sequence[TrainingCase]):
    """Training cases that are read from disk at each access, so that memory does not grow with their number."""

    def __init__(self, readers: Sequence[Callable[[], TrainingCase]]) -> None:
        """Args: readers: function that reads a case, for each case."""
        self._readers = readers

    def __len__(self) -> int:
        return len(self._readers)

    @overload
    def __getitem__(self, index: int) -> TrainingCase: ...
    @overload
    def __getitem__(self, index: slice) -> list[TrainingCase]: ...
    def __getitem__(self, index: int | slice) -> TrainingCase | list[TrainingCase]:
        if isinstance(index, slice):
            return [reader() for reader in self._readers[index]]
        return self._readers[index]()
