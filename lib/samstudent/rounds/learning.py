"""What is learnt before pseudo labels are made: cross-fitted students, their labeling policy, the champion's weight."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from samstudent.errors import UserError
from samstudent.imaging.annotations import LabelledMasks
from samstudent.imaging.case import CaseImage, read_image
from samstudent.pseudolabels.ablations import FULL, Ablations
from samstudent.pseudolabels.cached_sam import CachedSam
from samstudent.pseudolabels.cross_fitting import CrossFit, CrossFitOptions, cross_fit, same_images
from samstudent.pseudolabels.embedding_head import HeadTraining
from samstudent.pseudolabels.out_of_fold import LearningCases
from samstudent.pseudolabels.policy import MIN_LABELS, LabelingPolicy
from samstudent.pseudolabels.policy_fit import FitOptions, cases_for_offset, fit_policy, policy_inputs, reuse_policy
from samstudent.pseudolabels.teacher import Teacher, fit_champion_head, fit_teacher
from samstudent.rounds.cases import CaseFiles, digests, load_cases, read_truth
from samstudent.rounds.scoring import weigh_champion
from samstudent.sam.cache import EmbeddingCache
from samstudent.sam.model import SamModel
from samstudent.student.predict import Student
from samstudent.task import Task
from samstudent.util.progress import Progress, log_progress

logger = logging.getLogger(__name__)

#: Seconds between two lines of progress.
REPORT_EVERY = 2.0


class Report:
    """Progress for those who wait: a line in the log, of which clients see the last 20, and the step to ``record``."""

    def __init__(self, what: str = "training the student", record: Callable[[int], object] | None = None) -> None:
        self.what, self.record = what, record
        self.started = self.last = time.monotonic()

    def __call__(self, step: int, steps: int, loss: float | None = None) -> None:
        now = time.monotonic()
        if step not in (1, steps) and now - self.last < REPORT_EVERY:
            return
        self.last = now
        left = (now - self.started) / max(step, 1) * (steps - step)
        log_progress(Progress(self.what, step, steps, loss, left))
        if self.record is not None:
            self.record(step)


def fit_folds(
    files: Sequence[CaseFiles], task: Task, folder: Path, *, steps: int, seed: int, device: str,
    full_student: bool = True, left_out: dict[str, str] | None = None,
) -> CrossFit | None:  # fmt: skip
    """Train students on folds of human-labelled cases, or take those that are there for the same labels.

    Args:
        files: of the human labels.
        folder: the study's state; models lie in ``folds/``, those of other labels are replaced.
        steps: of each student.
        full_student: also one on all of them, which a teacher needs and a comparison does not.
        left_out: gets case id -> reason of labels that cannot be read.

    Returns:
        None where the policy is fixed or too few labels can be read for it.

    Raises:
        UserError: no label can be read.
    """
    if task.pseudo_labels.policy == "fixed" or len(files) < MIN_LABELS:
        return None
    cases, unreadable = load_cases(files, task)
    if left_out is not None:
        left_out |= unreadable
    same = same_images(cases)
    if len(cases) < MIN_LABELS or len(set(same.values())) < 2:
        return None
    logger.info("training %d students on folds of %d labels", task.pseudo_labels.folds, len(cases))
    options = CrossFitOptions(
        task.pseudo_labels.folds, steps, seed, device, full_student, same, Report("students on folds")
    )
    return cross_fit(cases, task, folder / "folds", options)


def learn(
    cross: CrossFit, files: Sequence[CaseFiles], task: Task, backend: SamModel, cache: EmbeddingCache, folder: Path,
    earlier: Iterable[Path] = (), *, seed: int, device: str, unlabelled: Sequence[str] = (),
    path_of: Callable[[str], str] = str, ablations: Ablations = FULL,
) -> tuple[Teacher, LabelingPolicy]:  # fmt: skip
    """Make a teacher of the cross-fitted students, and fit its labeling policy.

    A policy that was fitted before to the same labels, teacher, SAM and settings is reused.

    Args:
        files: of the human labels that were cross-fitted.
        backend: the plain SAM.
        folder: for the policy, see ``fit_policy``.
        earlier: folders of earlier policies, in the order in which to look at them.
        unlabelled: ids of cases that may be looked at; some of them are.
        path_of: the image file of such a case; asked late, as it may have to be fetched from a PACS.
    """
    known = {entry.id: entry for entry in files}

    def read(case: str) -> tuple[CaseImage, LabelledMasks]:
        return read_truth(known[case], task)

    heads, parts, sam = Report("embedding heads"), dict[str, Report](), CachedSam(backend, cache)
    training = HeadTraining(seed, device)
    teacher = fit_teacher(cross, read, sam if ablations.embedding_head else None, training, heads)

    def progress(what: str, done: int, total: int) -> None:
        parts.setdefault(what, Report(what))(done, total)

    labels = {case: found for case, found in digests(files).items() if case in cross.folds}
    looked_at = cases_for_offset(sorted(unlabelled), task)
    options = FitOptions(seed, ablations, progress=progress)
    inputs = policy_inputs(teacher, labels, task, backend, options, len(looked_at))
    policy = reuse_policy(earlier, inputs, folder, task, backend)
    if policy is None:
        cases = LearningCases(read, readable(looked_at, path_of, task))
        policy = fit_policy(teacher, cases, task, sam, folder, replace(options, inputs=inputs))
    else:
        logger.info("nothing that the labeling policy depends on has changed: reused from an earlier round")
    teacher.head_weight = policy.head_weight
    return teacher, policy


def add_champion(
    teacher: Teacher, champion: Student, held: Sequence[CaseFiles], files: Sequence[CaseFiles], task: Task,
    backend: SamModel, cache: EmbeddingCache | None, folder: Path, *, seed: int, device: str,
    unlabelled: Sequence[str], path_of: Callable[[str], str],
) -> dict[str, Any]:  # fmt: skip
    """Let the previous champion join a teacher, with the weight that is best on the hold-out, and a head that learns
    from what both predict of the unlabelled cases (``fit_champion_head``).

    Args:
        held: human-labelled cases that nobody trained on.
        files, unlabelled, path_of: as of ``learn``.
        folder: for the head.

    Returns:
        For the round's record: the ``weight``, and ``dice`` by weight; empty where no case of the hold-out can be read.
        Then the champion does not join.
    """
    dice = weigh_champion(teacher, champion, held, task)
    if not dice:
        return {}
    weight = max(dice, key=lambda weight: dice[weight])
    teacher.previous_champion, teacher.champion_weight = champion, weight
    by_weight = {f"{weight:g}": round(value, 4) for weight, value in sorted(dice.items())}
    logger.info("the champion's weight in the teacher is %g: hold-out Dice by weight %s", weight, by_weight)
    known = {entry.id: entry for entry in files}
    cases = LearningCases(lambda case: read_truth(known[case], task), readable(sorted(unlabelled), path_of, task))
    fit_champion_head(
        teacher, cases, task, CachedSam(backend, cache), folder / "champion_head.pt",
        HeadTraining(seed, device, on_step=Report("the champion's embedding head")),
    )  # fmt: skip
    return {"weight": weight, "dice": by_weight}


def readable(cases: Sequence[str], path_of: Callable[[str], str], task: Task) -> Iterator[CaseImage]:
    """The images of these cases; one that cannot be had or read is told of and left out, as where pseudo labels are
    made."""
    for case in cases:
        try:
            image = read_image(path_of(case), task.dimension)
        except Exception as error:  # whatever a PACS or a disk comes up with, it must not cost the round
            logger.warning("%s cannot be looked at: %s", case, error, exc_info=not isinstance(error, UserError))
        else:
            yield image
