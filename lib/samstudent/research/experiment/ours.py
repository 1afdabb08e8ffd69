"""The method ``ours``: one round of the product (``rounds.run_round``) on the cases of a labelled folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from samstudent.imaging.case import CaseImage
from samstudent.pseudolabels.ablations import Ablations
from samstudent.pseudolabels.case import PseudoLabel
from samstudent.pseudolabels.out_of_fold import on_working_grid
from samstudent.pseudolabels.teacher import CHAMPION_WEIGHT, Teacher
from samstudent.research.experiment.measure import quality_rows
from samstudent.research.setting import Setting
from samstudent.rounds.pseudo_store import PseudoLabelStore
from samstudent.rounds.round_store import RoundStore
from samstudent.rounds.run_round import Champion, RoundCases, RoundOptions, RoundResult, run_round
from samstudent.sam.cached_sam import CachedSam
from samstudent.sam.model import SamModel
from samstudent.student.predict import Student
from samstudent.task import Task
from samstudent.util.progress import Report

#: Model file, in the folder of a round, of the student of all labels.
FULL_STUDENT = "folds/full.pt"


class ExperimentStore(RoundStore):
    """Store of a round with known hidden labels: compares each pseudo label with the truth.

    Prepared cases and embeddings are those of the whole experiment.
    """

    def __init__(self, folder: Path, setting: Setting, backend: SamModel) -> None:
        super().__init__(folder, setting.task, sam=CachedSam(backend, setting.embedding_cache))
        self.setting = setting
        self.cases = setting.cases.store
        self.labels = PseudoLabelStore(folder / "pseudo", self.cases)
        self.rows: dict[str, list[dict[str, Any]]] = {}

    def label_made(self, case_id: str, image: CaseImage, label: PseudoLabel, raw_info: Mapping[str, Any]) -> None:
        """Compare the pseudo label with the hidden label."""
        truth = self.setting.cases.truth(case_id)
        if truth is not None and truth.masks.shape != label.refined.shape:
            truth = on_working_grid(truth, label.refined.shape[1:])
        status = {s.name: s for s in label.structures}
        self.rows[case_id] = quality_rows(case_id, truth, label.raw, label.refined, self.task, status)


def run(
    setting: Setting, params: Mapping[str, Any], folder: Path, champion: Path | None, backend: SamModel, report: Report
) -> tuple[RoundResult, dict[str, Any]]:
    """Run a round into ``folder``.

    Args:
        setting: of the experiment.
        params: ids ``labelled`` and ``unlabelled``, ``steps``, ``seed``, and ``changes``: ``start`` of
            ``RoundOptions``, fields of ``Ablations`` under ``ablations``.
        folder: folder for the student (``model.pt``) and the other files of the round.
        champion: folder of an earlier round, whose student is part of the teacher; None: no champion.
        backend: the SAM.
        report: callback for the progress.

    Returns:
        The result, and JSON values: ``rows`` of ``quality_rows``, ``trains`` (ids of pseudo labels in the training
        set), ``targets``, ``policy``, ``skip_reason``, ``seconds``.
    """
    store = ExperimentStore(folder, setting, backend)
    options = RoundOptions(
        steps=params["steps"],
        seed=params["seed"],
        champion_weight=None if champion is None else CHAMPION_WEIGHT,
        start=params["changes"].get("start", "full_student"),
        # Labels only has one training with the whole budget: with a part of it the students on folds, and the one that
        # continues from them, would be compared before they have converged.
        whole_budgets=True,
        ablations=Ablations(**params["changes"].get("ablations", {})),
    )
    cases = RoundCases(
        labelled=[setting.cases.source(id) for id in params["labelled"]],
        unlabelled=[setting.cases.source(id, hidden=True) for id in params["unlabelled"]],
        champion=None if champion is None else Champion(champion.name, champion / "model.pt"),
    )
    result = run_round(cases, setting.task, options, store=store, report=report)
    return result, _record(result, store)


def cross_fitted(folder: Path, task: Task) -> Teacher:
    """The teacher of a round without its embedding heads, for cases without a label."""
    students = [Student.load(path, task) for path in sorted(folder.glob("folds/fold*.pt"))]
    return Teacher({}, students, full_student=Student.load(folder / FULL_STUDENT, task))


def _record(result: RoundResult, store: ExperimentStore) -> dict[str, Any]:
    return {
        "trains": list(result.pseudo_labels),
        "targets": result.targets,
        "rows": [row for id in sorted(store.rows) for row in store.rows[id]],
        "policy": None if result.policy is None else dict(result.policy.record),
        "skip_reason": result.skip_reason,
        "seconds": result.seconds,
    }


def shuffled(backend: SamModel, seed: int) -> SamModel:
    """The backend with the values of each parameter in a random order: a network without knowledge."""
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
