"""Steps of a round before labels are made: cross-fitting, embedding heads, labeling policy, and the champion's part."""

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
from samstudent.pseudolabels.head_training import HeadTraining
from samstudent.pseudolabels.out_of_fold import LearningCases
from samstudent.pseudolabels.policy import MIN_LABELS, LabelingPolicy
from samstudent.pseudolabels.policy_fit import FitOptions, cases_for_offset, fit_policy, policy_inputs, reuse_policy
from samstudent.pseudolabels.teacher import Teacher, fit_champion_head, fit_teacher
from samstudent.rounds.case_store import PreparedCase
from samstudent.rounds.round_options import RoundOptions
from samstudent.rounds.round_store import RoundStore
from samstudent.rounds.scoring import weigh_champion
from samstudent.student.predict import Student
from samstudent.util.progress import Progress, Report, StepReport, no_report

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class LabelledSet:
    """Labelled cases of a round and the store that they lie in.

    Attributes:
        cases: in the order of their ids.
        store: has their images and labels.
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
        """What tells each of these labels from any other, as JSON: tag, SHA-256 of the file, meaning of its values."""
        return {case.id: label_record(case) for case in self.cases if case.id in ids}


def label_record(case: PreparedCase) -> dict[str, Any]:
    """The human label of a case for records: tag, SHA-256 of its file, and what its values mean where that is told."""
    record: dict[str, Any] = {"tag": FINAL, "sha256": case.content.label}
    return record if case.content.names is None else record | {"names": list(case.content.names)}


def cross_fit_labels(
    labels: LabelledSet, options: RoundOptions, report: Report = no_report, *, full_student: bool = True
) -> CrossFit | None:
    """Train students on folds of the labelled cases, or take those that are there for the same labels.

    Args:
        labels: what to learn.
        options: of the round, complete (``RoundOptions.complete``).
        report: is called with the progress.
        full_student: also train one on all labels, which a teacher needs and a comparison does not.

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
    how = CrossFitOptions(
        section.folds,
        options.fold_steps or options.steps,
        options.seed or 0,
        options.device,
        full_student,
        same,
        StepReport(report, "training students on folds"),
    )
    return cross_fit(cases, store.task, store.shared / "folds", how)


def fit_heads(cross: CrossFit, labels: LabelledSet, options: RoundOptions, report: Report = no_report) -> Teacher:
    """The teacher: cross-fitted students with an embedding head beside each.

    Args:
        cross: the students.
        labels: that they were cross-fitted on.
        options: of the round, complete.
        report: is called with the progress.
    """
    sam = labels.store.plain_sam() if options.ablations.embedding_head else None
    if sam is not None:
        report(Progress("training embedding heads"))  # SAM is loaded first, and labelled cases are embedded
    progress = StepReport(report, "training embedding heads")
    training = HeadTraining(options.seed or 0, options.device, on_step=progress)
    return fit_teacher(cross, labels.read, sam, training)


def fit_labeling(
    teacher: Teacher,
    labels: LabelledSet,
    unlabelled: Sequence[PreparedCase],
    options: RoundOptions,
    report: Report = no_report,
) -> LabelingPolicy:
    """Fit the labeling policy (adapt SAM, choose recipes, fit the quality model), or take one that an earlier round
    fitted to the same labels. The teacher gets the weight of its heads.

    Args:
        teacher: of these labels; changed.
        labels: with out-of-fold predictions by the teacher.
        unlabelled: cases of which some show how much better the whole teacher is than one fold of it.
        options: of the round, complete.
        report: is called with the progress.
    """
    store, task, steps = labels.store, labels.store.task, dict[str, StepReport]()

    def progress(part: str, done: int, total: int) -> None:
        steps.setdefault(part, StepReport(report, part))(done, total)

    sam, compared = store.plain_sam(), cases_for_offset([case.id for case in unlabelled], task)
    how = FitOptions(options.seed or 0, options.ablations, progress=progress)
    inputs = policy_inputs(teacher, labels.digests(teacher.folds), task, sam.backend, how, len(compared))
    policy = reuse_policy(store.earlier_policies, inputs, store.policy_folder, task, sam.backend)
    if policy is None:
        report(Progress("predicting labelled cases out of fold"))
        images = _Images([case for case in unlabelled if case.id in set(compared)], store)
        how = replace(how, inputs=inputs)
        policy = fit_policy(teacher, LearningCases(labels.read, images), task, sam, store.policy_folder, how)
    else:
        logger.info("nothing that the labeling policy depends on has changed: reused from an earlier round")
    teacher.head_weight = policy.head_weight
    return policy


def add_champion(
    teacher: Teacher,
    champion: Student,
    data: tuple[LabelledSet, Sequence[PreparedCase], Sequence[PreparedCase]],
    options: RoundOptions,
    report: Report = no_report,
) -> dict[str, Any]:
    """Let the champion join the teacher, and an embedding head that learns from the predictions of both.

    Args:
        teacher: changed.
        champion: the served student.
        data: labelled cases; unlabelled ones; and held-out ones on which neither champion nor teacher trained.
        options: of the round, complete.
        report: is called with the progress.

    Returns:
        For the round's record: the ``weight``, and hold-out ``dice`` by weight where that decided.
    """
    report(Progress("adding the champion to the teacher"))
    labels, unlabelled, held = data
    store, weight, record = labels.store, options.champion_weight, dict[str, Any]()
    if weight is None:
        dice = weigh_champion(teacher, champion, held, store.cases)
        weight = max(dice, key=lambda candidate: dice[candidate])
        record["dice"] = {f"{candidate:g}": round(value, 4) for candidate, value in sorted(dice.items())}
    teacher.previous_champion, teacher.champion_weight = champion, weight
    logger.info("weight of the champion in the teacher: %g; hold-out Dice by weight: %s", weight, record.get("dice"))
    cases = LearningCases(labels.read, _Images(unlabelled, store))
    progress = StepReport(report, "training the champion's embedding head")
    training = HeadTraining(options.seed or 0, options.device, on_step=progress)
    path = store.policy_folder / "champion_head.pt"
    fit_champion_head(teacher, cases, store.task, store.plain_sam(), path, training)
    return {"weight": weight, **record}


@dataclass(frozen=True)
class _Images:
    """Images of cases, read one after the other."""

    cases: Sequence[PreparedCase]
    store: RoundStore

    def __len__(self) -> int:
        return len(self.cases)

    def __iter__(self) -> Iterator[CaseImage]:
        return (self.store.cases.image(case) for case in self.cases)
