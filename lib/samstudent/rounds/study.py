"""Where one study's state lies, and the parts that share it. See docs/explanation/architecture.md, "State on disk"."""

from __future__ import annotations

import json
import logging
import shutil
import threading
from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from samstudent.active_learning.readable import ImageCheck
from samstudent.active_learning.state import SelectionState
from samstudent.errors import UserError
from samstudent.pseudolabels.ablations import FULL, Ablations
from samstudent.pseudolabels.policy import LabelingPolicy
from samstudent.pseudolabels.review import Reviews
from samstudent.rounds.holdout import HoldOut
from samstudent.rounds.ledger import Ledger, Promotion
from samstudent.rounds.sams import TRAINING, AdaptedSams
from samstudent.rounds.study_paths import StudyPaths
from samstudent.rounds.trained import ImageContents
from samstudent.sam.adapted import load_adapted
from samstudent.sam.cache import EmbeddingCache
from samstudent.sam.model import SamModel
from samstudent.sam.registry import load_backend
from samstudent.student.predict import Student
from samstudent.task import Task
from samstudent.util.address import is_pacs
from samstudent.util.audit_log import AuditLog

logger = logging.getLogger(__name__)


class Study:
    """One study folder (or PACS) worked on with one task: its folders, and the parts that read and write them.

    Args:
        studies: path of the study folder, or the URL of a DICOMweb server.
        app_dir: the app folder; holds the state of studies that are no folder.
        task: the checked task.
    """

    def __init__(self, studies: str, app_dir: str, task: Task) -> None:
        self.task = task
        self.is_remote = is_pacs(studies)
        paths = StudyPaths.of(studies, app_dir)
        self.root, self.split_csv = paths.root, paths.split_csv
        self.folder = paths.folder_of(task.name)
        self._plain: SamModel | None = None
        #: Id and backend of the adapted SAM in force when it was last asked for.
        self._adapted: tuple[str, SamModel] | None = None
        #: Of the round that was last asked for; and the last reason why there was none.
        self._policy: tuple[str, LabelingPolicy] | None = None
        #: Parts of a round that are switched off; only tests do.
        self.ablations: Ablations = FULL
        self._complaint = ""
        self._sam_lock = threading.RLock()

    @cached_property
    def ledger(self) -> Ledger:
        return Ledger(self.folder, partial(_record_change, self.audit))

    @cached_property
    def audit(self) -> AuditLog:
        return AuditLog(self.folder / "audit.jsonl")

    @cached_property
    def holdout(self) -> HoldOut:
        return HoldOut(self.folder / "holdout.json", self.task.holdout.fraction, self.split_csv)

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
    def embeddings(self) -> EmbeddingCache:
        # Shared by all tasks of a study: the same image gives the same embedding.
        return EmbeddingCache(self.root / "embeddings")

    @cached_property
    def sams(self) -> AdaptedSams:
        return AdaptedSams(self.folder)

    def plain_sam(self) -> SamModel:
        """SAM as it comes, loaded when first asked for: the host's child processes that need it load their own."""
        with self._sam_lock:
            if self._plain is None:
                self._plain = load_backend(self.task.sam)
            return self._plain

    @property
    def sam_in_force(self) -> str | None:
        """Id of the adapted SAM in force; None: the plain one is, also where the task switches adaptation off."""
        return self.sams.in_force if self.task.pseudo_labels.policy == "learned" else None

    def adapted_sam(self) -> SamModel | None:
        """The adapted SAM in force; None where the plain one is.

        What is in force is looked up each time, so that a server notices what its training put there. Where an adapted
        one cannot be used (damaged, or made of another SAM than the task names now), that is logged and the plain one
        stands in: every answer and pseudo label tells by which SAM it was made.
        """
        with self._sam_lock:
            id = self.sam_in_force
            if id is None:
                return None
            if self._adapted is None or self._adapted[0] != id:
                try:
                    self._adapted = (id, load_adapted(self.sams.weights(id), self.plain_sam()))
                except UserError as error:
                    logger.error("the plain SAM stands in for adapted SAM %s: %s", id, error)
                    return None
            return self._adapted[1]

    def load_champion(self, device: str) -> tuple[Path, Student] | None:
        """The served model's file, in the folder of its round, and the student in it; None if there is none, or none
        that could predict for the task as it is now.

        Both by one look at the ledger: somebody may promote another round at any moment.
        """
        path = self.ledger.champion_path()
        if path is None:
            return None
        try:
            return path, Student.load(path, self.task, device)
        except UserError as error:
            logger.warning("the served model is left out: %s", error)
            return None

    def sam(self) -> SamModel:
        """The SAM in force: the adapted one if there is any, else the plain one."""
        return self.adapted_sam() or self.plain_sam()

    def policy_folder(self, round_id: str) -> Path:
        """Where a round keeps what it learnt from the labels."""
        return self.ledger.folder_of(round_id) / "policy"

    def policy_of(self, round_id: str) -> LabelingPolicy | None:
        """What a round learnt from the labels: the recipes by which its student's masks are refined.

        It goes with the round's student, so a roll-back takes both back. The adapted decoder in it is left out where
        the task switches adaptation off, or somebody took the plain SAM by hand.

        Returns:
            None where the task's recipe stands: the policy is fixed, the round has none, or it
            cannot be used (damaged, for another SAM or recipe than the task names now). The reason is logged.
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
                    if str(error) != self._complaint:  # asked for with every image; the log needs it once
                        logger.warning("round %s: the task's recipe refines its student's masks: %s", round_id, error)
                        self._complaint = str(error)
                    return None
            policy = self._policy[1]
        return self.as_active(policy)

    def as_active(self, policy: LabelingPolicy) -> LabelingPolicy:
        """What was learnt, without the adapted decoder where the task switches adaptation off, or somebody took the
        plain SAM by hand and no adapted one was put in force since."""
        if policy.adapted is not None and (self.task.pseudo_labels.policy == "fixed" or self.sams.taken_back):
            return replace(policy, adapted=None)
        return policy

    def refiner_of(self, round_id: str) -> tuple[SamModel, LabelingPolicy | None]:
        """SAM and policy that refine the masks of a round's student, as of ``produce.CaseLabeller``: with a policy
        goes the plain SAM, because the adapted decoder is in the policy, else the SAM in force."""
        policy = self.policy_of(round_id)
        return (self.sam() if policy is None else self.plain_sam()), policy

    def keep_adaptation(
        self, found: Mapping[str, Any], weights: Path, labels: Mapping[str, Any], round_id: str | None = None
    ) -> str:
        """Keep what an adaptation made, and put it in force if it beats the plain SAM; if not, the plain one is.

        One that is kept already, because a round took again what an earlier one had learnt, is not kept twice. It is
        put in force again, as the labels may have been others in between, unless a person made the last change.

        Args:
            found: ``Adaptation.record``.
            weights: what ``save_adapted`` wrote, where it is better; copied.
            labels: case id -> which label it was (``cases.digests``).
            round_id: of the round that it was a step of.

        Returns:
            Its id.
        """
        record = {
            "backend": self.task.sam.backend,
            "round": round_id,
            "labels": json.loads(json.dumps(labels)),
            "adaptation": json.loads(json.dumps(found)),
        }
        id = self._known_adaptation(record)
        if id is not None and self.sams.last_by_person:
            return id
        if id is None or (found["used"] and not self._is_whole(id)):
            id = self.sams.add(record, (lambda path: shutil.copyfile(weights, path)) if found["used"] else None)
        if found["used"]:
            self.sams.use(id, who=TRAINING, why=found["reason"])
        else:
            self.sams.use_plain(who=TRAINING, why=found["reason"])
        return id

    def _known_adaptation(self, record: Mapping[str, Any]) -> str | None:
        """The id under which the same is kept already: the same outcome on the same labels. The latest, should one have
        been damaged and kept anew."""
        same = ("labels", "adaptation")
        known = [r for r in self.sams.records() if all(r.get(key) == record[key] for key in same)]
        return str(known[-1]["id"]) if known else None

    def _is_whole(self, id: str) -> bool:
        try:
            self.sams.weights(id)
        except UserError as error:
            logger.warning("adapted SAM %s is kept anew: %s", id, error)
            return False
        return True


def _record_change(audit: AuditLog, change: Promotion) -> None:
    """Whoever asked for it: a person, the command line, or a round that promotes its student. No method: the ledger
    goes to the processes of a training on several GPUs, and the study cannot."""
    action = "promotion" if change.kind == "promote" else "roll-back"
    audit.record(action, change.who or TRAINING, round=change.round, why=change.why)
