"""SAM of a study: plain, active, or that of a policy."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from samstudent.errors import Conflict, UserError
from samstudent.pseudolabels.policy import LabelingPolicy
from samstudent.pseudolabels.recipe_choice import RecipeChoice, StructureChoice
from samstudent.rounds import study as module
from samstudent.rounds.study import Study
from support.drawn import small_task

PLAIN = SimpleNamespace(digest="plain")


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Study:
    """Study with a plain SAM, and adapted ones whose digest is the content of their file."""

    def load(path: Path, base: Any) -> Any:
        assert base is PLAIN
        if path.read_text() == "of another SAM":
            raise UserError(f"{path}: was adapted from another SAM")
        return SimpleNamespace(digest=path.read_text())

    monkeypatch.setattr(module, "load_adapted", load)
    study = Study(str(tmp_path), str(tmp_path), small_task())
    monkeypatch.setattr(study, "plain_sam", lambda: PLAIN)
    return study


def activate(study: Study, content: str) -> None:
    """Activate an adapted SAM, as a training in another process does."""
    other = Study(str(study.root.parent), "", study.task)
    other.adapted_models.activate(other.adapted_models.add({}, lambda path: path.write_text(content)))


def test_a_running_server_notices_which_model_is_active(study: Study):
    assert study.sam() is PLAIN and study.adapted_sam() is None
    activate(study, "first")
    assert study.sam().digest == "first" and study.sam() is study.sam()
    activate(study, "second")
    assert study.sam().digest == "second"
    study.adapted_models.activate_plain()
    assert study.sam() is PLAIN
    study.adapted_models.activate("s0001")
    assert study.sam().digest == "first"


def test_adapted_click_decoder_is_for_structures_of_the_task_until_a_person_goes_back(
    study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[bool] = []
    monkeypatch.setattr(study.click_decoders, "decoder", lambda plain, *, adapted: asked.append(adapted))
    known = study.task.names[0]

    def is_adapted(structure: str) -> bool:
        study.click_decoder(structure)
        return asked[-1]

    assert is_adapted(known) and not is_adapted("fracture")
    study.adapted_models.activate_plain(who="training")
    assert is_adapted(known)
    study.adapted_models.activate_plain(who="admin")
    assert not is_adapted(known)


@pytest.mark.parametrize("damage", ["of another SAM", None])
def test_plain_sam_replaces_an_unusable_adapted_sam(study: Study, damage: str | None, caplog: pytest.LogCaptureFixture):
    activate(study, damage or "adapted")
    if damage is None:
        study.adapted_models.path_of("s0001").write_text("damaged")
    assert study.sam() is PLAIN and "s0001" in caplog.text
    activate(study, "second")
    assert study.sam().digest == "second"


def test_an_adaptation_is_active_if_it_is_better(study: Study, tmp_path: Path):
    weights = tmp_path / "adapted.safetensors"
    weights.write_text("new")
    better = {"used": True, "reason": "0.9 against 0.8", "plain": 0.8, "adapted": 0.9}
    assert study.store_adaptation(better, weights, {"c1": {}}, "r0001") == "s0001"
    assert study.sam().digest == "new" and study.active_model == "s0001"
    worse = {"used": False, "reason": "0.7 against 0.8", "plain": 0.8, "adapted": 0.7}
    assert study.store_adaptation(worse, tmp_path / "nothing", {"c1": {}, "c2": {}}) == "s0002"
    assert study.sam() is PLAIN
    stored = [(record["round"], record["adaptation"]["used"]) for record in study.adapted_models.records()]
    assert stored == [("r0001", True), (None, False)]
    assert study.adapted_models.history[-1].why == "0.7 against 0.8"


def test_stored_adaptation_is_not_activated_again(study: Study, tmp_path: Path):
    weights = tmp_path / "adapted.safetensors"
    weights.write_text("new")
    found = {"used": True, "reason": "0.9 against 0.8", "curve": [{"folds": {0: 0.9}}]}
    assert study.store_adaptation(found, weights, {}, "r0001") == "s0001"
    study.adapted_models.activate_plain(who="admin")
    # A later round that took it again from the first has it from a file.
    assert study.store_adaptation(json.loads(json.dumps(found)), weights, {}, "r0002") == "s0001"
    assert study.active_model is None and len(study.adapted_models.records()) == 1


def outcome(used: bool) -> dict[str, Any]:
    return {"used": used, "reason": "as it is", "plain": 0.8, "adapted": 0.8}


@pytest.mark.parametrize("used", [True, False])
def test_earlier_labels_activate_their_adapted_sam(study: Study, tmp_path: Path, used: bool):
    weights = tmp_path / "adapted.safetensors"
    weights.write_text("new")
    for labels, better in (("first", used), ("second", not used), ("first", used)):
        id = study.store_adaptation(outcome(better), weights, {"c1": {"sha256": labels}})
        assert study.active_model == (id if better else None)
    assert id == "s0001" and len(study.adapted_models.records()) == 2


def test_the_same_outcome_on_other_labels_is_another_adaptation(study: Study, tmp_path: Path):
    weights = tmp_path / "adapted.safetensors"
    for name in ("s0001", "s0002"):
        weights.write_text(name)
        assert study.store_adaptation(outcome(True), weights, {"c1": {"sha256": name}}) == name
        assert study.sam().digest == name


def test_damaged_adaptation_is_stored_again(study: Study, tmp_path: Path):
    weights = tmp_path / "adapted.safetensors"
    weights.write_text("new")
    study.store_adaptation(outcome(True), weights, {})
    study.adapted_models.path_of("s0001").write_text("damaged")
    for _ in range(2):
        assert study.store_adaptation(outcome(True), weights, {}) == "s0002"
        assert study.sam().digest == "new"


def test_unreadable_record_fails_no_round(study: Study, tmp_path: Path, caplog: pytest.LogCaptureFixture):
    study.store_adaptation(outcome(False), tmp_path / "nothing", {"c1": {}})
    study.adapted_models.path_of("s0001").with_name("record.json").write_text("{")
    assert study.store_adaptation(outcome(False), tmp_path / "nothing", {}) == "s0002"
    assert "s0001" in caplog.text


@pytest.fixture
def policy(study: Study, monkeypatch: pytest.MonkeyPatch) -> LabelingPolicy:
    """Policy of every round, with an adapted decoder."""
    choice = RecipeChoice({name: StructureChoice(study.task.recipe) for name in study.task.names})
    learnt = LabelingPolicy(study.task, 0.5, choice, None, adapted=SimpleNamespace(digest="adapted"))  # type: ignore
    monkeypatch.setattr(module.LabelingPolicy, "load", lambda folder, task, backend: learnt)
    return learnt


def test_adapted_decoder_is_that_of_the_policy(study: Study, policy: LabelingPolicy):
    assert study.refiner_of("r0001") == (PLAIN, policy)
    # Whichever adapted SAM is active: recipes were chosen with this one.
    activate(study, "first")
    assert study.refiner_of("r0001") == (PLAIN, policy)


def test_policy_has_no_adapted_decoder_if_a_user_chose_the_plain_sam(study: Study, policy: LabelingPolicy):
    study.adapted_models.activate_plain(who="training")
    assert study.policy_of("r0001") is policy
    study.adapted_models.activate_plain(who="admin")
    without = study.policy_of("r0001")
    assert without is not None and without.adapted is None and without.choice == policy.choice
    assert without.digest != policy.digest
    activate(study, "first")
    assert study.policy_of("r0001") is policy


def test_task_can_fix_the_policy(study: Study, policy: LabelingPolicy):
    study.task = small_task(pseudo_labels={"policy": "fixed"})
    assert study.refiner_of("r0001") == (PLAIN, None)


def test_task_can_disable_adapted_sams(study: Study):
    activate(study, "first")
    study.task = small_task(pseudo_labels={"policy": "fixed"})
    assert study.sam() is PLAIN and study.active_model is None


def test_state_outside_of_the_study_is_refused(tmp_path: Path) -> None:
    (tmp_path / "study").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "study" / ".samstudent").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(Conflict, match=r"\.samstudent leads out of the study"):
        Study(str(tmp_path / "study"), str(tmp_path), small_task())
    assert not list((tmp_path / "elsewhere").iterdir())
