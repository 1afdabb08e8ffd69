"""One round: from human labels to pseudo labels to a student that may be served.

This is the only implementation: the server's trainer, ``samstudent train`` and the method ``ours`` of
``samstudent experiment`` call ``run_round``. Its steps are functions of their own: ``prepare``, ``teaching``,
``labeling``, ``training_set``, ``comparison``.
"""

from __future__ import annotations

import logging
import os
import platform
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import torch

from samstudent.errors import UserError
from samstudent.imaging.label_tags import PSEUDO, PSEUDO_RAW
from samstudent.pseudolabels.case_labeller import CaseLabeller
from samstudent.pseudolabels.out_of_fold import spread_out
from samstudent.pseudolabels.policy import POLICY_FILE, LabelingPolicy
from samstudent.pseudolabels.provenance import Provenance
from samstudent.pseudolabels.teacher import Teacher
from samstudent.rounds import fair
from samstudent.rounds.case_store import PreparedCase
from samstudent.rounds.comparison import Candidate, ComparisonResult, compare_on_holdout
from samstudent.rounds.labeling import kind_of, label_cases
from samstudent.rounds.prepare import ids_of, none_left, prepare
from samstudent.rounds.round_options import Champion, PseudoLabels, RoundCases, RoundOptions
from samstudent.rounds.round_store import RoundStore
from samstudent.rounds.scoring import (
    MAX_TRAIN_DICE_CASES,
    CaseDice,
    not_converged,
    out_of_fold_dice,
    train_dice,
)
from samstudent.rounds.teaching import (
    LabelledSet,
    add_champion,
    cross_fit_labels,
    fit_heads,
    fit_labeling,
    label_record,
)
from samstudent.rounds.trained import Trained
from samstudent.rounds.training_set import PseudoLabelled, TrainingSet, choose_pseudo_labels
from samstudent.student.predict import Student
from samstudent.student.training import train_student
from samstudent.task import Task
from samstudent.util.files import sha256_file
from samstudent.util.progress import Progress, Report, StepReport, no_report

__all__ = ["Champion", "PseudoLabels", "RoundCases", "RoundOptions", "RoundResult", "RoundStore", "run_round"]

logger = logging.getLogger(__name__)

#: Name of the step that trains the student, in its progress.
TRAINING_STEP = "training the student"
#: Of which a round's record keeps the version.
PACKAGES = ("samstudent", "monai", "monailabel", "numpy")


@dataclass(frozen=True)
class RoundResult:
    """What a round made. Files lie in the folder of its store.

    Attributes:
        model: model file of the new student.
        digest: SHA-256, hex, of that file: the student's version.
        labels: ids of the human labels that trained.
        pseudo_labels: ids of the pseudo labels that trained.
        targets: whether masks or probabilities of these were taught; None: there are none.
        made_with: what these were made with; None: there are none.
        policy: recipes and quality model of this round; None: none was fitted.
        left_out: id -> reason, of labelled cases that did not train.
        skip_reason: why no pseudo labels were made although they were wanted; None: they were.
        train_dice: mean Dice of the student on labels that it trained on; nan: none could be measured.
        fold_dice: out-of-fold Dice by case; empty: nothing was cross-fitted.
        compared: Dice on the held-out cases, and the decision.
        seconds: wall time of each step.
    """

    model: Path
    digest: str
    labels: tuple[str, ...]
    pseudo_labels: tuple[str, ...]
    targets: Literal["masks", "probabilities"] | None
    made_with: Provenance | None
    policy: LabelingPolicy | None
    left_out: dict[str, str]
    skip_reason: str | None
    train_dice: float
    fold_dice: CaseDice
    compared: ComparisonResult
    seconds: dict[str, float]


