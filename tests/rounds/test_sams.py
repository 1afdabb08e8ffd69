"""Adapted SAMs on the shelf: which is in force changes at once or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from samstudent.errors import NotFound, UserError
from samstudent.rounds.sams import AdaptedSams


def test_a_study_begins_with_the_plain_one(tmp_path: Path):
    sams = AdaptedSams(tmp_path / "state")
    assert sams.in_force is None and sams.records() == [] and sams.history == []
    assert not (tmp_path / "state").exists()


def test_one_is_kept_then_put_in_force_then_taken_back(tmp_path: Path):
    sams = AdaptedSams(tmp_path)
    id = sams.add({"labels": ["a"]}, lambda path: path.write_bytes(b"weights"))
    assert id == "s0001" and sams.in_force is None
    sams.use(id, who="training", why="it beats the plain one")
    # What another process sees.
    other = AdaptedSams(tmp_path)
    assert other.in_force == id and other.weights(id).read_bytes() == b"weights"
    assert other.record(id)["labels"] == ["a"]
    other.use_plain(who="admin")
    assert sams.in_force is None and [switch.id for switch in sams.history] == [id, None]
    sams.use_plain()
    assert len(sams.history) == 2


def test_one_that_is_not_worth_keeping_leaves_its_record_only(tmp_path: Path):
    sams = AdaptedSams(tmp_path)
    id = sams.add({"used": False}, None)
    assert [record["used"] for record in sams.records()] == [False]
    with pytest.raises(NotFound, match="not kept"):
        sams.use(id)
    with pytest.raises(NotFound, match="s0009"):
        sams.record("s0009")
    with pytest.raises(NotFound, match="look like"):
        sams.use("../x")
    assert sams.add({}, None) == "s0002"


def test_a_killed_adaptation_leaves_nothing_that_counts(tmp_path: Path):
    sams = AdaptedSams(tmp_path)

    def killed(path: Path) -> None:
        path.write_bytes(b"half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sams.add({}, killed)
    assert sams.records() == [] and sams.in_force is None
    with pytest.raises(NotFound):
        sams.use("s0001")


def test_what_is_gone_or_damaged_is_said(tmp_path: Path):
    sams = AdaptedSams(tmp_path)
    id = sams.add({}, lambda path: path.write_bytes(b"weights"))
    sams.use(id)
    sams.path_of(id).write_bytes(b"other")
    with pytest.raises(UserError, match="damaged"):
        sams.weights(id)
    sams.path_of(id).unlink()
    with pytest.raises(NotFound, match="are gone"):
        sams.use(id)
    (tmp_path / "sam.json").write_text("{")
    with pytest.raises(UserError, match="plain"):
        _ = sams.in_force


@pytest.mark.parametrize("content", ["{", "[]"])
def test_one_that_cannot_be_read_does_not_hide_the_others(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, content: str
):
    sams = AdaptedSams(tmp_path)
    for _ in range(3):
        sams.add({}, None)
    sams.path_of("s0002").with_name("record.json").write_text(content)
    for _ in range(2):
        assert [record["id"] for record in sams.records()] == ["s0001", "s0003"]
    assert [("s0002" in record.getMessage()) for record in caplog.records] == [True]
    with pytest.raises(UserError, match="unreadable"):
        sams.record("s0002")


def test_a_person_may_take_the_plain_one_which_a_training_cannot_undo_by_finding_nothing(tmp_path: Path):
    sams = AdaptedSams(tmp_path)
    assert not sams.taken_back
    sams.use(sams.add({}, lambda path: path.write_bytes(b"weights")), who="training")
    sams.use_plain(who="training")
    assert not sams.taken_back
    # It is the plain one already, but now somebody wants it to be.
    sams.use_plain(who="admin")
    assert sams.taken_back and len(sams.history) == 3
    sams.use_plain(who="training")
    assert sams.taken_back
    sams.use("s0001", who="training")
    assert not sams.taken_back
