"""One round: from human labels to pseudo labels to a student that may be served.

``run_round`` is the only implementation: the server's trainer, ``samstudent train`` and the method ``ours`` of
``samstudent experiment`` call it. Its steps are functions in ``prepare``, ``teaching``, ``pseudo_labeling``,
``training_set`` and ``comparison``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from samstudent.pseudolabels.out_of_fold import spread_out
from samstudent.pseudolabels.policy import LabelingPolicy
from samstudent.pseudolabels.provenance import Provenance
from samstudent.rounds.case_store import PreparedCase
from samstudent.rounds.champion import LoadedChampion, load_champion
from samstudent.rounds.comparison import Candidate, ComparisonResult, compare_on_holdout
from samstudent.rounds.prepare import ids_of, none_left, prepare
from samstudent.rounds.pseudo_labeling import make_pseudo_labels
from samstudent.rounds.round_context import RoundContext
from samstudent.rounds.round_inputs import record_inputs
from samstudent.rounds.round_options import Champion, PseudoLabels, RoundCases, RoundOptions
from samstudent.rounds.round_store import RoundStore
from samstudent.rounds.scoring import MAX_TRAIN_DICE_CASES, CaseDice, not_converged, train_dice
from samstudent.rounds.teaching import LabelledSet
from samstudent.rounds.trained import Trained
from samstudent.rounds.training_set import PseudoLabelled, TrainingSet
from samstudent.student.predict import Student
from samstudent.student.training import TrainedStudent, TrainingOptions, train_student
from samstudent.task import Task
from samstudent.util.progress import Progress, Report, StepReport, no_report

__all__ = ["Champion", "PseudoLabels", "RoundCases", "RoundOptions", "RoundResult", "RoundStore", "run_round"]

#: Share of the budget of a training that continues from the student of all labels. The cross-fitted students have used
#: the whole of it before; with the default a round on two cores then ends within 45 minutes.
CONTINUED = 0.25

#: Name of the step that trains the student, in its progress.
TRAINING_STEP = "training the student"


@dataclass(frozen=True)
class RoundResult:
    """Result of a round; its files lie in the folder of its store.

    Attributes:
        model: model file of the new student.
        training: its version, the number of steps and the curve.
        labels: ids of the human labels that trained.
        pseudo_labels: ids of the pseudo labels that trained.
        targets: whether their masks or probabilities were the targets; None: there are none.
        made_with: their provenance; None: there are none.
        policy: recipes and quality model of this round; None: none was fitted.
        left_out: id -> reason, of labelled cases that did not train.
        skip_reason: reason why requested pseudo labels were not made; None: they were made, or not requested.
        train_dice: mean Dice of the student on some of its training labels; nan: none could be measured.
        fold_dice: out-of-fold Dice by case; empty: no student was cross-fitted.
        compared: Dice on the held-out cases, and the decision.
        seconds: wall time of each step.
    """

    model: Path
    training: TrainedStudent
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
    report: Report = no_report,
) -> RoundResult:
    """Run one round.

    1. Prepare: read each image and label once and store them in ``store.cases``.
    2. Cross-fit: train students on folds of the labelled cases, and one on all of them.
    3. Fit an embedding head beside each student on a fold.
    4. Fit the labeling policy on out-of-fold predictions: adapt SAM, choose recipes, fit the quality model.
    5. Label: make the pseudo labels of the unlabelled cases.
    6. Train: the new student, on both kinds of labels.
    7. Compare: the new student with the champion on the held-out cases.

    Each step writes its results to the store atomically, so that a round that was stopped continues from them.

    Args:
        cases: labelled, unlabelled and held-out cases, and the champion.
        task: the checked task.
        options: of the round.
        store: of prepared cases, models, pseudo labels and SAM.
        report: called with the progress of each step.

    Raises:
        UserError: no labelled case can be read.
    """
    context = RoundContext(task, options.complete(task), store, report)
    with context.clock("prepare"):
        labelled, left_out = prepare(cases.labelled, store.cases, report, "reading labelled cases")
        if not labelled:
            raise none_left(left_out)
        held, not_read = prepare(cases.held, store.cases, report, "reading held-out cases")
    labels = LabelledSet(labelled, store)
    champion = load_champion(cases.champion, context)
    inherited = (options.weights and options.weights.trained) or Trained()
    unseen = _unseen(held, _trained_on(labelled, None) | inherited, champion)
    made = make_pseudo_labels(cases, labels, unseen, champion, context)
    pseudo = made.pseudo
    record_inputs(labels, made, left_out, context)
    with context.clock("train"):
        start = made.start or options.weights_path
        training = TrainingOptions(
            context.options.steps, context.options.seed, start, options.device, StepReport(report, TRAINING_STEP)
        )
        if made.start is not None and not options.whole_budgets:
            # It continues, and the cross-fitting has used the rest of the budget.
            training = replace(training, budget=CONTINUED)
        trained = train_student(TrainingSet(labelled, pseudo, store), task, store.model_path, training)
    store.add_trainings({"student": trained})
    store.student_trained(trained)
    with context.clock("compare"):
        report(Progress("comparing on the hold-out"))
        student = Student.load(store.model_path, task, options.device)
        known = map(labels.read, spread_out(ids_of(labelled), MAX_TRAIN_DICE_CASES))
        converged = train_dice(student, known, task)
        compared = compare_on_holdout(
            Candidate(f"this round ({store.name})", student, _trained_on(labelled, pseudo) | inherited, made.fold_dice),
            None if champion is None else champion.as_candidate(),
            held,
            store.cases,
            seed=context.options.seed or 0,
        )
    notes = [made.skip_reason, made.warning, not_converged(converged, trained.ending), trained.warning]
    notes.append(None if options.weights is None else options.weights.note)
    compared = compared.with_notes([note for note in notes if note], not_read)
    store.add_scores(challenger=compared.dice[0], champion=compared.dice[1])
    chosen = [] if pseudo is None else ids_of(list(pseudo.weights))
    return RoundResult(
        store.model_path,
        trained,
        tuple(ids_of(labelled)),
        tuple(chosen),
        pseudo.targets if pseudo else None,
        pseudo.made_with if pseudo else None,
        made.policy,
        left_out,
        made.skip_reason,
        converged,
        made.fold_dice,
        compared,
        dict(context.seconds),
    )


def _trained_on(labelled: Sequence[PreparedCase], pseudo: PseudoLabelled | None) -> Trained:
    """Cases that train a student: human-labelled and pseudo-labelled ones."""
    cases = [*labelled, *(pseudo.weights if pseudo else ())]
    return Trained(frozenset(ids_of(cases)), {case.content.image: case.id for case in cases})


def _unseen(held: Sequence[PreparedCase], trained: Trained, champion: LoadedChampion | None) -> list[PreparedCase]:
    """Held-out cases on which neither the champion trained nor this round's students, with their initial weights."""
    if champion is not None:
        trained |= champion.champion.trained
    return [case for case in held if trained.case_of(case.id, case.content.image) is None]
