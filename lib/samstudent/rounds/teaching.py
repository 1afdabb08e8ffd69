"""Steps of a round before the labeling: cross-fitting, embedding heads, labeling policy, champion in the teacher."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from samstudent.imaging.annotations import LabelledMasks
from samstudent.imaging.case import CaseImage
from samstudent.imaging.label_tags import FINAL
from samstudent.pseudolabels.cross_fitting import CrossFit, CrossFitOptions, cross_fit, same_images
from samstudent.pseudolabels.head_training import HeadTraining, head_steps
from samstudent.pseudolabels.out_of_fold import LearningCases
from samstudent.pseudolabels.policy import MIN_LABELS, LabelingPolicy
from samstudent.pseudolabels.policy_fit import FitOptions, cases_for_offset, fit_policy, policy_inputs, reuse_policy
from samstudent.pseudolabels.teacher import Teacher, fit_champion_head, fit_teacher
from samstudent.rounds.case_store import PreparedCase
from samstudent.rounds.round_options import RoundOptions
from samstudent.rounds.round_store import RoundStore
from samstudent.rounds.scoring import weigh_champion
from samstudent.student.predict import Student
from samstudent.task import Steps
from samstudent.util.progress import Progress, Report, StepReport, no_report

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class LabelledSet:
    """Labelled cases of a round and their store.

    Attributes:
        cases: in the order of their ids.
        store: of their images and labels.
    """

    cases: Sequence[PreparedCase]
    store: RoundStore

    @cached_property
    def by_id(self) -> dict[str, PreparedCase]:
        return {case.id: case for case in self.cases}

    def read(self, case_id: str) -> tuple[CaseImage, LabelledMasks]:
        """Image and human label of a case."""
        return self.store.cases.labelled(self.by_id[case_id])

    def digests(self, ids: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
        """Digests of the labels of some cases, as JSON: tag, SHA-256 of the file, names of its values."""
        return {case.id: label_record(case) for case in self.cases if case.id in ids}


def label_record(case: PreparedCase) -> dict[str, Any]:
    """Record of the human label of a case: tag, SHA-256 of its file, names of its values where they are known, and
    ``checked``: False where no person has seen it."""
    record: dict[str, Any] = {"tag": FINAL, "sha256": case.content.label}
    if not case.content.checked:
        record["checked"] = False
    return record if case.content.names is None else record | {"names": list(case.content.names)}


def cross_fit_labels(
    labels: LabelledSet, options: RoundOptions, report: Report = no_report, *, full_student: bool = True
) -> CrossFit | None:
    """Cross-fit students on the labelled cases; existing ones for the same labels are reused.

    Args:
        labels: the labelled cases.
        options: of the round, complete (``RoundOptions.complete``).
        report: called with the progress.
        full_student: also train a student on all labels, as a member of the teacher.

    Returns:
        None where the task's policy is fixed, or there are too few labels of different images.
    """
    store, section = labels.store, labels.store.task.pseudo_labels
    if section.policy == "fixed" or len(labels.cases) < MIN_LABELS:
        return None
    cases = [store.cases.training_case(case) for case in labels.cases]
    same = same_images(cases)
    if len(set(same.values())) < 2:
        return None
    logger.info("training %d students on folds of %d labels", section.folds, len(cases))
    weights = options.weights
    known = None if weights is None else weights.trained_on(labels.cases)
    if known is not None:
        logger.info("the students on folds do not start from the given weights: %s", known)
    cross_options = CrossFitOptions(
        folds=section.folds,
        steps=_steps(options, labels),
        budget=1.0 if options.whole_budgets else None,
        seed=options.seed or 0,
        device=options.device,
        full_student=full_student,
        same=same,
        on_step=StepReport(report, "training students on folds"),
        start=options.weights_path,
        start_folds=known is None,
    )
    return cross_fit(cases, store.task, store.shared / "folds", cross_options)


def fit_heads(cross: CrossFit, labels: LabelledSet, options: RoundOptions, report: Report = no_report) -> Teacher:
    """The teacher: cross-fitted students with an embedding head beside each.

    Args:
        cross: the students.
        labels: their training cases.
        options: of the round, complete.
        report: called with the progress.
    """
    sam = labels.store.plain_sam() if options.ablations.embedding_head else None
    if sam is not None:
        report(Progress("training embedding heads"))  # SAM is loaded first, and labelled cases are embedded
    progress = StepReport(report, "training embedding heads")
    training = _head_training(options, labels, progress)
    return fit_teacher(cross, labels.read, sam, training)


def fit_labeling(
    teacher: Teacher,
    labels: LabelledSet,
    unlabelled: Sequence[PreparedCase],
    options: RoundOptions,
    report: Report = no_report,
) -> LabelingPolicy:
    """Fit the labeling policy (adapt SAM, choose recipes, fit the quality model), or reuse one of the same labels.

    Sets the weight of the teacher's heads.

    Args:
        teacher: of these labels; changed.
        labels: the labelled cases.
        unlabelled: cases, some of which are used for the ensemble offset.
        options: of the round, complete.
        report: called with the progress.
    """
    store, task, steps = labels.store, labels.store.task, dict[str, StepReport]()

    def progress(part: str, done: int, total: int) -> None:
        steps.setdefault(part, StepReport(report, part))(done, total)

    sam, compared = store.plain_sam(), cases_for_offset([case.id for case in unlabelled], task)
    unchecked = frozenset(case.id for case in labels.cases if not case.content.checked)
    fit_options = FitOptions(
        options.seed or 0, options.ablations, progress=progress, unchecked=unchecked, steps=_steps(options, labels)
    )
    inputs = policy_inputs(teacher, labels.digests(teacher.folds), task, sam.backend, fit_options, len(compared))
    policy = reuse_policy(store.earlier_policies, inputs, store.policy_folder, task, sam.backend)
    if policy is None:
        report(Progress("predicting labelled cases out of fold"))
        images = _Images([case for case in unlabelled if case.id in set(compared)], store)
        fit_options = replace(fit_options, inputs=inputs)
        policy = fit_policy(teacher, LearningCases(labels.read, images), task, sam, store.policy_folder, fit_options)
    else:
        logger.info("the labeling policy of an earlier round is reused: its inputs have not changed")
    teacher.head_weight = policy.head_weight
    return policy


@dataclass(frozen=True)
class ChampionCases:
    """Cases for the addition of the champion to the teacher.

    Attributes:
        labels: labelled cases.
        unlabelled: prepared cases without a human label.
        held_out: prepared held-out cases on which neither champion nor teacher trained.
    """

    labels: LabelledSet
    unlabelled: Sequence[PreparedCase]
    held_out: Sequence[PreparedCase]


def add_champion(
    teacher: Teacher,
    champion: Student,
    cases: ChampionCases,
    options: RoundOptions,
    report: Report = no_report,
) -> dict[str, Any]:
    """Add the champion to the teacher, and an embedding head trained on the predictions of both.

    Args:
        teacher: changed.
        champion: the served student.
        cases: for the head, and for the choice of the weight.
        options: of the round, complete.
        report: called with the progress.

    Returns:
        Record: the ``weight``, and hold-out ``dice`` by weight where the weight was chosen by it.
    """
    report(Progress("adding the champion to the teacher"))
    store, weight, record = cases.labels.store, options.champion_weight, dict[str, Any]()
    if weight is None:
        dice = weigh_champion(teacher, champion, cases.held_out, store.cases)
        weight = max(dice, key=lambda candidate: dice[candidate])
        record["dice"] = {f"{candidate:g}": round(value, 4) for candidate, value in sorted(dice.items())}
    teacher.previous_champion, teacher.champion_weight = champion, weight
    logger.info("weight of the champion in the teacher: %g; hold-out Dice by weight: %s", weight, record.get("dice"))
    learning = LearningCases(cases.labels.read, _Images(cases.unlabelled, store))
    progress = StepReport(report, "training the champion's embedding head")
    training = _head_training(options, cases.labels, progress)
    path = store.policy_folder / "champion_head.pt"
    fit_champion_head(teacher, learning, store.task, store.plain_sam(), path, training)
    return {"weight": weight, **record}


def _head_training(options: RoundOptions, labels: LabelledSet, progress: StepReport) -> HeadTraining:
    return HeadTraining(options.seed or 0, options.device, head_steps(_steps(options, labels)), progress)


def _steps(options: RoundOptions, labels: LabelledSet) -> Steps:
    """Steps of the cross-fitted students."""
    return options.fold_steps or options.steps or labels.store.task.training.steps


@dataclass(frozen=True)
class _Images:
    """Images of cases, read one after the other."""

    cases: Sequence[PreparedCase]
    store: RoundStore

    def __len__(self) -> int:
        return len(self.cases)

    def __iter__(self) -> Iterator[CaseImage]:
        return (self.store.cases.image(case) for case in self.cases)
