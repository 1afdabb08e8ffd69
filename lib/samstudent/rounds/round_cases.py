"""The cases that a round trains on: human labels, and pseudo labels that are made, renewed or found.

The teacher of the unlabelled cases and its labeling policy are fitted here to the labels that train. The round itself
and the training in the host's frame are ``server/tasks/student_trainer.py``.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from samstudent.errors import UserError
from samstudent.imaging.case import CaseImage
from samstudent.pseudolabels.cached_sam import CachedSam
from samstudent.pseudolabels.case import PseudoLabel
from samstudent.pseudolabels.policy import ADAPTED_FILE, LabelingPolicy
from samstudent.pseudolabels.produce import RAW_TAG, REFINED_TAG, CaseLabeller, OnCase, produce
from samstudent.pseudolabels.provenance import Provenance
from samstudent.pseudolabels.soft_labels import SoftLabels
from samstudent.pseudolabels.teacher import Teacher
from samstudent.rounds.cases import CaseFiles, digests, human_cases, none_left, pseudo_cases
from samstudent.rounds.fair import MIN_HELD
from samstudent.rounds.learning import add_champion, fit_folds, learn
from samstudent.rounds.ledger import Ledger
from samstudent.rounds.options import TrainOptions
from samstudent.rounds.scoring import out_of_fold
from samstudent.rounds.study import Study
from samstudent.rounds.trained import Trained, trained_of
from samstudent.student.predict import Student
from samstudent.task import Task
from samstudent.util.progress import Progress, log_progress

logger = logging.getLogger(__name__)


def champion_of(ledger: Ledger, task: Task, device: str) -> tuple[Path, Student] | None:
    """The served model's file, in the folder of its round, and the student in it; None if there is none, or none that
    could predict for the task as it is now.

    Both by one look at the ledger: somebody may promote another round at any moment.
    """
    path = ledger.champion_path()
    if path is None:
        return None
    try:
        return path, Student.load(path, task, device)
    except UserError as error:
        logger.warning("the served model is left out: %s", error)
        return None


def keep_scores(ledger: Ledger, task: Task, round_id: str, **scores: Mapping[str, Any] | str) -> None:
    """Add to what is kept of a round: Dice of each case and structure, by whom; the champion's weight."""
    kept = ledger.kept(round_id, "scores") or {"structures": task.names}
    ledger.keep(round_id, "scores", kept | scores)


class _Teaching(NamedTuple):
    """The teacher of the unlabelled cases, and its labeling policy.

    Attributes:
        learnt_in: the round in whose folder lies what was learnt.
        whole: the model file of the teacher's student of all human labels.
    """

    teacher: Student | Teacher | None = None
    policy: LabelingPolicy | None = None
    learnt_in: str | None = None
    whole: Path | None = None


@dataclass(frozen=True)
class Gathered:
    """What a round trains on.

    Attributes:
        tag: under which the pseudo labels lie.
        made_with: what they were made with; None: there are none.
        left_out: case id -> why a labelled case cannot train.
        learnt_in: the round by whose policy they were made; its own, the champion's, or none.
        whole: the teacher's student of all human labels; None: there is none, or no pseudo label beside them.
    """

    human: list[CaseFiles]
    pseudo: list[CaseFiles]
    tag: str
    made_with: Provenance | None
    learnt_in: str | None
    whole: Path | None
    left_out: dict[str, str]

    @property
    def cases(self) -> list[CaseFiles]:
        return self.human + self.pseudo

    @property
    def used(self) -> dict[str, Any]:
        """``RoundRecord.pseudo_used``."""
        if not self.pseudo:
            return {"n": 0}
        taught = "probabilities" if any(case.soft for case in self.pseudo) else "masks"
        return {"n": len(self.pseudo), "tag": self.tag, "taught": taught}


