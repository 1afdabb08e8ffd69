"""Further rounds on the same labels."""

from __future__ import annotations

from samstudent.rounds.repeat import repetition
from samstudent.rounds.round_record import PseudoUsed, RoundRecord


def done(difference: float | None = None, *, promoted: bool = True, pseudo: int = 3) -> RoundRecord:
    comparison = None if difference is None else {"mean": {"difference": difference}}
    return RoundRecord(
        id="r0001", status="done", promoted=promoted, pseudo_used=PseudoUsed(n=pseudo), comparison=comparison
    )


def test_round_follows_the_first_one():
    assert repetition([done()]).due


def test_round_follows_a_rise_of_more_than_half_a_point():
    found = repetition([done(), done(0.013)])
    assert found.due and found.why == "mean Dice rose by 1.3 points"
    assert not repetition([done(), done(0.005)]).due


def test_no_round_follows_a_small_rise_or_a_fall():
    assert repetition([done(), done(0.002)]).why == "mean Dice rose by 0.2 points, not by more than 0.5"
    assert repetition([done(), done(-0.002)]).why == "mean Dice fell by 0.2 points, not by more than 0.5"


def test_no_round_follows_where_nothing_can_be_compared():
    assert not repetition([done(), done()]).due
    assert repetition([]).why == "no round has ended"


def test_no_round_follows_a_student_that_is_not_served():
    assert not repetition([done(0.02, promoted=False)]).due


def test_no_round_follows_labels_alone():
    assert not repetition([done(0.02, pseudo=0)]).due


def test_no_round_follows_a_failure():
    failed = RoundRecord(id="r0002", status="failed")
    assert repetition([done(), failed]).why == "the last round failed"


def test_running_round_does_not_count():
    running = RoundRecord(id="r0002", status="running")
    assert repetition([done(), running]).due