def run_round(
    cases: RoundCases,
    task: Task,
    options: RoundOptions,
    *,
    store: RoundStore,
    engine: Any = None,
    report: Report = no_report,
) -> RoundResult:
    """Run one round.

    1. Prepare: read each image and label once and keep them in ``store.cases``.
    2. Cross-fit: train students on folds of the labelled cases, and one on all of them.
    3. Fit an embedding head beside each student on a fold.
    4. Fit the labeling policy on out-of-fold predictions: adapt SAM, choose recipes, fit the quality model.
    5. Label: make the pseudo labels of the unlabelled cases.
    6. Train: the new student, on both kinds of labels.
    7. Compare: the new student with the champion on the held-out cases.

    Each step writes its results to the store in one piece, so a round that was stopped finds them again.

    Args:
        cases: what to work on.
        task: the checked task.
        options: how.
        store: where prepared cases, models and pseudo labels lie; gives SAM, too.
        engine: where preparing and labelling run (``samstudent.engine``); None: in this process.
        report: is called with the progress of each step.

    Raises:
        UserError: no labelled case can be read.
    """
    setting = _Setting(task, options.complete(task), store, report)
    with setting.clock("prepare"):
        labelled, left_out = prepare(cases.labelled, store.cases, report, "reading labelled cases")
        if not labelled:
            raise none_left(left_out)
        held, not_read = prepare(cases.held, store.cases, report, "reading held-out cases")
    labels = LabelledSet(labelled, store)
    champion = _load(cases.champion, setting)
    unseen = _unseen(held, labelled, champion)
    taught = _teach(cases, labels, unseen, champion, setting)
    pseudo = taught.pseudo
    _record(labels, taught, left_out, setting)
    with setting.clock("train"):
        digest = train_student(
            TrainingSet(labelled, pseudo, store),
            task,
            store.model_path,
            steps=setting.options.steps,
            seed=setting.options.seed,
            start=taught.start,
            device=options.device,
            on_step=StepReport(report, TRAINING_STEP),
        )
    store.student_trained(digest)
    with setting.clock("compare"):
        report(Progress("comparing on the hold-out"))
        student = Student.load(store.model_path, task, options.device)
        known = map(labels.read, spread_out(ids_of(labelled), MAX_TRAIN_DICE_CASES))
        converged = train_dice(student, known, task)
        trained = _trained_on(labelled, pseudo)
        compared = compare_on_holdout(
            Candidate(f"this round ({store.name})", student, trained, taught.fold_dice),
            None if champion is None else champion.as_candidate(),
            held,
            store.cases,
            seed=setting.options.seed or 0,
        )
    notes = [taught.skip_reason, not_converged(converged)]
    compared = compared.with_notes([note for note in notes if note], not_read)
    store.add_scores(challenger=compared.dice[0], champion=compared.dice[1])
    chosen = [] if pseudo is None else ids_of(list(pseudo.weights))
    return RoundResult(
        store.model_path,
        digest,
        tuple(ids_of(labelled)),
        tuple(chosen),
        pseudo.targets if pseudo else None,
        pseudo.made_with if pseudo else None,
        taught.policy,
        left_out,
        taught.skip_reason,
        converged,
        taught.fold_dice,
        compared,
        dict(setting.seconds),
    )


@dataclass
class _Setting:
    """What all steps of a round share."""

    task: Task
    options: RoundOptions
    store: RoundStore
    report: Report
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def clock(self, step: str) -> Iterator[None]:
        """Adds the wall time of a block to its step."""
        started = time.monotonic()
        yield
        self.seconds[step] = round(self.seconds.get(step, 0.0) + time.monotonic() - started, 2)


@dataclass(frozen=True)
class _Loaded:
    """The champion with its network."""

    champion: Champion
    student: Student

    def as_candidate(self) -> Candidate:
        known = self.champion
        name = f"champion ({known.name})"
        return Candidate(name, self.student, known.trained, known.fold_dice or {}, known.accumulated_loss)


