"""Cross-fitting: one student for each fold of the labelled cases, trained on the other folds.

A student's prediction of a training case does not show how good its predictions of new cases are. Everything that is
chosen or fitted on labelled cases therefore uses out-of-fold predictions: those of the fold's student, ``student_for``.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from samstudent.errors import UserError
from samstudent.imaging.file_names import group_of
from samstudent.pseudolabels.ensemble import Ensemble
from samstudent.student.predict import Student
from samstudent.student.training import OnStep, TrainedStudent, TrainingOptions, train_student
from samstudent.student.training_case import TrainingCase
from samstudent.task import Steps, Task
from samstudent.util.files import atomic_write, sha256_file

logger = logging.getLogger(__name__)


def folds_of(ids: Iterable[str], k: int, seed: int) -> dict[str, int]:
    """Fold (from 0) of each id; sizes differ by one at most, and there are never more folds than ids.

    The ids are ordered by a hash and cut into blocks, so that one id more or less moves at most ``k - 1`` others to
    another fold. The order of ``ids`` does not matter.
    """
    ordered = sorted(set(ids), key=lambda case: hashlib.sha256(f"{seed}/{case}".encode()).digest())
    k = min(k, len(ordered))
    return {case: rank * k // len(ordered) for rank, case in enumerate(ordered)}


def same_images(cases: Iterable[TrainingCase]) -> dict[str, str]:
    """Case id -> the first id, in their order, of the cases with the same image on the student's grid."""
    first: dict[bytes, str] = {}
    found = {}
    for case in sorted(cases, key=lambda case: case.id):
        key = hashlib.sha256(f"{case.image.shape}".encode() + np.ascontiguousarray(case.image).tobytes()).digest()
        found[case.id] = first.setdefault(key, case.id)
    return found


@dataclass(frozen=True)
class CrossFit:
    """Result of ``cross_fit``.

    Attributes:
        folds: fold of each case, by id.
        models: model file of each fold.
        task: of the students.
        device: name of the PyTorch device of the students; None: the best available.
        full_student: model file of a student trained on all cases; None: there is none.
        trainings: result of each training by the name of its model file (``fold0``, ..., ``full``).
    """

    folds: dict[str, int]
    models: list[Path]
    task: Task
    device: str | None = None
    full_student: Path | None = None
    trainings: Mapping[str, TrainedStudent] = field(default_factory=dict)

    @cached_property
    def ensemble(self) -> Ensemble:
        """Ensemble of all folds' students, for cases on which none of them trained."""
        return Ensemble.load(self.models, self.task, self.device)

    def student_for(self, case_id: str) -> Student:
        """The student that did not train on a case.

        Raises:
            KeyError: the case has no fold: no student trained on it; use ``ensemble``.
        """
        student = self.ensemble.predictors[self.folds[case_id]]
        assert isinstance(student, Student)
        return student


@dataclass(frozen=True)
class CrossFitOptions:
    """Options of the cross-fitting.

    Attributes:
        folds: number of folds, 2 or more; at most one for each case.
        steps: optimisation steps of each student, or ``auto``: until Dice on its left-out cases, too, has stopped
            rising, within ``budget``. The student of all cases then trains for the mean number of steps of the others,
            because no case is left out. None: the task's.
        budget: share of the task's budget of time for each training; None: an equal part of the whole.
        seed: of folds and trainings.
        device: name of the PyTorch device; None: the best available.
        full_student: also train a student on all cases, into ``full.pt``.
        same: case id -> id of the case with the same image, itself or another; such cases are in one fold, otherwise a
            student would have trained on the image that it predicts. None: all images differ.
        on_step: called with the step and the number of steps of all trainings together.
        start: file with the initial weights (``student.start.load_start``); None: random ones.
        start_folds: whether the students on folds start from it, too, not only the student of all cases: False where
            the weights were trained on the cases.
    """

    folds: int = 3
    steps: Steps | None = None
    budget: float | None = None
    seed: int = 0
    device: str | None = None
    full_student: bool = False
    same: Mapping[str, str] | None = None
    on_step: OnStep | None = None
    start: Path | None = None
    start_folds: bool = False


