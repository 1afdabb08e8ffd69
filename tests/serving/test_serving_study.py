"""Which SAM a study answers with."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from drawn import small_task

from samstudent.errors import UserError
from samstudent.serving import study as module
from samstudent.serving.study import Study

PLAIN = SimpleNamespace(digest="plain")


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Study:
    """With a plain SAM, and adapted ones whose digest is what their file holds."""

    def load(path: Path, base: Any) -> Any:
        assert base is PLAIN
        if path.read_text() == "of another SAM":
            raise UserError(f"{path}: was adapted from another SAM")
        return SimpleNamespace(digest=path.read_text())

    monkeypatch.setattr(module, "load_adapted", load)
    study = Study(str(tmp_path), str(tmp_path), small_task())
    monkeypatch.setattr(study, "plain_sam", lambda: PLAIN)
    return study


def put_in_force(study: Study, content: str) -> None:
    """As a training in another process does."""
    other = Study(str(study.root.parent), "", study.task)
    other.sams.use(other.sams.add({}, lambda path: path.write_text(content)))


def test_a_running_server_notices_what_is_put_in_force(study: Study):
    assert study.sam() is PLAIN and study.adapted_sam() is None
    put_in_force(study, "first")
    assert study.sam().digest == "first" and study.sam() is study.sam()
    put_in_force(study, "second")
    assert study.sam().digest == "second"
    study.sams.use_plain()
    assert study.sam() is PLAIN
    study.sams.use("s0001")
    assert study.sam().digest == "first"


@pytest.mark.parametrize("damage", ["of another SAM", None])
def test_the_plain_one_stands_in_for_one_that_cannot_be_used(
    study: Study, damage: str | None, caplog: pytest.LogCaptureFixture
):
    put_in_force(study, damage or "adapted")
    if damage is None:
        study.sams.path_of("s0001").write_text("damaged")
    assert study.sam() is PLAIN and "s0001" in caplog.text
    put_in_force(study, "second")
    assert study.sam().digest == "second"


def test_an_adaptation_is_in_force_if_it_is_better(study: Study, tmp_path: Path):
    weights = tmp_path / "adapted.safetensors"
    weights.write_text("new")
    better = {"used": True, "reason": "0.9 against 0.8", "plain": 0.8, "adapted": 0.9}
    assert study.keep_adaptation(better, weights, {"c1": {}}, "r0001") == "s0001"
    assert study.sam().digest == "new" and study.sam_in_force == "s0001"
    worse = {"used": False, "reason": "0.7 against 0.8", "plain": 0.8, "adapted": 0.7}
    assert study.keep_adaptation(worse, tmp_path / "nothing", {"c1": {}, "c2": {}}) == "s0002"
    assert study.sam() is PLAIN
    assert [(r["round"], r["adaptation"]["used"]) for r in study.sams.records()] == [("r0001", True), (None, False)]
    assert study.sams.history[-1].why == "0.7 against 0.8"


def test_a_task_may_switch_adapted_sams_off(study: Study):
    put_in_force(study, "first")
    study.task = small_task(trust={"adapt": False})
    assert study.sam() is PLAIN and study.sam_in_force is None
