"""What is learned before pseudo labels are made: students on folds, how far to trust them, and an earlier student."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from samstudent.errors import UserError
from samstudent.imaging.annotations import LabelledMasks
from samstudent.imaging.case import CaseImage, read_image
from samstudent.pseudolabels.cross_fitting import CrossFit, cross_fit, same_images
from samstudent.pseudolabels.teacher import Teacher, fit_earlier_reader, fit_teacher
from samstudent.pseudolabels.trust import Trust, inputs_of, learn_trust, some_of, take_again
from samstudent.rounds.cases import CaseFiles, digests, load_cases, read_truth
from samstudent.rounds.scoring import weigh_earlier
from samstudent.sam.cache import EmbeddingCache
from samstudent.sam.model import SamModel
from samstudent.student.predict import Student
from samstudent.task import Task

logger = logging.getLogger(__name__)

#: Seconds between two lines of progress.
REPORT_EVERY = 2.0


class Report:
    """Progress for those who wait: a line in the log, of which clients see the last 20, and the step to ``record``."""

    def __init__(self, what: str = "", record: Callable[[int], object] | None = None) -> None:
        self.what, self.record = what, record
        self.started = self.last = time.monotonic()

    def __call__(self, step: int, steps: int, loss: float | None = None) -> None:
        now = time.monotonic()
        if step not in (1, steps) and now - self.last < REPORT_EVERY:
            return
        self.last = now
        left = (now - self.started) / max(step, 1) * (steps - step)
        told = "" if loss is None else f", loss {loss:.4f}"
        logger.info("%sstep %d of %d%s, %.0f s left", self.what, step, steps, told, left)
        if self.record is not None:
            self.record(step)


def fit_folds(
    files: Sequence[CaseFiles], task: Task, folder: Path, *, steps: int, seed: int, device: str, whole: bool = True,
    left_out: dict[str, str] | None = None,
) -> CrossFit | None:  # fmt: skip
    """Train students on folds of human-labelled cases, or take those that are there for the same labels.

    Args:
        files: of the human labels.
        folder: the study's state; models lie in ``folds/``, those of other labels are replaced.
        steps: of each student, unless the task says otherwise.
        whole: also one on all of them, which a teacher needs and a comparison does not.
        left_out: gets case id -> reason of labels that cannot be read.

    Returns:
        None where trust is switched off or too few labels can be read for it.

    Raises:
        UserError: no label can be read.
    """
    if not task.trust.enabled or len(files) < task.trust.min_labels:
        return None
    cases, unreadable = load_cases(files, task)
    if left_out is not None:
        left_out |= unreadable
    same = same_images(cases)
    if len(cases) < task.trust.min_labels or len(set(same.values())) < 2:
        return None
    logger.info("training %d students on parts of %d labels", task.trust.folds, len(cases))
    return cross_fit(
        cases,
        task,
        folder / "folds",
        k=task.trust.folds,
        steps=task.trust.steps or steps,
        seed=seed,
        device=device,
        on_step=Report("students on parts: "),
        whole=whole,
        same=same,
    )


def learn(
    cross: CrossFit, files: Sequence[CaseFiles], task: Task, backend: SamModel, cache: EmbeddingCache, folder: Path,
    earlier: Iterable[Path] = (), *, seed: int, device: str, unlabelled: Sequence[str] = (),
    path_of: Callable[[str], str] = str,
) -> tuple[Teacher, Trust]:  # fmt: skip
    """Make a teacher of the students on folds, and learn from the labels how far to trust it.

    What was learnt before from the same labels, teacher, SAM and settings is taken again.

    Args:
        files: of the human labels that were cross-fitted.
        backend: the plain SAM.
        folder: for what is learnt, see ``learn_trust``.
        earlier: folders where that may have been done before, those to look at first first.
        unlabelled: ids of cases that may be looked at; some of them are.
        path_of: the image file of such a case; asked late, as it may have to be fetched from a PACS.
    """
    known = {entry.id: entry for entry in files}

    def read(case: str) -> tuple[CaseImage, LabelledMasks]:
        return read_truth(known[case], task)

    readers, parts = Report("readers: "), dict[str, Report]()
    teacher = fit_teacher(
        cross, read, backend if task.trust.readers else None, cache, seed=seed, device=device, progress=readers
    )

    def progress(what: str, done: int, total: int) -> None:
        parts.setdefault(what, Report(f"{what}: "))(done, total)

    labels = {case: found for case, found in digests(files).items() if case in cross.folds}
    looked_at = some_of(sorted(unlabelled), task)
    inputs = inputs_of(teacher, labels, task, backend, seed, len(looked_at))
    trust = take_again(earlier, inputs, folder, task, backend)
    if trust is None:
        trust = learn_trust(
            teacher, read, task, backend, cache, folder,
            unlabelled=readable(looked_at, path_of, task), seed=seed, progress=progress, inputs=inputs,
        )  # fmt: skip
    else:
        logger.info("nothing that trust is learnt from has changed: taken again from an earlier round")
    teacher.share = trust.share
    return teacher, trust


def add_earlier(
    teacher: Teacher, earlier: Student, held: Sequence[CaseFiles], files: Sequence[CaseFiles], task: Task,
    backend: SamModel, cache: EmbeddingCache | None, folder: Path, *, seed: int, device: str,
    unlabelled: Sequence[str], path_of: Callable[[str], str],
) -> dict[str, Any]:  # fmt: skip
    """Let an earlier student join a teacher, with the weight that is best on the hold-out, and a reader that learns
    from what both say of the unlabelled cases (``fit_earlier_reader``).

    Args:
        held: human-labelled cases that nobody trained on.
        files, unlabelled, path_of: as of ``learn``.
        folder: for the reader.

    Returns:
        For the round's record: the ``weight``, and ``dice`` by weight; empty where no case of the hold-out can be read.
        Then nobody joins.
    """
    dice = weigh_earlier(teacher, earlier, held, task)
    if not dice:
        return {}
    teacher.earlier, teacher.weight = earlier, max(dice, key=lambda weight: dice[weight])
    told = {f"{weight:g}": round(value, 4) for weight, value in sorted(dice.items())}
    logger.info("the champion's weight among the teachers is %g: hold-out Dice by weight %s", teacher.weight, told)
    known = {entry.id: entry for entry in files}
    fit_earlier_reader(
        teacher, lambda case: read_truth(known[case], task), readable(sorted(unlabelled), path_of, task),
        task, backend, cache, folder / "earlier_reader.pt", seed=seed, device=device, on_step=Report("last reader: "),
    )  # fmt: skip
    return {"weight": teacher.weight, "dice": told}


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
