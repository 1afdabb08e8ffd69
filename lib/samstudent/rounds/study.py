"""State of one study: its folders and the parts that share them (docs/explanation/architecture.md, "State on disk")."""

from __future__ import annotations

import json
import logging
import shutil
import threading
from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

from samstudent.active_learning.readable import ImageCheck
from samstudent.active_learning.state import SelectionState
from samstudent.errors import UserError
from samstudent.pseudolabels.ablations import FULL, Ablations
from samstudent.pseudolabels.bound_checks import BoundChecks
from samstudent.pseudolabels.policy import LabelingPolicy
from samstudent.pseudolabels.review import Reviews
from samstudent.rounds.adapted_models import TRAINING, AdaptedModels
from samstudent.rounds.audited_ledger import audit_log_of, audited_ledger
from samstudent.rounds.click_decoders import ClickDecoders
from samstudent.rounds.flags import Flags
from samstudent.rounds.holdout import HoldOut
from samstudent.rounds.ledger import Ledger
from samstudent.rounds.study_paths import StudyPaths
from samstudent.rounds.trained import ImageContents
from samstudent.sam.adapted import load_adapted
from samstudent.sam.cache import EmbeddingCache
from samstudent.sam.click_decoder import ClickDecoder
from samstudent.sam.model import SamModel
from samstudent.sam.registry import load_backend
from samstudent.student.predict import Student
from samstudent.task import Task
from samstudent.util.address import is_pacs
from samstudent.util.audit_log import AuditLog

logger = logging.getLogger(__name__)


