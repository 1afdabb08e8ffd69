"""Step of a round: comparison of the new student with the champion on the hold-out, and the decision to serve it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from samstudent.rounds.case_store import CaseStore, PreparedCase
from samstudent.rounds.fair import CaseScores, Comparison, Decision, FoldScores, compare_fairly, decide
from samstudent.rounds.scoring import CaseDice, Predictor, compare
from samstudent.rounds.trained import Trained

#: Largest number of cases that a decision names.
_NAMED = 10


@dataclass(frozen=True)
class Candidate:
    """One of the two students.

    Attributes:
        name: its name in messages.
        student: the student.
        trained: its training cases.
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
    """Result of the comparison on the hold-out.

    Attributes:
        dice: by case, of the new student and of the champion (empty without one).
        comparison: of the two; None: there was nothing to compare.
        decision: whether to serve the new student, with the reason.
        not_compared: id -> reason, of held-out cases left out of the comparison.
    """

    dice: tuple[CaseDice, CaseDice]
    comparison: Comparison | None
    decision: Decision
    not_compared: dict[str, str] = field(default_factory=dict)

    def with_notes(self, notes: Sequence[str], not_read: Mapping[str, str]) -> ComparisonResult:
        """The result with further sentences in the reason of the decision, the last about left-out cases.

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
    """Compare two students on the held-out cases on which neither of them trained, and decide.

    Args:
        challenger: the new student.
        champion: the served one; None: there is none.
        held: cases with human labels that never train.
        store: of these cases.
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
    """Held-out cases on which a student trained: id -> reason."""
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
    """Sentence about left-out held-out cases for the decision; the record has the reason of each."""
    if not cases:
        return []
    more = f" and {len(cases) - _NAMED} more" if len(cases) > _NAMED else ""
    return [f"Hold-out cases left out of the comparison, {why}: {', '.join(list(cases)[:_NAMED])}{more}"]