@dataclass(frozen=True)
class _Taught:
    """What the steps before the training gave.

    Attributes:
        pseudo: pseudo labels that train; None: there are none.
        policy: that this round fitted.
        policy_path: file of the policy that they were made by; None: they were made by none, or by another round's.
        fold_dice: out-of-fold Dice of the labelled cases.
        start: model file to go on from; None: random weights.
        skip_reason: why there are no pseudo labels.
    """

    pseudo: PseudoLabelled | None = None
    policy: LabelingPolicy | None = None
    policy_path: Path | None = None
    fold_dice: CaseDice = field(default_factory=dict)
    start: Path | None = None
    skip_reason: str | None = None


def _load(champion: Champion | None, setting: _Setting) -> _Loaded | None:
    """The champion; None: there is none, or it could not predict for the task as it is now."""
    if champion is None:
        return None
    try:
        return _Loaded(champion, Student.load(champion.model, setting.task, setting.options.device))
    except UserError as error:
        logger.warning("the served model is left out: %s", error)
        return None


def _trained_on(labelled: Sequence[PreparedCase], pseudo: PseudoLabelled | None) -> Trained:
    """The cases that a student of these labels trains on."""
    cases = [*labelled, *(pseudo.weights if pseudo else ())]
    return Trained(frozenset(ids_of(cases)), {case.content.image: case.id for case in cases})


def _unseen(
    held: Sequence[PreparedCase], labelled: Sequence[PreparedCase], champion: _Loaded | None
) -> list[PreparedCase]:
    """Held-out cases on which neither the champion trained, nor this round will, as far as that can be told before it
    has pseudo labels."""
    trained = _trained_on(labelled, None)
    if champion is not None:
        trained |= champion.champion.trained
    return [case for case in held if trained.case_of(case.id, case.content.image) is None]


def _teach(
    cases: RoundCases,
    labels: LabelledSet,
    unseen: Sequence[PreparedCase],
    champion: _Loaded | None,
    setting: _Setting,
) -> _Taught:
    """Steps 2 to 5: the pseudo labels that train, and what was learnt on the way.

    They are predicted by students on folds of the labelled cases, whose predictions of these are out of fold, and by
    the champion as far as the hold-out says; with too few labels for that, and for the other choices than ``renew``, by
    the champion, by what its own round learnt.
    """
    store, options, report = setting.store, setting.options, setting.report
    renew = options.pseudo_labels == "renew"
    cross, fold_dice = None, CaseDice()
    # For a small hold-out students on folds are trained, too: their scores take part in the comparison.
    if renew or len(unseen) < fair.MIN_HELD:
        with setting.clock("cross-fit"):
            cross = cross_fit_labels(labels, options, report, full_student=renew)
            if cross is not None:
                fold_dice = out_of_fold_dice(cross, labels.cases, store.cases)
                store.add_scores(folds=fold_dice)
    teaching = cross is not None and renew
    if options.pseudo_labels == "off" or (not teaching and champion is None):
        if options.pseudo_labels != "off":
            logger.info("no student is served yet: this round trains on human labels alone")
        return _Taught(fold_dice=fold_dice)
    with setting.clock("prepare"):
        unlabelled, _ = prepare(cases.unlabelled, store.cases, report, "reading unlabelled cases")
    if cross is None or not renew:
        assert champion is not None
        labeller, policy_path = _champion_labeller(champion, setting)
        return _Taught(_label(unlabelled, labeller, setting), None, policy_path, fold_dice)
    with setting.clock("fit heads"):
        teacher = fit_heads(cross, labels, options, report)
    with setting.clock("fit policy"):
        fitted = fit_labeling(teacher, labels, unlabelled, options, report)
        policy = store.policy_fitted(fitted, labels.digests(cross.folds))
        _join(teacher, champion, (labels, unlabelled, unseen), setting)
    # A champion that has a weight by the hold-out has shown that it knows something.
    skip_reason = None if teacher.uses_champion else policy.skip_reason
    if skip_reason is not None:
        logger.warning("%s", skip_reason)
        store.add_scores(skip_reason=skip_reason)
        return _Taught(policy=policy, fold_dice=fold_dice, skip_reason=skip_reason)
    pseudo = _label(unlabelled, CaseLabeller(setting.task, teacher, store.plain_sam(), policy), setting)
    start = cross.full_student if pseudo is not None and options.start == "full_student" else None
    return _Taught(pseudo, policy, store.policy_folder / POLICY_FILE, fold_dice, start)


