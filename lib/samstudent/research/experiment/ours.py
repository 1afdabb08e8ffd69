"""The method ``ours``: what ``pseudolabels.trust`` learns and labels, on the experiment's stored cases, in two rounds.

This is the one place that knows how that is put together; the jobs in ``work`` call these functions.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from samstudent.imaging.case import CaseImage
from samstudent.pseudolabels.case import PseudoLabel
from samstudent.pseudolabels.cross_fitting import CrossFit, cross_fit, folds_of
from samstudent.pseudolabels.embedding_head import Reader
from samstudent.pseudolabels.quality import belief_in_absence, training_weights
from samstudent.pseudolabels.teacher import Teacher, fit_teacher
from samstudent.pseudolabels.teacher import fit_earlier_reader as fit
from samstudent.pseudolabels.trust import Trust, learn_trust, trusted_label
from samstudent.research.experiment.plan import Report
from samstudent.research.experiment.store import Store
from samstudent.sam.cache import EmbeddingCache
from samstudent.sam.model import SamModel
from samstudent.student.data import TrainingCase, prepare_case
from samstudent.student.predict import Student
from samstudent.task import Task

Params = Mapping[str, Any]
_EARLIER_READER = "earlier_reader.pt"
_WHOLE = "whole.pt"


def fit_students(task: Task, store: Store, params: Params, whole: Path, folder: Path, report: Report) -> None:
    """Students on folds of ``params["labelled"]``, into ``folder``, beside the one on all of them from ``whole``."""
    cases = [store.training_case(case) for case in params["labelled"]]
    cross_fit(
        cases, task, folder, k=task.trust.folds, steps=params["steps"], seed=params["seed"],
        on_step=lambda step, steps, loss: report(step, steps),
    )  # fmt: skip
    _link(whole / "model.pt", folder / _WHOLE)


def fit_readers(
    task: Task, store: Store, params: Params, students: Path, folder: Path, backend: SamModel, cache: EmbeddingCache,
    report: Report,
) -> None:  # fmt: skip
    """Readers of SAM's embeddings into ``folder``, beside copies of the students that they go with."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in (*students.glob("fold*"), students / _WHOLE):
        _link(path, folder / path.name)
    _teacher(task, store, params, folder, backend, cache, report)


def _link(path: Path, target: Path) -> None:
    # Links where the disk can: they are never changed, only replaced. What a killed run left may be half a copy.
    target.unlink(missing_ok=True)
    try:
        os.link(path, target)
    except OSError:
        shutil.copy2(path, target)


def learn(
    task: Task, store: Store, params: Params, teacher_folder: Path, folder: Path, backend: SamModel,
    cache: EmbeddingCache, report: Report,
) -> None:  # fmt: skip
    """Adaptation, search and calibration as ``task.trust`` says, into ``folder``."""
    teacher = _teacher(task, store, params, teacher_folder, backend, cache)

    def progress(what: str, done: int, total: int) -> None:
        report(done, total)

    images = map(store.image, params["unlabelled"])
    learn_trust(
        teacher, store.known_case, task, backend, cache, folder,
        unlabelled=images, seed=params["seed"], progress=progress,
    )  # fmt: skip


def fit_earlier_reader(
    task: Task, store: Store, params: Params, folders: Mapping[str, Path], folder: Path, backend: SamModel,
    cache: EmbeddingCache, report: Report,
) -> None:  # fmt: skip
    """The reader of a second round into ``folder``, unless it would have no say."""
    labeller = Labeller(task, store, params, folders, backend, cache)
    fit(
        labeller.teacher, store.known_case, map(store.image, params["ids"]), labeller.task, backend, cache,
        folder / _EARLIER_READER, seed=params["seed"], on_step=lambda step, steps, loss: report(step, steps),
    )  # fmt: skip


class Labeller:
    """Makes the pseudo labels of one round."""

    def __init__(
        self, task: Task, store: Store, params: Params, folders: Mapping[str, Path], backend: SamModel,
        cache: EmbeddingCache,
    ) -> None:  # fmt: skip
        """Args: folders: ``trust`` of ``learn``, ``students`` of the students or readers, and maybe ``earlier``, of a
        student that has a say beside them, of weight ``params["weight"]``, and ``reader`` of ``fit_earlier_reader``."""
        self.trust = Trust.load(folders["trust"], task, backend)
        self.teacher = _teacher(task, store, params, folders["students"], backend, cache)
        if earlier := folders.get("earlier"):
            self.teacher.earlier, self.teacher.weight = Student.load(earlier / "model.pt", task), params["weight"]
        self.teacher.share = self.trust.share
        if (folder := folders.get("reader")) and (path := folder / _EARLIER_READER).is_file():
            self.teacher.earlier_reader = Reader.load(path, task, backend, cache)
        self.task, self.backend, self.cache = self.trust.task, backend, cache
        self.believed = belief_in_absence(*store.presence(params["labelled"]))

    def label(self, image: CaseImage) -> PseudoLabel:
        """The pseudo label of an image; of a 2D one on the working grid."""
        return trusted_label(image, self.teacher, self.trust, self.backend, self.cache)

    def training_case(self, case: str, image: CaseImage, label: PseudoLabel) -> TrainingCase:
        """The label as the final student may learn it: masks weighted as in a round, and probabilities."""
        weights = training_weights(label.info()["structures"], self.task)
        there = label.masks.reshape(len(label.masks), -1).any(1)
        weights = np.where(there, weights, weights * self.believed)
        soft = None if self.task.pseudo_labels.soft is False else label.soft
        return prepare_case(
            case, image, label.masks, self.task, ignore=label.ignore, weights=weights, human=False, soft=soft
        )


def shuffled(backend: SamModel, seed: int) -> SamModel:
    """The backend with each of its parameters' values in another order: the same network, knowing nothing."""
    build = backend._build

    def build_shuffled() -> Any:
        model = build()
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in model.parameters():
                order = torch.randperm(parameter.numel(), generator=generator)
                parameter.copy_(parameter.flatten()[order].view_as(parameter))
        return model

    backend._build = build_shuffled
    backend.digest = backend.embedding_digest = f"{seed:02x}" + backend.digest[2:-8] + "shuffled"
    return backend


def _teacher(
    task: Task, store: Store, params: Params, folder: Path, backend: SamModel, cache: EmbeddingCache,
    report: Report | None = None,
) -> Teacher:  # fmt: skip
    folds = folds_of(params["labelled"], max(2, task.trust.folds), params["seed"])
    models = [folder / f"fold{fold}.pt" for fold in range(max(folds.values()) + 1)]
    readers = backend if task.trust.readers else None
    fitted = CrossFit(folds, models, task, whole=folder / _WHOLE)
    return fit_teacher(fitted, store.known_case, readers, cache, seed=params["seed"], progress=report)


def describe(folder: Path) -> dict[str, Any]:
    """What was learnt, for the results: ``trust.json`` without the calibrator's numbers."""
    content = json.loads((folder / "trust.json").read_text(encoding="utf-8"))
    return {key: value for key, value in content.items() if key != "calibrator"}