@dataclass
class RoundCases:
    """Gathers them; ``scores`` of the round keep what the hold-out and the folds say meanwhile.

    Attributes:
        datastore: the host's.
        id: of the round.
        steps: of the challenger; students on folds take as many, unless the task says otherwise.
        device: as PyTorch names it.
        on_case: called with every pseudo label that is made.
    """

    study: Study
    datastore: Any
    id: str
    options: TrainOptions
    train_ids: Sequence[str]
    held_ids: Sequence[str]
    steps: int
    device: str
    on_case: OnCase | None = None

    def gather(self) -> Gathered:
        """The human labels, and of the pseudo labels those that were asked for and are up to date."""
        study, asked, left_out = self.study, self.options.pseudo_labels, dict[str, str]()
        human = human_cases(self.datastore, self.train_ids, left_out)
        if not human:
            raise none_left(left_out)
        tag = RAW_TAG if asked == "raw" else REFINED_TAG
        teacher, policy, learnt_in, whole = self._teacher(human)
        wanted: list[Provenance] = []
        # A champion with a weight on the hold-out has shown that it knows something.
        without_champion = isinstance(teacher, Teacher) and not teacher.uses_champion
        skip_reason = policy.skip_reason if policy is not None and without_champion else None
        if skip_reason is not None:
            logger.warning("round %s: %s", self.id, skip_reason)
            self._keep(skip_reason=skip_reason)
        elif teacher is not None:
            wanted = self._wanted(teacher, policy)
            if asked != "use":
                self._produce(teacher, policy)
        elif asked != "off":
            logger.info("no student is served yet: this round trains on human labels alone")
        trainable = study.holdout.trainable(self.datastore.list_images())
        softs = self._softs() if tag == REFINED_TAG else None
        withheld = study.reviews.withheld()
        found = [pseudo_cases(self.datastore, trainable, tag, made, study.task, softs, withheld) for made in wanted]
        pseudo = max(found, key=len, default=[])
        made = wanted[found.index(pseudo)] if pseudo else None
        # Those that are there may have been made by what another round had learnt.
        learnt_in = learnt_in if made is None or made == wanted[0] else None
        return Gathered(human, pseudo, tag, made, learnt_in, whole if pseudo else None, left_out)

    def _keep(self, **scores: Mapping[str, Any] | str) -> None:
        keep_scores(self.study.ledger, self.study.task, self.id, **scores)

    def _champion(self) -> tuple[Path, Student] | None:
        return champion_of(self.study.ledger, self.study.task, self.device)

    def _teacher(self, human: list[CaseFiles]) -> _Teaching:
        """The teacher of the unlabelled cases and its policy: cross-fitted students, with the champion at the weight
        that is best on the hold-out; with too few labels for that, and for the other choices, the champion, by the
        policy of its own round.

        The students on folds are trained for a small hold-out, too: their scores take part in the comparison.
        """
        study, task, seed, asked = self.study, self.study.task, self.options.seed, self.options.pseudo_labels
        renew = asked == "renew"
        cross = None
        if renew or len(self._held(human)) < MIN_HELD:
            cross = fit_folds(
                human, task, study.folder, steps=self.steps, seed=seed, device=self.device, full_student=renew
            )
        if cross is not None:
            self._keep(folds=out_of_fold(cross, human, task))
        if cross is None or not renew:
            served = self._champion() if asked != "off" else None
            if served is None:
                return _Teaching()
            round_id, champion = served[0].parent.name, served[1]
            earlier_policy = study.policy_of(round_id) if asked != "raw" else None
            return _Teaching(champion, earlier_policy, round_id if earlier_policy is not None else None)
        folder = study.policy_folder(self.id)
        earlier = [study.policy_folder(r.id) for r in reversed(study.ledger.rounds()) if r.id != self.id]
        teacher, policy = learn(
            cross, human, task, study.plain_sam(), study.embeddings, folder, earlier, seed=seed, device=self.device,
            unlabelled=self._unlabelled(), path_of=self.datastore.get_image_uri, ablations=study.ablations,
        )  # fmt: skip
        if found := policy.record["adaptation"]:
            learnt_from = digests(entry for entry in human if entry.id in cross.folds)
            id = study.keep_adaptation(found, folder / ADAPTED_FILE, learnt_from, self.id)
            logger.info("SAM %s: %s", id, found["reason"])
        self._add_champion(teacher, human)
        return _Teaching(teacher, study.as_active(policy), self.id, cross.full_student)

    def _add_champion(self, teacher: Teacher, human: list[CaseFiles]) -> None:
        """The champion joins the teacher with the weight that is best on the hold-out; not where that is too small."""
        study = self.study
        served = self._champion()
        if served is None or len(held := self._held(human)) < MIN_HELD:
            return
        found = add_champion(
            teacher, served[1], held, human, study.task, study.plain_sam(), study.embeddings,
            study.policy_folder(self.id), seed=self.options.seed, device=self.device,
            unlabelled=self._unlabelled(), path_of=self.datastore.get_image_uri,
        )  # fmt: skip
        self._keep(champion_weight={"round": served[0].parent.name, **found})

    def _held(self, human: Sequence[CaseFiles]) -> list[CaseFiles]:
        """The labelled cases of the hold-out on which neither the champion trained, nor this round will, as far as that
        can be told before it has pseudo labels."""
        contents, ledger = self.study.contents, self.study.ledger
        images = {digest: case.id for case in human if (digest := contents.of(case.image)) is not None}
        trained = Trained(frozenset(case.id for case in human), images)
        if (champion := ledger.champion()) is not None:
            trained |= trained_of(ledger, champion.id)
        held = human_cases(self.datastore, self.held_ids)
        return [case for case in held if trained.case_of(case.id, contents.of(case.image)) is None]

    def _unlabelled(self) -> list[str]:
        return self.study.holdout.trainable(self.datastore.get_unlabeled_images())

    def _produce(self, teacher: Student | Teacher, policy: LabelingPolicy | None) -> None:
        holdout, softs = self.study.holdout, self._softs()

        def on_case(case_id: str, image: CaseImage, label: PseudoLabel) -> None:
            softs.keep(case_id, label)
            if self.on_case is not None:
                self.on_case(case_id, image, label)

        counts = produce(
            self.datastore, self._labeller(teacher, policy), self.datastore.list_images(),
            exclude=holdout.ids | holdout.excluded, progress=_log_case, on_case=on_case,
        )  # fmt: skip
        logger.info("pseudo labels: %s", counts)

    def _softs(self) -> SoftLabels:
        return SoftLabels(self.study.folder / "soft")

    def _labeller(self, teacher: Student | Teacher, policy: LabelingPolicy | None) -> CaseLabeller:
        """A policy names the structures that use the adapted decoder; without one the active SAM is used."""
        study, sam = self.study, None
        if self.options.pseudo_labels != "raw":
            sam = CachedSam(study.sam() if policy is None else study.plain_sam(), study.embeddings)
        return CaseLabeller(study.task, teacher, sam, policy)

    def _wanted(self, teacher: Student | Teacher, policy: LabelingPolicy | None) -> list[Provenance]:
        """What pseudo labels must have been made with to be of use: the present teacher, or, where those that are there
        are used, what the last round that had any made them with."""
        ledger = self.study.ledger
        wanted = [self._labeller(teacher, policy).made_with]
        if self.options.pseudo_labels == "use":
            earlier = [ledger.kept(record.id, "inputs") for record in ledger.rounds() if record.id != self.id]
            made = [kept["pseudo_labels_made_with"] for kept in earlier if kept]
            # Those of a raw round lie under a tag of their own and are not asked for here.
            known = [Provenance(**found) for found in made if found and found["sam_backend"]]
            wanted += known[-1:]
        return wanted


def _log_case(number: int, total: int, case_id: str) -> None:
    log_progress(Progress("pseudo labels", number, total, message=case_id))
