"""Step of a round: the new student and the champion on the held-out cases, and whether it should be served."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from samstudent.rounds.case_store import CaseStore, PreparedCase
from samstudent.rounds.fair import CaseScores, Comparison, Decision, FoldScores, compare_fairly, decide
from samstudent.rounds.scoring import CaseDice, Predictor, compare
from samstudent.rounds.trained import Trained

#: Cases that a decision names, at most.
_NAMED = 10


@dataclass(frozen=True)
class Candidate:
    """One of the two students.

    Attributes:
        name: for people.
        student: predicts.
        trained: cases that it trained on.
        fold_dice: out-of-fold Dice of its round.
        accumulated_loss: of mean Dice, over the promotions that led to it (``fair.Decision``).
    """

    name: str
    student: Predictor
    trained: Trained
    fold_dice: CaseScores
    accumulated_loss: float = 0.0


@dataclass(frozen=True)
class ComparisonResult:
    """What the hold-out says.

    Attributes:
        dice: by case, of the new student and of the champion (empty without one).
        comparison: None: there was nothing to compare on.
        decision: whether the new student should be served, and why.
        not_compared: id -> reason, of held-out cases that took no part.
    """

    dice: tuple[CaseDice, CaseDice]
    comparison: Comparison | None
    decision: Decision
    not_compared: dict[str, str] = field(default_factory=dict)

    def with_notes(self, notes: Sequence[str], not_read: Mapping[str, str]) -> ComparisonResult:
        """With further sentences in the reason of the decision, the last about the cases that took no part.

        Args:
            notes: sentences without a full stop.
            not_read: id -> reason, of held-out cases that cannot be read.
        """
        trained_on = _named(self.not_compared, "as a student trained on them")
        sentences = [self.decision.why, *notes, *trained_on, *_named(not_read, "as they cannot be read")]
        decision = replace(self.decision, why=". ".join(sentences))
        return replace(self, decision=decision, not_compared=self.not_compared | dict(not_read))


def compare_on_holdout(
    challenger: Candidate, champion: Candidate | None, held: Sequence[PreparedCase], store: CaseStore, *, seed: int
) -> ComparisonResult:
    """Compare on the held-out cases on which neither of the two trained, and decide.

    Args:
        challenger: the new student.
        champion: the served one; None: there is none.
        held: cases with human labels that never train.
        store: has them.
        seed: of the resampling (``fair.compare_fairly``).
    """
    candidates = [challenger] if champion is None else [challenger, champion]
    not_compared = _trained_on(held, candidates)
    fresh = [case for case in held if case.id not in not_compared]
    scores = compare([candidate.student for candidate in candidates], fresh, store)
    comparison, accumulated_loss = None, 0.0
    if champion is not None:
        folds = FoldScores(challenger.fold_dice, champion.fold_dice)
        comparison = compare_fairly(scores[0], scores[1], store.task.names, folds=folds, seed=seed)
        accumulated_loss = champion.accumulated_loss
    decision = decide(
        comparison, champion=champion is not None, accumulated_loss=accumulated_loss, trained_on=len(not_compared)
    )
    return ComparisonResult((scores[0], scores[1] if champion else {}), comparison, decision, not_compared)


def _trained_on(held: Sequence[PreparedCase], candidates: Sequence[Candidate]) -> dict[str, str]:
    """Held-out cases that cannot tell which student is better, as one trained on them: id -> who, for people."""
    found = {}
    for case in held:
        who = []
        for candidate in candidates:
            if (id := candidate.trained.case_of(case.id, case.content.image)) is not None:
                who.append(f"{candidate.name}{'' if id == case.id else f' as {id}'}")
        if who:
            found[case.id] = f"trained on by {' and '.join(who)}"
    return found


def _named(cases: Mapping[str, str], why: str) -> list[str]:
    """Which held-out cases took no part, for the decision; the record has the reason of each."""
    if not cases:
        return []
    more = f" and {len(cases) - _NAMED} more" if len(cases) > _NAMED else ""
    return [f"Hold-out cases left out of the comparison, {why}: {', '.join(list(cases)[:_NAMED])}{more}"]
