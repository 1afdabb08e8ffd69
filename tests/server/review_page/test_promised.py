"""Lower bounds of Dice in the review: order, filter, acceptance at once, and how often they were true."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from samstudent.errors import UserError
from samstudent.imaging.annotations import read_label
from samstudent.imaging.case import read_image
from samstudent.imaging.label_writing import write_masks
from samstudent.pseudolabels.policy import LabelingPolicy
from samstudent.pseudolabels.recipe_choice import RecipeChoice
from samstudent.server.auth import audit
from samstudent.server.tasks.study_round import StudyRound, sources
from support.review_bench import Bench, shifted

#: Lower bounds of the cases of the bench: both structures of ``good`` reach 0.9, one of ``middle`` does.
BOUNDS = {
    "good": {"disk": 0.93, "square": 0.91},
    "middle": {"disk": 0.55, "square": 0.92},
    "low": {"disk": 0.8, "square": 0.1},
}


@pytest.fixture
def promised(bench: Bench) -> Bench:
    for case, bounds in BOUNDS.items():
        bench.pseudo_label(case, bounds=bounds)
    return bench


def preview(bench: Bench, **query: Any) -> dict[str, Any]:
    answer = bench.client.get("/samstudent/promised", params=query)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def accept(bench: Bench, **body: Any) -> dict[str, Any]:
    query = {key: value for key, value in body.items() if key != "digest"}
    answer = bench.client.post("/samstudent/promised", json={"digest": preview(bench, **query)["digest"], **body})
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def test_queue_is_sorted_and_filtered_by_bound(promised: Bench) -> None:
    def queue(**query: Any) -> list[str]:
        return [item["case"] for item in promised.client.get("/samstudent/review", params=query).json()["cases"]]

    assert queue() == ["none", "low", "middle", "good"]
    assert queue(order="bound") == ["none", "low", "middle", "good"]
    assert queue(order="bound", structure="disk") == ["middle", "low", "good"]
    assert queue(order="bound", structure="square") == ["low", "good", "middle"]
    assert queue(bound=0.9) == ["good"]
    assert queue(bound=0.9, structure="square") == ["middle", "good"]
    assert queue(bound=0.94) == []
    (good,) = promised.client.get("/samstudent/review", params={"bound": 0.9}).json()["cases"]
    assert good["lower_bound"] == 0.91
    disk = promised.client.get("/samstudent/review/good").json()["structures"][0]
    assert (disk["lower_bound"], disk["certainty"]) == (0.93, 0.9)


def test_acceptance_takes_cases_whose_structures_all_reach_the_bound(promised: Bench) -> None:
    shown = preview(promised)
    assert (shown["dice"], shown["certainty"]) == (0.9, 0.9)
    assert (shown["cases"], shown["structures"], shown["others"]) == (1, 2, 0)
    found = accept(promised)
    assert (found["cases"], found["structures"], found["failed"]) == (1, 2, {})
    store, task = promised.datastore, promised.study.task
    info = store.get_label_info("good", "final")
    assert info["user"] == "anonymous"
    assert info["accepted_from"]["promise"] == {"dice": 0.9, "certainty": 0.9, "batch": found["batch"]}
    label = read_label(store.get_label_uri("good", "final"), task, read_image(store.get_image_uri("good")).grid)
    assert np.array_equal(label.masks, promised.truths["good"]) and label.annotated.all()
    assert preview(promised)["cases"] == 0
    empty = promised.client.post("/samstudent/promised", json={"digest": "x"})
    assert empty.status_code == 409 and "0.9" in empty.json()["detail"]


def test_other_structures_of_a_partial_case_are_not_annotated(promised: Bench) -> None:
    shown = preview(promised, partial=True)
    assert (shown["cases"], shown["structures"], shown["others"]) == (2, 3, 1)
    accept(promised, partial=True)
    store, task = promised.datastore, promised.study.task
    label = read_label(store.get_label_uri("middle", "final"), task, read_image(store.get_image_uri("middle")).grid)
    assert label.annotated.tolist() == [False, True]
    assert np.array_equal(label.masks[1], promised.truths["middle"][1])
    taken = store.get_label_info("middle", "final")["accepted_from"]["structures"]
    assert [taken[name]["taken"] for name in task.names] == ["unknown", "refined"]


def test_structures_that_were_not_found_are_not_taught_as_absent(bench: Bench) -> None:
    bench.pseudo_label("good", qualities={"disk": 0.95, "square": None}, bounds={"disk": 0.92})
    assert accept(bench)["structures"] == 1
    grid = read_image(bench.datastore.get_image_uri("good")).grid
    label = read_label(bench.datastore.get_label_uri("good", "final"), bench.study.task, grid)
    assert label.annotated.tolist() == [True, False]


def test_acceptance_is_undone_at_once_or_by_case(promised: Bench) -> None:
    found = accept(promised, partial=True)
    assert promised.client.delete("/samstudent/review/middle/decision").status_code == 200
    undone = promised.client.delete(f"/samstudent/promised/{found['batch']}").json()
    assert undone == {"undone": 1, "failed": {}}
    assert not promised.datastore.get_labeled_images()
    assert preview(promised, partial=True)["cases"] == 2
    assert promised.client.delete(f"/samstudent/promised/{found['batch']}").status_code == 404


def test_changed_selection_is_a_conflict(promised: Bench) -> None:
    digest = preview(promised, dice=0.5, partial=True)["digest"]
    assert promised.client.post("/samstudent/promised", json={"digest": digest}).status_code == 409
    promised.pseudo_label("low", bounds={"disk": 0.85, "square": 0.1}, qualities={"disk": 0.91, "square": 0.3})
    body = {"digest": digest, "dice": 0.5, "partial": True}
    late = promised.client.post("/samstudent/promised", json=body)
    assert late.status_code == 409 and "changed" in late.json()["detail"]
    assert not promised.datastore.get_labeled_images()
    for wrong in ({"dice": 90}, {"whole": True}):
        assert promised.client.post("/samstudent/promised", json={"digest": "x"} | wrong).status_code == 422


def test_a_case_that_fails_does_not_stop_the_others(promised: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    save = promised.datastore.save_label

    def fail(case: str, *args: Any) -> Any:
        if case == "good":
            raise UserError("no space")
        return save(case, *args)

    digest = preview(promised, partial=True)["digest"]
    monkeypatch.setattr(promised.datastore, "save_label", fail)
    answer = promised.client.post("/samstudent/promised", json={"digest": digest, "partial": True}).json()
    assert (answer["cases"], answer["structures"], answer["failed"]) == (1, 1, {"good": "no space"})


def test_one_audit_line_for_all_cases(promised: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit, "_log", promised.study.audit)
    found = accept(promised, partial=True)
    promised.client.delete(f"/samstudent/promised/{found['batch']}")
    first, second = (json.loads(line) for line in promised.study.audit.path.read_text().splitlines())
    assert (first["action"], first["user"], first["cases"], first["structures"]) == (
        "accept promised",
        "anonymous",
        2,
        3,
    )
    assert (second["action"], second["batch"], second["undone"]) == ("undo promised", first["batch"], 2)


def test_checks_by_humans_are_counted_when_the_pseudo_label_is_replaced(promised: Bench, tmp_path: Path) -> None:
    """``good`` is accepted, ``low`` corrected by hand, ``middle`` accepted unseen, which is no check."""
    client, store, task = promised.client, promised.datastore, promised.study.task
    digest = client.get("/samstudent/review/good").json()["digest"]
    assert client.post("/samstudent/review/good/accept", json={"digest": digest}).status_code == 200
    drawn = promised.truths["low"].copy()
    drawn[0] = shifted(drawn, 6)[0]  # the disk was wrong
    write_masks(tmp_path / "drawn.seg.nrrd", drawn, task, read_image(store.get_image_uri("low")).grid)
    store.save_label("low", str(tmp_path / "drawn.seg.nrrd"), "final", {"user": "bob"})
    accept(promised, partial=True)
    assert preview(promised)["checked"]["drawn"]["structures"] == 0
    StudyRound(promised.study, store).drop_replaced(store.list_images())
    checked = preview(promised)["checked"]
    assert checked["accepted"] == {"cases": 1, "structures": 2, "held": 2}
    assert checked["drawn"] == {"cases": 1, "structures": 2, "held": 1}
    assert not store.get_label_by_image_id("low", "pseudo")


def test_labels_accepted_unseen_do_not_calibrate(promised: Bench) -> None:
    accept(promised, partial=True)
    promised.datastore.save_label("low", promised.datastore.get_label_uri("low", "pseudo"), "final", {"user": "bob"})
    found = sources(promised.study, promised.datastore, ["good", "low", "middle"], labelled=True)
    assert {source.id: source.content().checked for source in found} == {"good": False, "low": True, "middle": False}


def test_figures_of_the_bound_are_in_the_record_of_the_round(promised: Bench) -> None:
    study = promised.study
    assert preview(promised)["left_out"] is None
    figures = {"certainty": 0.9, "cases": 8, "needed": 9, "cross_validated": None}
    record = {"adaptation": None, "quality": {"bound": figures}}
    policy = LabelingPolicy(study.task, 0.0, RecipeChoice({}), None, record=record)
    id = study.ledger.new_round("manual")
    StudyRound(study, promised.datastore, id).policy_fitted(policy, {})
    assert study.ledger.get(id).dice_bound == figures
    assert preview(promised)["left_out"] == figures
    (brief,) = promised.client.get("/samstudent/overview").json()["rounds"]
    assert brief["dice_bound"] == figures
