"""Single jobs: files that they read and write."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from samstudent.pseudolabels.teacher import FULL_STUDENT_WEIGHT
from samstudent.research.experiment import work
from samstudent.research.experiment.methods import METHODS, Planner
from samstudent.research.experiment.plan import Job, in_order
from samstudent.research.experiment.work import JobWork
from samstudent.research.setting import Setting
from samstudent.student.predict import Student, binarize
from samstudent.student.training_case import CaseLabel, prepare_case
from samstudent.util.progress import Progress
from support.drawn_folder import labelled_folder
from support.experiment_setting import setting_of


@pytest.fixture
def setting(tmp_path: Path) -> Setting:
    return setting_of(labelled_folder(tmp_path / "data"), tmp_path / "out")


def do(setting: Setting, job: Job) -> list[Progress]:
    """Run a job and its dependencies; returns the progress of the job itself."""
    seen: list[Progress] = []
    for key, needed in in_order([job]).items():
        seen.clear()
        JobWork(setting, needed)(key, seen.append)
    return seen


def test_student_on_raw_pseudo_labels_starts_from_its_teacher(setting: Setting) -> None:
    job = METHODS["raw"].build(Planner(setting), 3, 0)
    seen = do(setting, job)
    assert seen[-1].step == "training" and seen[-1].done == seen[-1].total == setting.steps
    content = json.loads((job.needs["pseudo"].folder(setting.work) / work.ROWS).read_text())
    assert set(content["trains"]) <= set(setting.rest(3))
    assert {row["case"] for row in content["rows"]} <= set(setting.rest(3))
    assert all(row["raw"] == row["refined"] for row in content["rows"])
    models = [Student.load(j.folder(setting.work) / work.MODEL, setting.task) for j in (job, job.needs["start"])]
    image = setting.cases.image("case0")
    assert np.abs(models[0].predict(image) - models[1].predict(image)).max() > 0
    assert JobWork(setting, job).is_done(job.key)


def test_pseudo_labels_without_sam_are_the_masks_of_the_students_of_the_round(setting: Setting) -> None:
    job = METHODS["ours-without-sam"].build(Planner(setting), 3, 0)
    do(setting, job)
    pseudo = job.needs["pseudo"]
    made, full = pseudo.folder(setting.work), pseudo.needs["round"].folder(setting.work) / "folds" / "full.pt"
    assert (made / work.MODEL).read_bytes() == full.read_bytes()
    students = [
        Student.load(full.with_name(f"{name}.pt"), setting.task) for name in ("fold0", "fold1", "fold2", "full")
    ]
    case = json.loads((made / work.ROWS).read_text())["trains"][0]
    image = setting.cases.image(case)
    *folds, last = (student.predict(image) for student in students)
    expected = binarize(np.mean(folds, 0) + FULL_STUDENT_WEIGHT * (last - np.mean(folds, 0)), setting.task)
    saved = setting.cases.pseudo_labels(made).training_case(
        setting.cases.prepared(case, hidden=True), "raw", np.ones(2)
    )
    assert (saved.masks == prepare_case(case, image, CaseLabel(expected), setting.task).masks).all() and expected.any()


def test_a_measurement_has_a_row_of_figures_for_each_case(setting: Setting) -> None:
    planner = Planner(setting)
    job = planner.evaluation(METHODS["labels"].build(planner, 2, 0), "labels", 2, 0)
    do(setting, job)
    result = json.loads((job.folder(setting.work) / work.RESULT).read_text())
    assert list(result["cases"]) == list(setting.test)
    assert all(len(case["dice"]) == 2 for case in result["cases"].values())
    assert 0 <= result["train_dice"] <= 1 and result["training_seconds"] > 0
    assert (result["method"], result["labels"], result["seed"], result["split"]) == ("labels", 2, 0, "test")


def test_failed_job_is_not_completed(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    job = METHODS["labels"].build(Planner(setting), 2, 0)

    def fail(run: work.JobRun) -> None:
        raise ValueError("no")

    monkeypatch.setitem(work.KINDS, "student", fail)
    with pytest.raises(ValueError, match="no"):
        JobWork(setting, job)(job.key, lambda progress: None)
    assert not JobWork(setting, job).is_done(job.key)
