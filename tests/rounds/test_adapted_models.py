"""Adapted models: the active one changes completely or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from samstudent.errors import NotFound, UserError
from samstudent.rounds.adapted_models import AdaptedModels


def test_new_study_uses_the_plain_sam(tmp_path: Path):
    models = AdaptedModels(tmp_path / "state")
    assert models.active is None and models.records() == [] and models.history == []
    assert not (tmp_path / "state").exists()


def test_adapted_model_is_stored_activated_and_deactivated(tmp_path: Path):
    models = AdaptedModels(tmp_path)
    id = models.add({"labels": ["a"]}, lambda path: path.write_bytes(b"weights"))
    assert id == "s0001" and models.active is None
    models.activate(id, who="training", why="it beats the plain one")
    # What another process sees.
    other = AdaptedModels(tmp_path)
    assert other.active == id and other.weights(id).read_bytes() == b"weights"
    assert other.record(id)["labels"] == ["a"]
    other.activate_plain(who="admin")
    assert models.active is None and [change.id for change in models.history] == [id, None]
    models.activate_plain()
    assert len(models.history) == 2


def test_rejected_adaptation_has_a_record_only(tmp_path: Path):
    models = AdaptedModels(tmp_path)
    id = models.add({"used": False}, None)
    assert [record["used"] for record in models.records()] == [False]
    with pytest.raises(NotFound, match="not stored"):
        models.activate(id)
    with pytest.raises(NotFound, match="s0009"):
        models.record("s0009")
    with pytest.raises(NotFound, match="look like"):
        models.activate("../x")
    assert models.add({}, None) == "s0002"


def test_killed_adaptation_leaves_no_model(tmp_path: Path):
    models = AdaptedModels(tmp_path)

    def killed(path: Path) -> None:
        path.write_bytes(b"half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        models.add({}, killed)
    assert models.records() == [] and models.active is None
    with pytest.raises(NotFound):
        models.activate("s0001")


def test_missing_or_damaged_model_is_reported(tmp_path: Path):
    models = AdaptedModels(tmp_path)
    id = models.add({}, lambda path: path.write_bytes(b"weights"))
    models.activate(id)
    models.path_of(id).write_bytes(b"other")
    with pytest.raises(UserError, match="damaged"):
        models.weights(id)
    models.path_of(id).unlink()
    with pytest.raises(NotFound, match="are gone"):
        models.activate(id)
    (tmp_path / "sam.json").write_text("{")
    with pytest.raises(UserError, match="plain"):
        _ = models.active


@pytest.mark.parametrize("content", ["{", "[]"])
def test_unreadable_record_does_not_hide_others(tmp_path: Path, caplog: pytest.LogCaptureFixture, content: str):
    models = AdaptedModels(tmp_path)
    for _ in range(3):
        models.add({}, None)
    models.path_of("s0002").with_name("record.json").write_text(content)
    for _ in range(2):
        assert [record["id"] for record in models.records()] == ["s0001", "s0003"]
    assert [("s0002" in record.getMessage()) for record in caplog.records] == [True]
    with pytest.raises(UserError, match="unreadable"):
        models.record("s0002")


def test_plain_sam_chosen_by_a_user_is_kept_after_a_rejected_adaptation(tmp_path: Path):
    models = AdaptedModels(tmp_path)
    assert not models.plain_by_person
    models.activate(models.add({}, lambda path: path.write_bytes(b"weights")), who="training")
    models.activate_plain(who="training")
    assert not models.plain_by_person
    # It is the plain one already, but now somebody wants it to be.
    models.activate_plain(who="admin")
    assert models.plain_by_person and len(models.history) == 3
    models.activate_plain(who="training")
    assert models.plain_by_person
    models.activate("s0001", who="training")
    assert not models.plain_by_person