def _join(
    teacher: Teacher,
    champion: _Loaded | None,
    data: tuple[LabelledSet, Sequence[PreparedCase], Sequence[PreparedCase]],
    setting: _Setting,
) -> None:
    """The champion joins the teacher with the weight that is best on the hold-out; a small one cannot decide."""
    enough = setting.options.champion_weight is not None or len(data[2]) >= fair.MIN_HELD
    if champion is not None and enough:
        record = add_champion(teacher, champion.student, data, setting.options, setting.report)
        setting.store.add_scores(champion_weight={"round": champion.champion.name, **record})


def _champion_labeller(champion: _Loaded, setting: _Setting) -> tuple[CaseLabeller, Path | None]:
    """The champion as the only model, by what its own round learnt; and the file in which that lies."""
    store, task = setting.store, setting.task
    if setting.options.pseudo_labels == "raw":
        return CaseLabeller(task, champion.student, None), None
    policy = champion.champion.load_policy()
    sam = store.active_sam() if policy is None else store.plain_sam()
    path = champion.champion.model.parent / store.policy_folder.name / POLICY_FILE
    return CaseLabeller(task, champion.student, sam, policy), None if policy is None else path


def _label(cases: Sequence[PreparedCase], labeller: CaseLabeller, setting: _Setting) -> PseudoLabelled | None:
    """Make the labels that are missing, unless only those that are there are wanted; and those that train."""
    store, kind, wanted = setting.store, kind_of(labeller), [labeller.made_with]
    with setting.clock("label"):
        if setting.options.pseudo_labels != "use":
            label_cases(cases, labeller, store, setting.report)
        elif (earlier := store.last_made_with()) is not None:
            wanted.append(earlier)
        found = []
        for made in wanted:
            there = [case for case in cases if store.has_label(case.id, kind, made)]
            found.append(choose_pseudo_labels(there, (kind, made), store, setting.options.ablations))
    chosen = max(found, key=lambda pseudo: len(pseudo.weights))
    return chosen if chosen.weights else None


def _record(labels: LabelledSet, taught: _Taught, left_out: dict[str, str], setting: _Setting) -> None:
    """Write down what trains, and all that the student depends on, so that the round can be repeated."""
    store, options, pseudo = setting.store, setting.options, taught.pseudo
    content: dict[str, Any] = {}
    for case in labels.cases:
        content[case.id] = label_record(case) | {"image": case.content.image}
    used: dict[str, Any] = {"n": 0}
    if pseudo is not None:
        tag = PSEUDO if pseudo.kind == "refined" else PSEUDO_RAW
        used = {"n": len(pseudo.weights), "tag": tag, "targets": pseudo.targets}
        for case, weights in pseudo.weights.items():
            content[case.id] = {"tag": tag, "image": case.content.image}
            if weights is not None:
                content[case.id]["weights"] = [round(float(weight), 4) for weight in weights]
    store.training_set(ids_of(labels.cases), used, left_out)
    targets = f" (targets: {used['targets']})" if used["n"] else ""
    logger.info("%s: %d human labels, %d pseudo labels%s", store.name, len(labels.cases), used["n"], targets)
    made_with = None if pseudo is None else pseudo.made_with.as_json()
    policy = None if taught.policy_path is None else os.path.relpath(taught.policy_path, store.folder)
    store.write_record(
        "inputs",
        {
            "task": setting.task.model_dump(mode="json"),
            "options": options.as_json(),
            "cases": content,
            "pseudo_labels_made_with": made_with,
            "policy": policy,
            "start": None if taught.start is None else sha256_file(taught.start),
            # Torch's own word: its metadata does not tell CUDA from CPU builds.
            "packages": {name: version(name) for name in PACKAGES} | {"torch": torch.__version__},
            "python": platform.python_version(),
            "threads": torch.get_num_threads(),
        },
    )
