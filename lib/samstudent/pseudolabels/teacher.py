"""The teacher of a round: students and readers on folds of the labelled cases.

What it says of a labelled case comes from the members that did not train on it ("honest"); what it says of any other
case comes from all members. Students and readers see images through very different eyes, so where the two agree they
are mostly right: their answers are kept apart as two views.

A student that learned from an earlier teacher's pseudo labels has mostly overtaken it, and errs elsewhere: in a second
round it has a say among the students, and a reader that learned from all of them among the readers
(docs/explanation/trust.md).
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from samstudent.imaging.annotations import LabelledMasks
from samstudent.imaging.case import CaseImage
from samstudent.pseudolabels.case import Predictor, mix, own_masks
from samstudent.pseudolabels.cross_fitting import CrossFit
from samstudent.pseudolabels.embedding_head import Reader, ReaderCase, reader_cases, train_reader
from samstudent.pseudolabels.ensemble import Ensemble
from samstudent.pseudolabels.labelled import read_each, size_of
from samstudent.sam.cache import EmbeddingCache
from samstudent.sam.model import SamBackend
from samstudent.student.predict import Student
from samstudent.student.training import OnStep
from samstudent.task import Task
from samstudent.util.files import atomic_write, sha256_file

logger = logging.getLogger(__name__)

Size = tuple[int, ...] | None
#: Weight of the student of all labels among those on folds: each of these misses a part of the labels, and with few of
#: them that is much (docs/decisions/0013-a-student-of-all-labels.md).
WHOLE_WEIGHT = 0.75
#: Weight of an earlier student, unless cases that never train tell better: as much as all other members together.
EARLIER_WEIGHT = 0.5
#: Unlabelled images that a second round's reader learns from, at most: each takes 2 MB and more of memory.
MOST_READ = 200
#: Its steps, as a multiple of a first reader's: so many more images are not soon known by heart.
_MORE_STEPS = 3
#: Case id -> its image and its human label.
Read = Callable[[str], tuple[CaseImage, LabelledMasks]]


@dataclass
class Teacher:
    """Students and readers, one of each a fold; a ``Predictor`` for cases without a label.

    Attributes:
        folds: of the labelled cases.
        students: one a fold.
        readers: one a fold; empty: none.
        share: the readers' share in the mean of both.
        whole: a student that trained on all labelled cases: ``WHOLE_WEIGHT`` of the students' view of others.
        earlier: a student that may have trained on all labelled cases and on pseudo labels of others; only asked about
            cases without a label.
        weight: of ``earlier`` in both views, 0 to 1; 1: it is asked alone.
        earlier_reader: stands for ``earlier`` in the readers' view.
    """

    folds: Mapping[str, int]
    students: Sequence[Student]
    readers: Sequence[Reader] = ()
    share: float = 0.5
    whole: Student | None = None
    earlier: Student | None = None
    weight: float = EARLIER_WEIGHT
    earlier_reader: Reader | None = None

    @property
    def version(self) -> str:
        """SHA-256, hex, of all members and their shares."""
        members: list[Predictor] = [*self.students, *self.readers]
        members += [] if self.whole is None else [self.whole]
        parts = [*(member.version for member in members), f"{self.share:.3f}"]
        if self.earlier is not None and self.heard:
            parts += [self.earlier.version, f"{self.weight:.3f}"]
            parts += [] if self.earlier_reader is None else [self.earlier_reader.version]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()

    @property
    def heard(self) -> bool:
        """Whether the earlier student has a say."""
        return self.earlier is not None and self.weight > 0

    @property
    def alone(self) -> bool:
        """Whether there is one student."""
        return self.heard and self.weight == 1

    def predict(self, image: CaseImage, size: Size = None) -> NDArray[Any]:
        """Probabilities float32 (S, *spatial), or (S, *size)."""
        return mix(self.views(image, size, readers=self.share > 0), self.share)

    def views(self, image: CaseImage, size: Size = None, *, readers: bool = True) -> NDArray[Any]:
        """The mean of the students and, where there are ``readers`` and they are wanted, theirs: float32 (1 or 2, S,
        *spatial)."""
        if self.earlier is None or self.weight == 0:
            return self._views_of_labels(image, size, readers)
        known = self.earlier.predict(image, size).astype(np.float32)[None]
        if self.alone:
            return known
        views = self._views_of_labels(image, size, readers)
        if len(views) == 2 and self.earlier_reader is not None:
            known = np.stack([known[0], self.earlier_reader.predict(image, size)])
        return views + np.float32(self.weight) * (known - views)

    def _views_of_labels(self, image: CaseImage, size: Size, readers: bool) -> NDArray[Any]:
        """``views`` of those that learned from labels alone."""
        views = _views(self.students, self.readers if readers else [], image, size)
        if self.whole is not None:
            views[0] += np.float32(WHOLE_WEIGHT) * (self.whole.predict(image, size) - views[0])
        return views

    def honest_views(self, case_id: str, image: CaseImage, size: Size = None) -> NDArray[Any]:
        """``views`` of the members that did not train on this labelled case.

        Raises:
            KeyError: the case is not one of ``folds``; ask ``views``.
        """
        return self.fold_views(self.folds[case_id], image, size)

    def fold_views(self, fold: int, image: CaseImage, size: Size = None, *, readers: bool = True) -> NDArray[Any]:
        """``views`` of the members of one fold."""
        reader = list(self.readers)[fold : fold + 1] if readers else []
        return _views([self.students[fold]], reader, image, size)


def fit_teacher(
    fitted: CrossFit,
    read: Read,
    backend: SamBackend | None,
    cache: EmbeddingCache | None,
    *,
    seed: int = 0,
    device: str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Teacher:
    """Add readers to cross-fitted students.

    Args:
        fitted: the students; readers are written beside their models, and kept where one for the same inputs is there.
        read: gives each labelled case.
        backend: whose embeddings are read; None: no readers.
        progress: called with the readers trained and their number.
    """
    students = [p for p in fitted.ensemble.predictors if isinstance(p, Student)]
    whole = None if fitted.whole is None else Student.load(fitted.whole, fitted.task, device)
    if backend is None:
        return Teacher(fitted.folds, students, whole=whole)
    readers = []
    slices: dict[str, list[ReaderCase]] = {}
    for fold, model in enumerate(fitted.models):
        path = model.with_name(f"reader{fold}.pt")
        train = sorted(case for case, other in fitted.folds.items() if other != fold)
        inputs = _inputs(train, model, fitted.task, backend, seed + fold)
        if not _is_made(path, inputs):
            for case, image, label in read_each([case for case in train if case not in slices], read):
                slices[case] = reader_cases(image, label, fitted.task, backend, cache)
            train_reader(
                [s for case in train for s in slices.get(case, [])], fitted.task, path, seed=seed + fold, device=device
            )
            atomic_write(path.with_suffix(".json"), json.dumps({"inputs": inputs, "version": sha256_file(path)}))
        readers.append(Reader.load(path, fitted.task, backend, cache, device))
        if progress is not None:
            progress(fold + 1, len(fitted.models))
    return Teacher(fitted.folds, students, readers, whole=whole)


def fit_earlier_reader(
    teacher: Teacher,
    read: Read,
    images: Iterable[CaseImage],
    task: Task,
    backend: SamBackend,
    cache: EmbeddingCache | None,
    path: Path,
    *,
    seed: int = 0,
    device: str | None = None,
    on_step: OnStep | None = None,
) -> None:
    """Give the teacher an ``earlier_reader``, which learns from the labelled cases and from what the teacher, with its
    earlier student, says of others. Nothing is done where it would have no say: without an earlier student beside
    others, where readers have no share, and of volumes, whose slices would all have to be embedded.

    Args:
        read: gives each of ``teacher.folds``.
        images: of cases without a label; the first ``MOST_READ`` are looked at.
        path: for the model.
    """
    joins = teacher.heard and not teacher.alone
    if not (joins and teacher.readers and teacher.share > 0) or task.dimension == 3:
        return
    taught = []
    for image in islice(images, MOST_READ):
        # On the working grid a radiograph takes megabytes, not hundreds of them.
        masks = own_masks(teacher.predict(image, size_of(image, task)), task)
        taught += reader_cases(image, LabelledMasks(masks), task, backend, cache)
    if not taught:
        return
    labelled = read_each(sorted(teacher.folds), read)
    known = [part for _, image, label in labelled for part in reader_cases(image, label, task, backend, cache)]
    if not known:
        return
    # So often that they have the share that human labels have in a student's batches.
    share = task.training.human_share
    known *= max(1, math.ceil(share / (1 - share) * len(taught) / len(known))) if share < 1 else 1
    steps = _MORE_STEPS * task.trust.reader_steps
    train_reader([*known, *taught], task, path, steps=steps, seed=seed, device=device, on_step=on_step)
    teacher.earlier_reader = Reader.load(path, task, backend, cache, device)


def _inputs(train: Iterable[str], model: Path, task: Task, backend: SamBackend, seed: int) -> str:
    """Digest of what a reader depends on; the cases' content counts through the student that trained on the same."""
    student = json.loads(model.with_suffix(".json").read_text(encoding="utf-8"))["inputs"]
    parts = [
        student,
        list(train),
        task.recipe.axis,
        backend.embedding_digest,
        backend.preprocessing,
        task.trust.reader_steps,
        seed,
    ]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _is_made(path: Path, inputs: str) -> bool:
    try:
        sidecar = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        return bool(sidecar["inputs"] == inputs and sidecar["version"] == sha256_file(path))
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _views(students: Sequence[Student], readers: Sequence[Reader], image: CaseImage, size: Size) -> NDArray[Any]:
    seen = [Ensemble(students).predict(image, size)]
    if readers:
        seen.append(Ensemble(readers).predict(image, size))
    return np.stack(seen)
