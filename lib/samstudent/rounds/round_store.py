"""Store of a round: prepared cases, models, pseudo labels, records, and SAM.

The server's trainer extends it by the study's datastore and ledger (``server/tasks/study_round.py``).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from samstudent.imaging.case import CaseImage
from samstudent.pseudolabels.case import PseudoLabel
from samstudent.pseudolabels.policy import LabelingPolicy
from samstudent.pseudolabels.provenance import Provenance
from samstudent.rounds.case_store import CaseStore
from samstudent.rounds.pseudo_store import Kind, PseudoLabelStore
from samstudent.sam.cache import EmbeddingCache
from samstudent.sam.cached_sam import CachedSam
from samstudent.sam.registry import load_backend
from samstudent.student.training import TrainedStudent
from samstudent.task import Task
from samstudent.util.files import atomic_write


class RoundStore:
    """Folders of one round. The methods from ``policy_fitted`` on are called during a round and may be overridden.

    Args:
        folder: of this round: ``model.pt``, ``policy/``, ``scores.json``, ``inputs.json``.
        task: the checked task.
        shared: folder for all rounds: prepared cases, cross-fitted students, pseudo labels; None: ``folder``.
        sam: the plain SAM; None: the task's, loaded at the first use, with a cache in ``shared``.
        earlier_policies: policy folders of earlier rounds, in the order of the search; a policy fitted to the same
            labels is reused.
    """

    def __init__(
        self,
        folder: Path,
        task: Task,
        shared: Path | None = None,
        sam: CachedSam | None = None,
        earlier_policies: Sequence[Path] = (),
    ) -> None:
        self.folder, self.task = folder, task
        self.shared = shared or folder
        self.cases = CaseStore(self.shared / "prepared", task)
        self.labels = PseudoLabelStore(self.shared / "pseudo", self.cases)
        self.earlier_policies = list(earlier_policies)
        self._sam = sam
        self._scores: dict[str, Any] = {"structures": task.names}
        self._trainings: dict[str, Any] = {}

    @property
    def model_path(self) -> Path:
        """The new student's model file."""
        return self.folder / "model.pt"

    @property
    def policy_folder(self) -> Path:
        """Folder of the labeling policy."""
        return self.folder / "policy"

    @property
    def name(self) -> str:
        """Name of the round in messages: that of its folder."""
        return self.folder.name

    def plain_sam(self) -> CachedSam:
        """SAM as published."""
        if self._sam is None:
            self._sam = CachedSam(load_backend(self.task.sam), EmbeddingCache(self.shared / "embeddings"))
        return self._sam

    def active_sam(self) -> CachedSam:
        """The SAM for refinement without a policy: the active one, adapted or plain."""
        return self.plain_sam()

    def write_record(self, name: str, content: Mapping[str, Any]) -> None:
        """Write ``<name>.json`` into the round's folder."""
        atomic_write(self.folder / f"{name}.json", json.dumps(content, indent=1, allow_nan=False))

    def prune(self, before: float) -> None:
        """Remove prepared cases that were last used before a time, and their pseudo labels.

        Args:
            before: seconds since 1970.
        """
        self.cases.prune(before)
        self.labels.prune()

    def add_scores(self, **scores: Any) -> None:
        """Add entries to ``scores.json``, which is written immediately, for rounds that fail later."""
        self._scores |= scores
        self.write_record("scores", self._scores)

    def policy_fitted(self, policy: LabelingPolicy, labels: Mapping[str, Any]) -> LabelingPolicy:
        """Called with the fitted policy; returns the policy for the labeling.

        Args:
            policy: of this round.
            labels: case id -> digests of the labels that it was fitted to.
        """
        return policy

    def last_made_with(self) -> Provenance | None:
        """Provenance of the pseudo labels of the latest earlier round; None: not known."""
        return None

    def has_label(self, case_id: str, kind: Kind, made_with: Provenance) -> bool:
        """Whether the datastore has a pseudo label of a case with this provenance."""
        return True

    def drop_labels(self, case_id: str, kind: Kind) -> None:
        """Called before a new pseudo label of a case; with a refined one the student's own masks are replaced, too."""

    def label_made(self, case_id: str, image: CaseImage, label: PseudoLabel, raw_info: Mapping[str, Any]) -> None:
        """Called with each new refined pseudo label; ``raw_info``: label info of ``label.raw``."""

    def raw_label_made(self, case_id: str, image: CaseImage, masks: NDArray[Any], info: Mapping[str, Any]) -> None:
        """Called with a student's own masks bool (S, *spatial) and their label info."""

    def may_train(self, case_id: str, info: Mapping[str, Any]) -> bool:
        """Whether reviewers allow training on a pseudo label; ``info`` as of ``PseudoLabel.info``."""
        return True

    def training_set(self, labels: Sequence[str], pseudo: Mapping[str, Any], left_out: Mapping[str, str]) -> None:
        """Called with the training set.

        Args:
            labels: ids of human labels.
            pseudo: ``round_record.PseudoUsed`` as JSON.
            left_out: id -> reason, of labelled cases that do not train.
        """

    def add_trainings(self, trainings: Mapping[str, TrainedStudent]) -> None:
        """Add steps and curves of trainings to ``training.json``, by the names of their students."""
        self._trainings |= {name: training.as_json() for name, training in trainings.items()}
        self.write_record("training", self._trainings)

    def student_trained(self, training: TrainedStudent) -> None:
        """Called when ``model.pt`` is complete."""
