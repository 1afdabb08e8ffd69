"""Steps of a round from cross-fitting to labelling: the pseudo labels that train the new student."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from samstudent.pseudolabels.case_labeller import CaseLabeller
from samstudent.pseudolabels.cross_fitting import CrossFit
from samstudent.pseudolabels.policy import POLICY_FILE, LabelingPolicy
from samstudent.pseudolabels.teacher import Teacher
from samstudent.rounds import fair
from samstudent.rounds.case_store import PreparedCase
from samstudent.rounds.champion import LoadedChampion
from samstudent.rounds.labeling import kind_of, label_cases
from samstudent.rounds.prepare import prepare
from samstudent.rounds.round_context import RoundContext
from samstudent.rounds.round_options import RoundCases
from samstudent.rounds.scoring import CaseDice, out_of_fold_dice
from samstudent.rounds.teaching import (
    ChampionCases,
    LabelledSet,
    add_champion,
    cross_fit_labels,
    fit_heads,
    fit_labeling,
)
from samstudent.rounds.training_set import PseudoLabelled, choose_pseudo_labels

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class PseudoLabelResult:
    """Result of the steps before the training.

    Attributes:
        pseudo: pseudo labels that train; None: there are none.
        policy: labeling policy that this round fitted; None: none.
        policy_path: file of the policy of the pseudo labels; None: they were made without one.
        fold_dice: out-of-fold Dice of the labelled cases.
        start: model file with the initial weights of the student; None: random weights.
        skip_reason: reason why there are no pseudo labels; None: they were not skipped.
        warning: on a student of the teacher that had not converged; None: all had.
    """

    pseudo: PseudoLabelled | None = None
    policy: LabelingPolicy | None = None
    policy_path: Path | None = None
    fold_dice: CaseDice = field(default_factory=dict)
    start: Path | None = None
    skip_reason: str | None = None
    warning: str | None = None


def make_pseudo_labels(
    cases: RoundCases,
    labels: LabelledSet,
    unseen: Sequence[PreparedCase],
    champion: LoadedChampion | None,
    context: RoundContext,
) -> PseudoLabelResult:
    """Steps 2 to 5 of a round: cross-fit, fit embedding heads, fit the labeling policy, label.

    The pseudo labels are predictions of the students cross-fitted on the labelled cases, and of the champion with the
    weight that is best on the hold-out. With too few labels for cross-fitting, and for other options than ``renew``,
    they are predictions of the champion, refined by the policy of its own round.

    Args:
        cases: of the round.
        labels: the labelled cases, prepared.
        unseen: prepared held-out cases on which neither champion nor this round trains.
        champion: the served student; None: there is none.
        context: of the round.
    """
    store, options, report = context.store, context.options, context.report
    renew = options.pseudo_labels == "renew"
    cross, fold_dice = None, CaseDice()
    # With a small hold-out the comparison uses out-of-fold scores, too.
    if renew or len(unseen) < fair.MIN_HELD:
        with context.clock("cross-fit"):
            cross = cross_fit_labels(labels, options, report, full_student=renew)
            if cross is not None:
                fold_dice = out_of_fold_dice(cross, labels.cases, store.cases)
                store.add_scores(folds=fold_dice)
                store.add_trainings(cross.trainings)
    teaching = cross is not None and renew
    if options.pseudo_labels == "off" or (not teaching and champion is None):
        if options.pseudo_labels != "off":
            logger.info("no student is served yet: this round trains on human labels only")
        return PseudoLabelResult(fold_dice=fold_dice)
    with context.clock("prepare"):
        unlabelled, _ = prepare(cases.unlabelled, store.cases, report, "reading unlabelled cases")
    if cross is None or not renew:
        assert champion is not None
        labeller, policy_path = _champion_labeller(champion, context)
        return PseudoLabelResult(_label(unlabelled, labeller, context), None, policy_path, fold_dice)
    with context.clock("fit heads"):
        teacher = fit_heads(cross, labels, options, report)
    with context.clock("fit policy"):
        fitted = fit_labeling(teacher, labels, unlabelled, options, report)
        policy = store.policy_fitted(fitted, labels.digests(cross.folds))
        _add_champion(teacher, champion, ChampionCases(labels, unlabelled, unseen), context)
    # A champion with a weight chosen on the hold-out is sufficient for pseudo labels.
    skip_reason = None if teacher.uses_champion else policy.skip_reason
    if skip_reason is not None:
        logger.warning("%s", skip_reason)
        store.add_scores(skip_reason=skip_reason)
        return PseudoLabelResult(policy=policy, fold_dice=fold_dice, skip_reason=skip_reason, warning=_warning(cross))
    pseudo = _label(unlabelled, CaseLabeller(context.task, teacher, store.plain_sam(), policy), context)
    start = cross.full_student if pseudo is not None and options.start == "full_student" else None
    path = store.policy_folder / POLICY_FILE
    return PseudoLabelResult(pseudo, policy, path, fold_dice, start, warning=_warning(cross))


def _warning(cross: CrossFit) -> str | None:
    """First warning on a cross-fitted student."""
    found = [(name, training.warning) for name, training in cross.trainings.items()]
    return next((f"Student {name} of the cross-fitting: {warning}" for name, warning in found if warning), None)


def _add_champion(
    teacher: Teacher,
    champion: LoadedChampion | None,
    cases: ChampionCases,
    context: RoundContext,
) -> None:
    """Add the champion to the teacher with the best weight on the hold-out, unless the hold-out is too small."""
    enough = context.options.champion_weight is not None or len(cases.held_out) >= fair.MIN_HELD
    if champion is not None and enough:
        record = add_champion(teacher, champion.student, cases, context.options, context.report)
        context.store.add_scores(champion_weight={"round": champion.champion.name, **record})


def _champion_labeller(champion: LoadedChampion, context: RoundContext) -> tuple[CaseLabeller, Path | None]:
    """Labeller with the champion as the only model and the policy of its round; and the file of that policy."""
    store, task = context.store, context.task
    if context.options.pseudo_labels == "raw":
        return CaseLabeller(task, champion.student, None), None
    policy = champion.champion.load_policy()
    sam = store.active_sam() if policy is None else store.plain_sam()
    path = champion.champion.model.parent / store.policy_folder.name / POLICY_FILE
    return CaseLabeller(task, champion.student, sam, policy), None if policy is None else path


def _label(cases: Sequence[PreparedCase], labeller: CaseLabeller, context: RoundContext) -> PseudoLabelled | None:
    """Make missing pseudo labels, unless the option is ``use``, and choose those that train."""
    store, kind, provenances = context.store, kind_of(labeller), [labeller.made_with]
    with context.clock("label"):
        if context.options.pseudo_labels != "use":
            label_cases(cases, labeller, store, context.report)
        elif (earlier := store.last_made_with()) is not None:
            provenances.append(earlier)
        found = []
        for made_with in provenances:
            labelled = [case for case in cases if store.has_label(case.id, kind, made_with)]
            found.append(choose_pseudo_labels(labelled, (kind, made_with), store, context.options.ablations))
    chosen = max(found, key=lambda pseudo: len(pseudo.weights))
    return chosen if chosen.weights else None
