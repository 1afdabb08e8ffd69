"""Batch inference through the host's interface."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from samstudent.errors import Conflict, UserError
from samstudent.pseudolabels.case_labeller import made_with
from samstudent.pseudolabels.provenance import is_current
from samstudent.server.tasks.batch_infer import SamstudentBatchInfer
from samstudent.server.tasks.scoring import CaseScorer
from support.drawn import learn_recipes
from support.infer_requests import serve


def batch(bench: Any, **request: Any) -> dict[str, Any]:
    # The host's default body, on a machine without a GPU (E7).
    body = {"model": "student+sam", "images": "unlabeled", "multi_gpu": True} | request
    return SamstudentBatchInfer(bench.study)(body, bench.datastore, infer=None)


def tags(bench: Any) -> dict[str, set[str]]:
    return {case: set(bench.datastore.get_labels_by_image_id(case)) for case in bench.truths}


def test_unlabelled_cases_get_pseudo_labels(bench: Any) -> None:
    serve(bench)
    bench.label("c0")
    answer = batch(bench)
    held = bench.study.holdout.ids
    free = set(bench.truths) - held - {"c0"}
    assert answer == {"made": len(free), "current": 0, "skipped": len(held - {"c0"}), "failed": {}}
    assert tags(bench)["c0"] == {"final"}
    assert all(tags(bench)[case] == {"pseudo", "pseudo_raw"} for case in free)
    assert batch(bench)["current"] == len(free)
    # Neither the host nor a client takes them for a human's.
    assert bench.datastore.get_labeled_images() == ["c0"]
    assert [entry["image"].rsplit("/", 1)[1] for entry in bench.datastore.datalist()] == ["c0.png"]


def test_pseudo_labels_use_the_policy_of_the_served_round(bench: Any, trained: Path) -> None:
    study = bench.study
    version = serve(bench, trained)
    kept = {"source": "student", "component": "all", "min_size": 1}
    learn_recipes(study.policy_folder("r0001"), study.task, disk=kept, square=kept)
    assert batch(bench)["failed"] == {}
    free = sorted(set(bench.truths) - study.holdout.ids)
    infos = [bench.datastore.get_label_info(case, "pseudo") for case in free]
    wanted = made_with(version, study.plain_sam(), study.task, study.policy_of("r0001"))
    assert all(is_current(info, wanted) for info in infos)
    assert not is_current(infos[0], made_with(version, study.plain_sam(), study.task))
    assert batch(bench)["current"] == len(free)
    # Another student, which learnt nothing of recipes: they are stale.
    serve(bench, seed=1)
    assert batch(bench)["made"] == len(free)


def test_scores_are_stored_only_for_the_recipe_of_the_task(bench: Any, trained: Path) -> None:
    study = bench.study
    serve(bench, trained)
    learn_recipes(study.policy_folder("r0001"), study.task, disk={"box_margin": 0.1})
    request = {"model": "student+sam", "images": "unlabeled"}
    inference = SamstudentBatchInfer(study, CaseScorer(study).keep_scores)
    inference(request, bench.datastore, infer=None)
    assert study.selection.scores("entropy") == study.selection.scores("disagreement") == {}
    serve(bench, trained)
    made = inference(request, bench.datastore, infer=None)["made"]
    assert len(study.selection.scores("entropy")) == len(study.selection.scores("disagreement")) == made > 0


def test_student_model_makes_raw_pseudo_labels_only(bench: Any) -> None:
    serve(bench)
    assert batch(bench, model="student", images=["c2", "c3", "c5"], max_batch_size=2)["failed"] == {}
    assert {tag for found in tags(bench).values() for tag in found} <= {"pseudo_raw"}


def test_wrong_requests_are_named(bench: Any) -> None:
    with pytest.raises(Conflict, match="no student yet"):
        batch(bench)
    serve(bench)
    with pytest.raises(UserError, match="'sam'"):
        batch(bench, model="sam")
    with pytest.raises(UserError, match="label_tag"):
        batch(bench, label_tag="final")
    with pytest.raises(UserError, match="no case nobody"):
        batch(bench, images=["nobody"])
