"""Flags: stored in the study, no training, hold-out or selection of flagged cases until they are taken back."""

from __future__ import annotations

from pathlib import Path

import pytest

from samstudent.errors import UserError
from samstudent.rounds.flags import Flags
from samstudent.rounds.holdout import HoldOut


def test_flag_is_kept_for_other_processes_until_it_is_removed(tmp_path: Path) -> None:
    flags = Flags(tmp_path / "flags.json", now=lambda: 5.0)
    assert flags.all() == {}
    flags.put("a", "  marker in\n the way ", "anna")
    flags.put("b", "blurred", "ben")
    flags.put("a", "another patient", "ben")
    other = Flags(tmp_path / "flags.json")
    assert {case: (f.reason, f.who, f.time) for case, f in other.all().items()} == {
        "a": ("another patient", "ben", 5.0),
        "b": ("blurred", "ben", 5.0),
    }
    assert other.remove("a") and not other.remove("a")
    assert set(flags.all()) == {"b"}


def test_reason_is_required(tmp_path: Path) -> None:
    flags = Flags(tmp_path / "flags.json")
    for reason in ("", "  ", "x" * 501):
        with pytest.raises(UserError, match="1 to 500 characters"):
            flags.put("a", reason, "anna")
    assert not flags.path.exists()


def test_damaged_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "flags.json").write_text('{"cases": []}')
    with pytest.raises(UserError, match="not a file of flags"):
        Flags(tmp_path / "flags.json").all()


def test_flagged_cases_leave_training_and_hold_out_and_return(tmp_path: Path) -> None:
    flags = Flags(tmp_path / "flags.json")
    holdout = HoldOut(tmp_path / "holdout.json", 0.3, None, flags.all)
    cases = [f"case{i}" for i in range(10)]
    holdout.extend(cases, cases)
    train, held = holdout.split(cases)
    flags.put(train[0], "blurred", "anna")
    flags.put(held[0], "blurred", "anna")
    assert holdout.split(cases) == (train[1:], held[1:])
    assert train[0] not in holdout.trainable(cases) and {train[0], held[0]} <= holdout.excluded
    flags.remove(train[0])
    flags.remove(held[0])
    assert holdout.split(cases) == (train, held)