def cross_fit(
    cases: Sequence[TrainingCase], task: Task, folder: Path, options: CrossFitOptions = CrossFitOptions()
) -> CrossFit:
    """Train one student for each fold on the cases of the others, into ``folder/fold<i>.pt``.

    A model whose sidecar ``fold<i>.json`` has the digest of the same inputs is reused, so that an interrupted run
    continues.

    Args:
        cases: human-labelled cases, two or more. Pseudo labels are not allowed: their student may have trained on the
            left-out case.
        task: of the students.
        folder: for the models.
        options: folds, steps and seed.

    Raises:
        UserError: fewer than two cases; the task's network is not possible.
        ValueError: a case is not human-labelled, or ids repeat.
    """
    ids = [case.id for case in cases]
    if len(set(ids)) < len(ids) or not all(case.human for case in cases):
        raise ValueError("cross_fit takes human-labelled cases, each once")
    if len(cases) < 2:
        raise UserError(f"{len(cases)} labelled case(s): cross-fitting leaves cases out, so it needs two or more")
    same, seed = options.same or {}, options.seed
    together = {case: same.get(case, case) for case in ids}
    # Frames of one clip are alike: a student is tested on other clips, where there are several.
    if len({group_of(case) for case in together.values()}) > 1:
        together = {case: group_of(other) for case, other in together.items()}
    folds = folds_of(together.values(), max(2, options.folds), seed)
    folds = {case: folds[together[case]] for case in ids}
    trainings = {f"fold{fold}": fold for fold in range(max(folds.values()) + 1)}
    if options.full_student:
        trainings["full"] = len(trainings)  # no case is of this fold
    steps, budget = options.steps or task.training.steps, options.budget or 1 / len(trainings)
    models, made = [], dict[str, TrainedStudent]()
    for name, number in trainings.items():
        path = folder / f"{name}.pt"
        train = sorted((case for case in cases if folds[case.id] != number), key=lambda case: case.id)
        left_out = [case for case in cases if folds[case.id] == number]
        own: Steps = steps
        if steps == "auto" and not left_out:
            own = round(sum(training.steps for training in made.values()) / len(made))
        # The left-out cases decide when the training ends.
        watched = [digest_of(left_out, task), budget] if own == "auto" else None
        start = options.start if options.start_folds or not left_out else None
        others = {} if start is None else {"start": sha256_file(start)}
        inputs = digest_of(train, task, steps=own, seed=seed + number, left_out=watched, **others)
        if (known := trained_before(path, inputs)) is not None:
            logger.info("%d of %d: this student exists already", number + 1, len(trainings))
            made[name] = known
        else:
            report = None if options.on_step is None else StepsOfAll(options.on_step, number, len(trainings))
            training = TrainingOptions(own, seed + number, start, options.device, report)
            if own == "auto":
                training = replace(training, validation=left_out, budget=budget)
            made[name] = train_student(train, task, path, training)
            version, training_json = made[name].version, made[name].as_json()
            write_inputs(path, inputs, version, trained_on=[case.id for case in train], training=training_json)
        models.append(path)
    full = models.pop() if options.full_student else None
    return CrossFit(folds, models, task, options.device, full, made)


def digest_of(cases: Sequence[TrainingCase], task: Task, **others: object) -> str:
    """SHA-256, hex, of everything that a training depends on: content and order of the cases, task, seed and steps."""
    digest = hashlib.sha256()
    content = task.model_dump(mode="json", include={"dimension", "structures", "overlap", "image", "student"})
    training = task.training.model_dump(mode="json", exclude={"steps", "seed", "budget"})
    if others.get("steps") == "auto":
        others |= {"budget": task.training.budget}
    # The file may be replaced.
    if (checkpoint := task.student.checkpoint) is not None:
        others |= {"weights": sha256_file(checkpoint)}
    digest.update(json.dumps([content, training, others], sort_keys=True).encode())
    for case in cases:
        digest.update(json.dumps([case.id, case.human]).encode())
        for array in (case.image, case.masks, case.ignore, case.weights, case.soft):
            if array is not None:
                digest.update(f"{array.dtype} {array.shape}".encode())
                digest.update(np.ascontiguousarray(array).tobytes())
            digest.update(b"|")
    return digest.hexdigest()


def write_inputs(path: Path, inputs: str, version: str, **more: object) -> None:
    """Write a model's sidecar: digest of its inputs, and of the file."""
    atomic_write(path.with_suffix(".json"), json.dumps({"inputs": inputs, "version": version, **more}, indent=1))


def trained_before(path: Path, inputs: str) -> TrainedStudent | None:
    """Result of the training of a complete model file from these inputs; None: there is none."""
    if not is_made(path, inputs):
        return None
    return TrainedStudent.from_json(json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))["training"])


def is_made(path: Path, inputs: str) -> bool:
    """Whether a model file is complete and was made from these inputs."""
    try:
        sidecar = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        return bool(sidecar["inputs"] == inputs and sidecar["version"] == sha256_file(path))
    except (OSError, ValueError, KeyError, TypeError):
        return False


class StepsOfAll:
    """Progress of one of several trainings of equal length as that of all.

    Args:
        on_step: is called with the steps of all.
        number: of this training, from 0.
        count: number of trainings.
    """

    def __init__(self, on_step: OnStep, number: int, count: int) -> None:
        self.on_step, self.number, self.count = on_step, number, count

    def __call__(self, step: int, steps: int, loss: float) -> None:
        self.on_step(self.number * steps + step, self.count * steps, loss)
