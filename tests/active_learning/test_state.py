"""State of active learning, with several processes."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from samstudent.active_learning.state import Reservation, SelectionState
from samstudent.errors import UserError


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_reservation_is_valid_until_its_end(tmp_path: Path):
    clock = Clock()
    state = SelectionState(tmp_path / "deep" / "state.sqlite", clock)
    assert state.reserve("a", "anna", 30)
    assert not state.reserve("a", "bob", 30)
    assert state.reserved() == {"a": "anna"}
    clock.now = 20 * 60
    assert state.reserve("a", "anna", 30)  # prolonged
    clock.now = 49 * 60
    assert not SelectionState(state.path, clock).reserve("a", "bob", 30)
    clock.now = 50 * 60
    assert state.reserved() == {} and state.reserve("a", "bob", 30)
    assert state.reserved() == {"a": "bob"}


def test_clock_set_back_does_not_extend_a_reservation(tmp_path: Path):
    clock = Clock()
    state = SelectionState(tmp_path / "s", clock)
    clock.now = 3 * 24 * 3600
    assert state.reserve("a", "anna", 30)
    clock.now -= 30  # put right by a time server
    assert state.reserved() == {"a": "anna"} and not state.reserve("a", "bob", 30)
    clock.now = 0
    assert state.reserved() == {} and state.reserve("a", "bob", 30)
    assert state.reserved() == {"a": "bob"}


def test_duration_0_makes_no_reservation(tmp_path: Path):
    state = SelectionState(tmp_path / "s", Clock())
    assert state.reserve("a", "anna", 0) and state.reserve("a", "bob", 0)


def test_concurrent_processes_reserve_different_cases(tmp_path: Path):
    code = (
        "import sys; from pathlib import Path; from samstudent.active_learning.state import SelectionState\n"
        "state = SelectionState(Path(sys.argv[1]))\n"
        "print(*[i for i in range(60) if state.reserve(str(i), sys.argv[2], 30)])"
    )
    path = str(tmp_path / "state.sqlite")
    children = [
        subprocess.Popen([sys.executable, "-c", code, path, client], stdout=subprocess.PIPE, text=True)
        for client in ("anna", "bob", "carl", "dora")
    ]
    got = [child.communicate()[0].split() for child in children]
    assert [child.returncode for child in children] == [0] * 4
    assert Counter(case for cases in got for case in cases) == Counter(map(str, range(60)))


def test_scores_are_stored_by_version(tmp_path: Path):
    state = SelectionState(tmp_path / "s")
    state.put_scores("entropy", {"a": 0.5, "b": None, "c": 0.1}, "v1")
    state.put_scores("entropy", {"c": 0.2}, "v2")
    assert state.scores("entropy") == {"a": 0.5, "c": 0.2}
    assert state.scored("entropy", "v1") == {"a", "b"} and state.scored("entropy", "v2") == {"c"}
    assert state.scores("disagreement") == {} == state.tables().disagreement


def test_vectors_round_trip_by_backend(tmp_path: Path):
    state = SelectionState(tmp_path / "s")
    a = np.array([1.5, -2, 1e-20], dtype=np.float32)
    state.put_vectors({"a": a, "b": 2 * a}, "sam1")
    assert np.array_equal(state.tables().vectors["b"], 2 * a)
    state.put_vectors({"a": a[:2]}, "sam2")
    assert list(state.vectors()) == ["a"] and state.cases_with_vector("sam1") == {"b"}
    with pytest.raises(UserError, match=r"'c'.*finite"):
        state.put_vectors({"c": np.array([np.nan])}, "sam2")


def test_file_that_is_not_a_database_is_named(tmp_path: Path):
    (tmp_path / "state.sqlite").write_text("no database, but long enough to look like one. " * 100)
    with pytest.raises(UserError, match=r"state.sqlite: file is not a database; rename it"):
        SelectionState(tmp_path / "state.sqlite")


def test_table_of_an_earlier_version_is_extended(tmp_path: Path):
    """From a version without records of offers and of work on cases."""
    with sqlite3.connect(tmp_path / "state.sqlite") as old:
        old.execute(
            "CREATE TABLE reserved (case_id TEXT PRIMARY KEY, client TEXT NOT NULL, since REAL NOT NULL, "
            "until REAL NOT NULL)"
        )
        old.execute("INSERT INTO reserved VALUES ('a', 'anna', 0, 1800)")
    state = SelectionState(tmp_path / "state.sqlite", Clock())
    assert state.reserved() == {"a": "anna"} and state.shown("anna", 30) == []
    state.note_work("a", "anna")
    state.release("anna")
    assert state.reservations() == {"a": Reservation("anna", 0, 1800, worked=True)}


def test_shared_case_stays_reserved_for_its_client(tmp_path: Path):
    clock = Clock()
    state = SelectionState(tmp_path / "s", clock)
    assert state.reserve("a", "anna", 30) and state.reserve("b", "bob", 30)
    clock.now = 60
    state.record_offer("a", "bob")
    assert state.reserved() == {"a": "anna", "b": "bob"}
    assert state.reservations()["a"] == Reservation("anna", 0, 1800, offered=60)
    assert state.shown("bob", 30) == ["b", "a"] and state.shown("anna", 30) == ["a"]
    state.release("bob")
    assert state.reserved() == {"a": "anna"} and state.shown("bob", 30) == ["b", "a"]
    clock.now = 1800
    assert state.shown("bob", 30) == ["a"]
