"""The method ``ours``: labeling policy and pseudo labels on the experiment's stored cases, in two rounds.

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
from samstudent.pseudolabels.ablations import Ablations
from samstudent.pseudolabels.cached_sam import CachedSam
from samstudent.pseudolabels.case import PseudoLabel
from samstudent.pseudolabels.cross_fitting import CrossFit, CrossFitOptions, cross_fit, folds_of
from samstudent.pseudolabels.embedding_head import EmbeddingHead, HeadTraining
from samstudent.pseudolabels.labelling import label_case
from samstudent.pseudolabels.out_of_fold import LearningCases
from samstudent.pseudolabels.policy import POLICY_FILE, LabelingPolicy
from samstudent.pseudolabels.policy_fit import FitOptions, fit_policy
from samstudent.pseudolabels.quality_filter import absence_prior, training_weights
from samstudent.pseudolabels.teacher import Teacher, fit_teacher
from samstudent.pseudolabels.teacher import fit_champion_head as train_champion_head
from samstudent.research.experiment.plan import Report
from samstudent.research.experiment.store import Store
from samstudent.sam.cache import EmbeddingCache
from samstudent.sam.model import SamModel
from samstudent.student.data import TrainingCase, prepare_case
from samstudent.student.predict import Student
from samstudent.task import Task

Params = Mapping[str, Any]
_CHAMPION_HEAD = "champion_head.pt"
_FULL = "full.pt"


def ablations_of(params: Params) -> Ablations:
    """The parts that a method switches off."""
    return Ablations(**params.get("ablations", {}))


def fit_students(task: Task, store: Store, params: Params, full: Path, folder: Path, report: Report) -> None:
    """Students on folds of ``params["labelled"]``, into ``folder``, beside the one on all of them from ``full``."""
    cases = [store.training_case(case) for case in params["labelled"]]
    options = CrossFitOptions(
        task.pseudo_labels.folds, params["steps"], params["seed"],
        on_step=lambda step, steps, loss: report(step, steps),
    )  # fmt: skip
    cross_fit(cases, task, folder, options)
    _link(full / "model.pt", folder / _FULL)


def fit_heads(
    task: Task, store: Store, params: Params, students: Path, folder: Path, backend: SamModel, cache: EmbeddingCache,
    report: Report,
) -> None:  # fmt: skip
    """Heads on SAM's embeddings into ``folder``, beside copies of the students that they go with."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in (*students.glob("fold*"), students / _FULL):
        _link(path, folder / path.name)
    _teacher(task, store, params, folder, backend, cache, report)


def _link(path: Path, target: Path) -> None:
    # Links where the disk can: they are never changed, only replaced. What a killed run left may be half a copy.
    target.unlink(missing_ok=True)
    try:
        os.link(path, target)
    except OSError:
        shutil.copy2(path, target)


def fit(
    task: Task, store: Store, params: Params, teacher_folder: Path, folder: Path, backend: SamModel,
    cache: EmbeddingCache, report: Report,
) -> None:  # fmt: skip
    """The labeling policy, into ``folder``."""
    teacher = _teacher(task, store, params, teacher_folder, backend, cache)

    def progress(what: str, done: int, total: int) -> None:
        report(done, total)

    cases = LearningCases(store.known_case, map(store.image, params["unlabelled"]))
    options = FitOptions(params["seed"], ablations_of(params), progress=progress)
    fit_policy(teacher, cases, task, CachedSam(backend, cache), folder, options)


def fit_champion_head(
    task: Task, store: Store, params: Params, folders: Mapping[str, Path], folder: Path, backend: SamModel,
    cache: EmbeddingCache, report: Report,
) -> None:  # fmt: skip
    """The embedding head of a second round into ``folder``, unless it would take no part."""
    labeller = Labeller(task, store, params, folders, backend, cache)
    cases = LearningCases(store.known_case, map(store.image, params["ids"]))
    training = HeadTraining(params["seed"], on_step=lambda step, steps, loss: report(step, steps))
    train_champion_head(labeller.teacher, cases, labeller.task, labeller.sam, folder / _CHAMPION_HEAD, training)


class Labeller:
    """Makes the pseudo labels of one round."""

    def __init__(
        self, task: Task, store: Store, params: Params, folders: Mapping[str, Path], backend: SamModel,
        cache: EmbeddingCache,
    ) -> None:  # fmt: skip
        """Args: folders: ``policy`` of ``fit``, ``students`` of the students or heads, and maybe ``champion``, of a
        student that joins them, of weight ``params["weight"]``, and ``head`` of ``fit_champion_head``."""
        self.policy = LabelingPolicy.load(folders["policy"], task, backend)
        self.sam = CachedSam(backend, cache)
        self.teacher = _teacher(task, store, params, folders["students"], backend, cache)
        if champion := folders.get("champion"):
            self.teacher.previous_champion = Student.load(champion / "model.pt", task)
            self.teacher.champion_weight = params["weight"]
        self.teacher.head_weight = self.policy.head_weight
        if (folder := folders.get("head")) and (path := folder / _CHAMPION_HEAD).is_file():
            self.teacher.champion_head = EmbeddingHead.load(path, task, self.sam)
        self.task, self.ablations = self.policy.task, ablations_of(params)
        self.absence = absence_prior(*store.presence(params["labelled"]))

    def label(self, image: CaseImage) -> PseudoLabel:
        """The pseudo label of an image; of a 2D one on the working grid."""
        return label_case(image, self.teacher, self.policy, self.sam)

    def training_case(self, case: str, image: CaseImage, label: PseudoLabel) -> TrainingCase:
        """The label as the final student may learn it: masks weighted as in a round, and probabilities."""
        weights = training_weights(label.info()["structures"], self.task, self.ablations.weight_by_quality)
        there = label.masks.reshape(len(label.masks), -1).any(1)
        weights = np.where(there, weights, weights * self.absence)
        soft = None if self.ablations.targets == "masks" else label.soft
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
    folds = folds_of(params["labelled"], max(2, task.pseudo_labels.folds), params["seed"])
    models = [folder / f"fold{fold}.pt" for fold in range(max(folds.values()) + 1)]
    sam = CachedSam(backend, cache) if ablations_of(params).embedding_head else None
    fitted = CrossFit(folds, models, task, full_student=folder / _FULL)
    return fit_teacher(fitted, store.known_case, sam, HeadTraining(params["seed"]), report)


def describe(folder: Path) -> dict[str, Any]:
    """What was learnt, for the results: the policy without its quality model's numbers."""
    content = json.loads((folder / POLICY_FILE).read_text(encoding="utf-8"))
    return {key: value for key, value in content.items() if key != "quality"}
