"""Further rounds on the same labels: they follow while the Dice of the student rises.

The student of a round is a member of the next round's teacher, so that a second round has better pseudo labels. The
gain becomes smaller with each round (issue 20).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from samstudent.rounds.round_record import RoundRecord

#: Rise of mean Dice above which a further round is worth its time.
RISE = 0.005


@dataclass(frozen=True)
class Repetition:
    """Whether another round on the same labels should follow.

    Attributes:
        due: whether it should.
        why: reason, in one line.
    """

    due: bool
    why: str


def repetition(records: Sequence[RoundRecord]) -> Repetition:
    """Whether another round on the same labels should follow the last concluded one.

    It follows the first round of a study, whose student was compared with none, and rounds whose student is served and
    has a mean Dice more than ``RISE`` above its predecessor's, on the hold-out or out of fold (``fair``).

    Args:
        records: rounds of a study, oldest first.
    """
    concluded = [record for record in records if record.status in ("done", "failed")]
    if not concluded or concluded[-1].status == "failed":
        return Repetition(False, "the last round failed" if concluded else "no round has ended")
    last = concluded[-1]
    if not last.pseudo_used.n:
        return Repetition(False, "no pseudo label trained in the last round")
    if not last.promoted:
        return Repetition(False, "the student of the last round is not served")
    if last.comparison is None:
        if any(record.status == "done" for record in concluded[:-1]):
            return Repetition(False, "no labelled case shows whether Dice still rises")
        return Repetition(True, "the first student joins the teacher")
    rise = float(last.comparison["mean"]["difference"])
    why = f"mean Dice rose by {100 * rise:.1f} points" if rise >= 0 else f"mean Dice fell by {-100 * rise:.1f} points"
    return Repetition(rise > RISE, why if rise > RISE else f"{why}, not by more than {100 * RISE:g}")
