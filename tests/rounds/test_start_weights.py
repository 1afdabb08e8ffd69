"""Given initial weights of a round: where they lie, and on which cases they were trained."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from samstudent.errors import NotFound, UserError
from samstudent.pseudolabels.ablations import Ablations
from samstudent.rounds.ledger import Ledger
from samstudent.rounds.round_options import RoundCases, RoundOptions
from samstudent.rounds.round_store import RoundStore
from samstudent.rounds.run_round import run_round
from samstudent.rounds.start_weights import StartWeights, check_start_weights, find_start_weights
from samstudent.rounds.trained import Trained, trained_of
from samstudent.sam.cached_sam import CachedSam
from samstudent.student import training
from samstudent.student.network import build_network
from samstudent.student.predict import save_model
from support.case_sources import DrawnSource
from support.drawn import FakeSam, small_task

TASK = small_task(training={"steps": 2, "batch_size": 4, "learning_rate": 0.01})


def add_round(ledger: Ledger, cases: dict[str, str | None]) -> str:
    """Round with a random model that was trained on cases: id -> digest of the image."""
    id = ledger.new_round("manual")
    digest = save_model(ledger.model_path(id), build_network(TASK), TASK)
    entries = {case: {"tag": "final"} | ({"image": image} if image else {}) for case, image in cases.items()}
    (ledger.folder_of(id) / "inputs.json").write_text(json.dumps({"cases": entries, "start": None}))
    ledger.update(id, status="done", model_digest=digest, labels_used=list(cases))
    return id


def test_training_cases_of_the_weights(tmp_path: Path) -> None:
    own, other = Ledger(tmp_path / "own"), Ledger(tmp_path / "other")
    add_round(own, {"a": "image 1"})
    add_round(other, {"a": "image 2"})
    folder = tmp_path / "weights"
    weights = find_start_weights("r0001", own, folder)
    assert weights.path == own.model_path("r0001") and weights.sha256 == own.get("r0001").model_digest
    assert weights.trained == Trained(frozenset("a"), {"image 1": "a"}) and weights.note is None
    # The id of another study may be another image's here.
    weights = find_start_weights(str(other.model_path("r0001")), own, folder)
    assert weights.trained == Trained(frozenset(), {"image 2": "a"})
    assert weights.as_json() == {"path": str(other.model_path("r0001")), "sha256": weights.sha256}
    folder.mkdir()
    shutil.copy(other.model_path("r0001"), folder / "model.pt")
    weights = find_start_weights("model.pt", own, folder)
    assert weights.trained is None and "not known on which cases the initial weights model.pt" in str(weights.note)
    # Digests of images are not known, or the model was replaced.
    assert find_start_weights(str(other.model_path(add_round(other, {"a": None}))), own, folder).trained is None
    save_model(other.model_path("r0001"), build_network(TASK), TASK)
    assert find_start_weights(str(other.model_path("r0001")), own, folder).trained is None


@pytest.mark.parametrize("name", ["r0007", "gone.pt", "some/where/gone.pt"])
def test_missing_weights_are_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(NotFound, match=name):
        find_start_weights(name, Ledger(tmp_path / "own"), tmp_path / "weights")


def test_weights_are_checked_before_a_round(tmp_path: Path) -> None:
    path, wide = tmp_path / "model.pt", small_task(student={"size": [64, 64], "channels": [16, 16]})
    save_model(path, build_network(wide), wide)
    with pytest.raises(UserError, match=r"not the weights of student\.network unet"):
        check_start_weights(StartWeights(path, ""), TASK)
    check_start_weights(StartWeights(path, ""), wide)


@pytest.mark.training
@pytest.mark.parametrize(
    ("trained", "from_weights"),
    [
        (Trained(frozenset(), {"image of 9": "9", "image of 4": "4"}), ["fold0", "fold1", "fold2", "full"]),
        (Trained(frozenset(), {"image of 1": "9"}), ["full"]),  # a labelled case under another id
        (None, ["full"]),
    ],
)
def test_students_on_folds_start_only_from_weights_that_know_no_label(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trained: Trained | None, from_weights: list[str]
) -> None:
    started: list[tuple[str, Path | None]] = []

    def spied(cases: Any, task: Any, path: Path, options: Any = None) -> Any:
        started.append((path.stem, options.start))
        return training.train_student(cases, task, path, options)

    monkeypatch.setattr("samstudent.pseudolabels.cross_fitting.train_student", spied)
    monkeypatch.setattr("samstudent.rounds.run_round.train_student", spied)
    path = tmp_path / "model.pt"
    digest = save_model(path, build_network(TASK), TASK)
    weights = StartWeights(path, digest, trained)
    ledger = Ledger(tmp_path / "state")
    id = ledger.new_round()
    store = RoundStore(ledger.folder_of(id), TASK, sam=CachedSam(FakeSam()))  # type: ignore[arg-type]
    cases = RoundCases(
        [DrawnSource(id) for id in "012"],
        [DrawnSource(id, labelled=False) for id in "67"],
        [DrawnSource(id) for id in "45"],
    )
    parts = Ablations(adapt_sam=False, embedding_head=False)
    options = RoundOptions(device="cpu", ablations=parts, weights=weights, champion_weight=0.0)
    result = run_round(cases, TASK, options, store=store)
    assert [name for name, start in started if start == path] == [
        *from_weights,
        *(["model"] if result.skip_reason else []),
    ]
    # A held-out case on which the weights were trained is no case of the comparison.
    held = {"4"} if trained is not None and "image of 4" in trained.images else set()
    assert set(result.compared.not_compared) == held
    assert ("not known on which cases" in result.compared.decision.why) == (trained is None)
    # Later rounds know of these cases.
    inputs = json.loads((store.folder / "inputs.json").read_text())
    assert inputs["options"]["weights"] == {"path": str(path), "sha256": digest}
    ledger.update(id, labels_used=list(result.labels))
    known = trained_of(ledger, id)
    assert known.images.keys() >= (set() if trained is None else set(trained.images))
    assert known.ids == set("01267"[: 5 if result.pseudo_labels else 3])


@pytest.mark.training
def test_round_of_human_labels_starts_from_the_weights(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    weights = StartWeights(path, save_model(path, build_network(TASK), TASK))
    versions = []
    for given in (weights, None):
        store = RoundStore(tmp_path / str(given is None), TASK, sam=CachedSam(FakeSam()))  # type: ignore[arg-type]
        options = RoundOptions("off", steps=1, device="cpu", weights=given)
        versions.append(run_round(RoundCases([DrawnSource("0")]), TASK, options, store=store).training.version)
        inputs = json.loads((store.folder / "inputs.json").read_text())
        assert inputs["start"] == (given and weights.sha256)
    assert versions[0] != versions[1]