class Study:
    """One study folder (or PACS) with one task: its folders, and the parts that read and write them.

    Args:
        studies: path of the study folder, or the URL of a DICOMweb server.
        app_dir: the app folder; contains the state of studies in a PACS.
        task: the checked task.
    """

    def __init__(self, studies: str, app_dir: str, task: Task) -> None:
        self.task = task
        self.is_remote = is_pacs(studies)
        paths = StudyPaths.of(studies, app_dir)
        self.root, self.split_csv, self.weights_folder = paths.root, paths.split_csv, paths.weights
        self.folder = paths.folder_of(task.name)
        self._plain: SamModel | None = None
        #: Id and backend of the active adapted model at the last call.
        self._adapted: tuple[str, SamModel] | None = None
        #: Round id and policy of the last call.
        self._policy: tuple[str, LabelingPolicy] | None = None
        #: Last logged reason for a policy that cannot be used.
        self._logged_reason = ""
        #: Parts of a round that tests switch off.
        self.ablations: Ablations = FULL
        self._sam_lock = threading.RLock()

    @cached_property
    def ledger(self) -> Ledger:
        return audited_ledger(self.folder)

    @cached_property
    def audit(self) -> AuditLog:
        return audit_log_of(self.folder)

    @cached_property
    def holdout(self) -> HoldOut:
        return HoldOut(self.folder / "holdout.json", self.task.holdout.fraction, self.split_csv, self.flags.all)

    @cached_property
    def flags(self) -> Flags:
        return Flags(self.folder / "flags.json")

    @cached_property
    def selection(self) -> SelectionState:
        return SelectionState(self.folder / "state.sqlite")

    @cached_property
    def contents(self) -> ImageContents:
        return ImageContents(self.folder / "contents.sqlite")

    @cached_property
    def image_check(self) -> ImageCheck:
        return ImageCheck(self.folder / "state.sqlite", self.task.dimension)

    @cached_property
    def reviews(self) -> Reviews:
        return Reviews(self.folder / "state.sqlite")

    @cached_property
    def bound_checks(self) -> BoundChecks:
        return BoundChecks(self.folder / "state.sqlite")

    @cached_property
    def embeddings(self) -> EmbeddingCache:
        # Shared by all tasks of a study: an embedding only depends on the image.
        return EmbeddingCache(self.root / "embeddings")

    @cached_property
    def adapted_models(self) -> AdaptedModels:
        return AdaptedModels(self.folder)

    @cached_property
    def click_decoders(self) -> ClickDecoders:
        return ClickDecoders(self.folder)

    def plain_sam(self) -> SamModel:
        """The published SAM, loaded at the first call: job processes that need it load their own."""
        with self._sam_lock:
            if self._plain is None:
                self._plain = load_backend(self.task.sam)
            return self._plain

    @property
    def active_model(self) -> str | None:
        """Id of the active adapted model; None: the plain SAM is active, or the task disables adaptation."""
        return self.adapted_models.active if self.task.pseudo_labels.policy == "learned" else None

    def adapted_sam(self) -> SamModel | None:
        """The active adapted SAM; None: the plain one is active.

        The choice is read at each call, so that a server follows the choice of its training process. An adapted SAM
        that cannot be used (damaged, or made of another SAM than the task names now) is logged and replaced by the
        plain one; responses and pseudo labels contain the digest of the SAM in use.
        """
        with self._sam_lock:
            id = self.active_model
            if id is None:
                return None
            if self._adapted is None or self._adapted[0] != id:
                try:
                    self._adapted = (id, load_adapted(self.adapted_models.weights(id), self.plain_sam()))
                except UserError as error:
                    logger.error("the plain SAM is used instead of adapted SAM %s: %s", id, error)
                    return None
            return self._adapted[1]

    def load_champion(self, device: str) -> tuple[Path, Student] | None:
        """Served model file, in the folder of its round, and its student; None if there is none that fits the task.

        Both come from one read of the ledger: another round may be promoted at any moment.
        """
        path = self.ledger.champion_path()
        if path is None:
            return None
        try:
            return path, Student.load(path, self.task, device)
        except UserError as error:
            logger.warning("the served model is not used: %s", error)
            return None

    def click_decoder(self, structure: str) -> ClickDecoder | None:
        """The decoder of clicks on a structure; None: the task's SAM has none of its own.

        The adapted one has seen the structures of the task only, and is not used where ``plain_only``.
        """
        known = structure in self.task.structures
        return self.click_decoders.decoder(self.plain_sam(), adapted=known and not self.plain_only)

    @property
    def plain_only(self) -> bool:
        """Whether no adapted decoder is used: the task disables adaptation, or a person activated the plain SAM and no
        adapted model was activated since."""
        return self.task.pseudo_labels.policy == "fixed" or self.adapted_models.plain_by_person

    def sam(self) -> SamModel:
        """The active SAM, adapted or plain."""
        return self.adapted_sam() or self.plain_sam()

    def policy_folder(self, round_id: str) -> Path:
        """Folder of a round's labeling policy."""
        return self.ledger.folder_of(round_id) / "policy"

    def policy_of(self, round_id: str) -> LabelingPolicy | None:
        """Labeling policy of a round: the recipes that refine the masks of its student.

        It belongs to the round's student, so a roll-back changes both. Its adapted decoder is left out where the task
        disables adaptation, or a person activated the plain SAM.

        Returns:
            None where the task's recipe is used: the policy is fixed, the round has none, or it cannot be used
            (damaged, or fitted for another SAM or recipe than the task names now). The reason is logged.
        """
        if self.task.pseudo_labels.policy == "fixed":
            return None
        with self._sam_lock:
            if self._policy is None or self._policy[0] != round_id:
                try:
                    self._policy = (
                        round_id,
                        LabelingPolicy.load(self.policy_folder(round_id), self.task, self.plain_sam()),
                    )
                except UserError as error:
                    if str(error) != self._logged_reason:  # called for every image; logged once
                        logger.warning("round %s: the task's recipe is used: %s", round_id, error)
                        self._logged_reason = str(error)
                    return None
            policy = self._policy[1]
        return self.as_active(policy)

    def as_active(self, policy: LabelingPolicy) -> LabelingPolicy:
        """A policy without its adapted decoder where ``plain_only``."""
        return replace(policy, adapted=None) if policy.adapted is not None and self.plain_only else policy

    def refiner_of(self, round_id: str) -> tuple[SamModel, LabelingPolicy | None]:
        """SAM and policy that refine the masks of a round's student, as in ``case_labeller.CaseLabeller``.

        With a policy it is the plain SAM, because the adapted decoder is part of the policy, else the active SAM.
        """
        policy = self.policy_of(round_id)
        return (self.sam() if policy is None else self.plain_sam()), policy

    def store_adaptation(
        self, found: Mapping[str, Any], weights: Path, labels: Mapping[str, Any], round_id: str | None = None
    ) -> str:
        """Store the result of an adaptation, and activate it if it is better than the plain SAM, else the plain SAM.

        A result that is stored already, because a round reused the policy of an earlier one, is not stored twice. It is
        activated again, as the labels may have changed in between, unless a person made the last change.

        Args:
            found: ``Adaptation.record``.
            weights: file of ``save_adapted``, where the adapted SAM is better; copied.
            labels: case id -> digests of its label (``LabelledSet.digests``).
            round_id: the round that ran the adaptation; None: none did.

        Returns:
            Id of the adapted model.
        """
        record = {
            "backend": self.task.sam.backend,
            "round": round_id,
            "labels": json.loads(json.dumps(labels)),
            "adaptation": json.loads(json.dumps(found)),
        }
        id = self._known_adaptation(record)
        if id is not None and self.adapted_models.last_by_person:
            return id
        if id is None or (found["used"] and not self._is_complete(id)):
            id = self.adapted_models.add(
                record, (lambda path: shutil.copyfile(weights, path)) if found["used"] else None
            )
        if found["used"]:
            self.adapted_models.activate(id, who=TRAINING, why=found["reason"])
        else:
            self.adapted_models.activate_plain(who=TRAINING, why=found["reason"])
        return id

    def _known_adaptation(self, record: Mapping[str, Any]) -> str | None:
        """Id of a stored adaptation with the same result on the same labels: the latest; None: there is none."""
        same = ("labels", "adaptation")
        known = [r for r in self.adapted_models.records() if all(r.get(key) == record[key] for key in same)]
        return str(known[-1]["id"]) if known else None

    def _is_complete(self, id: str) -> bool:
        try:
            self.adapted_models.weights(id)
        except UserError as error:
            logger.warning("adapted SAM %s is stored again: %s", id, error)
            return False
        return True
