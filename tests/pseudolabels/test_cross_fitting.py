from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from samstudent.errors import UserError
from samstudent.imaging.case import CaseImage
from samstudent.pseudolabels import cross_fitting
from samstudent.pseudolabels.cross_fitting import CrossFitOptions, cross_fit, folds_of
from samstudent.pseudolabels.ensemble import Ensemble
from samstudent.student.predict import Student
from samstudent.student.training import TrainedStudent, TrainingOptions
from samstudent.student.training_case import TrainingCase
from samstudent.task import Task
from support.drawn import case_image, shapes, small_task, training_cases

TASK = small_task()
CASES = training_cases(5, TASK)


@given(st.sets(st.text(min_size=1, max_size=8), min_size=1, max_size=40), st.integers(1, 8), st.integers(0, 3))
@settings(max_examples=60, deadline=None)
def test_folds_are_balanced_and_none_is_empty(ids: set[str], k: int, seed: int) -> None:
    folds = folds_of(ids, k, seed)
    sizes = np.bincount(list(folds.values()))
    assert set(folds) == ids and len(sizes) == min(k, len(ids))
    assert sizes.min() >= 1 and sizes.max() - sizes.min() <= 1
    assert folds_of(sorted(ids, reverse=True), k, seed) == folds


@given(st.sets(st.text(min_size=1, max_size=8), min_size=4, max_size=40), st.integers(2, 4))
@settings(max_examples=60, deadline=None)
def test_new_label_changes_few_folds(ids: set[str], k: int) -> None:
    *old, new = sorted(ids)
    before, after = folds_of(old, min(k, len(old)), 0), folds_of([*old, new], min(k, len(old)), 0)
    assert sum(before[case] != after[case] for case in old) <= k - 1


def test_the_seed_decides() -> None:
    ids = [f"case{i}" for i in range(30)]
    assert folds_of(ids, 3, 0) != folds_of(ids, 3, 1)


def made(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in folder.glob("fold*.pt")}


def test_oof_student_did_not_train_on_the_case(tmp_path: Path) -> None:
    steps: list[tuple[int, int]] = []
    fit = cross_fit(
        CASES, TASK, tmp_path, CrossFitOptions(3, 2, on_step=lambda step, of, loss: steps.append((step, of)))
    )
    assert steps == [(i, 6) for i in range(1, 7)]
    assert fit.folds == folds_of([case.id for case in CASES], 3, 0) and len(fit.models) == 3
    for case in CASES:
        sidecar = json.loads(fit.models[fit.folds[case.id]].with_suffix(".json").read_text())
        assert case.id not in sidecar["trained_on"]
        assert fit.student_for(case.id).version == sidecar["version"]
    assert sum(len(json.loads(p.read_text())["trained_on"]) for p in tmp_path.glob("*.json")) == 2 * len(CASES)
    with pytest.raises(KeyError):
        fit.student_for("never seen")


def test_full_student_trains_for_the_mean_steps_of_converged_folds(
    tmp_path: Path,
) -> None:
    task = TASK.model_copy(update={"training": TASK.training.model_copy(update={"steps": "auto", "budget": 1e-6})})
    fit = cross_fit(CASES, task, tmp_path, CrossFitOptions(2, full_student=True))
    folds, full = [fit.trainings[name] for name in ("fold0", "fold1")], fit.trainings["full"]
    assert {training.ending for training in folds} == {"budget"} and full.ending == "fixed"
    assert full.steps == sum(training.steps for training in folds) / 2
    # The left-out cases are measured, those of the student of all cases are not: there are none.
    assert folds[0].curve[-1].validation is not None and full.curve[-1].validation is None
    assert cross_fit(CASES, task, tmp_path, CrossFitOptions(2, full_student=True)).trainings == fit.trainings


@pytest.mark.parametrize(("budget", "expected"), [(None, 1 / 3), (1.0, 1.0)])
def test_students_share_the_budget_unless_each_has_it_whole(
    budget: float | None, expected: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train, budgets = cross_fitting.train_student, []

    def noted(cases: Any, task: Task, path: Path, options: TrainingOptions) -> TrainedStudent:
        if options.steps == "auto":
            budgets.append(options.budget)
        return train(cases, task, path, replace(options, steps=1))

    monkeypatch.setattr(cross_fitting, "train_student", noted)
    cross_fit(CASES, TASK, tmp_path, CrossFitOptions(2, "auto", budget, full_student=True))
    assert budgets == [expected, expected]


def test_frames_of_a_clip_are_in_one_fold(tmp_path: Path) -> None:
    ids = ["a@0001", "a@0002", "b@0001", "b@0002", "c"]
    named = [replace(case, id=id) for case, id in zip(CASES, ids, strict=True)]
    folds = cross_fit(named, TASK, tmp_path, CrossFitOptions(2, 1)).folds
    assert folds["a@0001"] == folds["a@0002"] and folds["b@0001"] == folds["b@0002"] and len(set(folds.values())) == 2
    alone = cross_fit(named[:2], TASK, tmp_path / "alone", CrossFitOptions(2, 1)).folds
    assert len(set(alone.values())) == 2


def test_full_student_trains_on_all_cases(tmp_path: Path) -> None:
    steps: list[tuple[int, int]] = []
    options = CrossFitOptions(2, 1, on_step=lambda step, of, loss: steps.append((step, of)))
    without = cross_fit(CASES, TASK, tmp_path, replace(options, on_step=None))
    fit = cross_fit(CASES, TASK, tmp_path, replace(options, full_student=True))
    assert steps == [(3, 3)]  # the others are there already
    assert fit.models == without.models and without.full_student is None and fit.full_student == tmp_path / "full.pt"
    written = json.loads((tmp_path / "full.json").read_text())
    assert written["trained_on"] == sorted(case.id for case in CASES)


def test_interrupted_cross_fit_is_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train, calls = cross_fitting.train_student, []

    def third_time_killed(*args: object, **options: object) -> str:
        calls.append(args)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return train(*args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(cross_fitting, "train_student", third_time_killed)
    with pytest.raises(KeyboardInterrupt):
        cross_fit(CASES, TASK, tmp_path, CrossFitOptions(steps=2))
    before = made(tmp_path)
    assert len(before) == 2
    resumed = cross_fit(CASES, TASK, tmp_path, CrossFitOptions(steps=2))
    assert len(calls) == 4
    assert before.items() <= made(tmp_path).items()
    # The same as in one go.
    again = cross_fit(CASES, TASK, tmp_path / "again", CrossFitOptions(steps=2))
    assert resumed.folds == again.folds
    assert [path.read_bytes() for path in resumed.models] == [path.read_bytes() for path in again.models]


def test_other_inputs_or_a_damaged_file_are_trained_again(tmp_path: Path) -> None:
    def run(cases: list[TrainingCase], **options: int) -> dict[str, int]:
        cross_fit(cases, TASK, tmp_path, CrossFitOptions(**({"steps": 1, "folds": 2} | options)))
        return made(tmp_path)

    first = run(CASES[:4])
    assert run(CASES[:4][::-1]) == first
    assert not run(CASES[:4], steps=2).items() & first.items()
    second = run(CASES[:4], seed=1)
    assert not second.items() & first.items()
    (tmp_path / "fold0.pt").write_bytes(b"half a file")
    repaired = run(CASES[:4], seed=1)
    assert repaired["fold1.pt"] == second["fold1.pt"] and Student.load(tmp_path / "fold0.pt", TASK)
    # One pixel of one label.
    changed = CASES[0].masks.copy()
    changed[0, 0, 0] = True
    other = TrainingCase(CASES[0].id, CASES[0].image, changed, CASES[0].ignore, CASES[0].weights, True)
    fold = folds_of([case.id for case in CASES[:4]], 2, 1)[other.id]
    redone = run([other, *CASES[1:4]], seed=1)
    assert redone[f"fold{fold}.pt"] == repaired[f"fold{fold}.pt"]
    assert redone[f"fold{1 - fold}.pt"] != repaired[f"fold{1 - fold}.pt"]


def test_number_of_folds_is_at_most_that_of_cases(tmp_path: Path) -> None:
    assert len(cross_fit(CASES[:2], TASK, tmp_path, CrossFitOptions(5, 1)).models) == 2


def test_invalid_training_sets_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="two or more"):
        cross_fit(CASES[:1], TASK, tmp_path)
    with pytest.raises(ValueError, match="each once"):
        cross_fit([CASES[0], CASES[0]], TASK, tmp_path)
    pseudo = TrainingCase("p", CASES[0].image, CASES[0].masks, CASES[0].ignore, CASES[0].weights, human=False)
    with pytest.raises(ValueError, match="human-labelled"):
        cross_fit([CASES[0], pseudo], TASK, tmp_path)


class Fixed:
    """Predictor with the same result for every image."""

    def __init__(self, answer: NDArray[Any], version: str) -> None:
        self.answer, self.version = answer.astype(np.float32), version

    def predict(self, image: CaseImage, size: tuple[int, ...] | None = None) -> NDArray[Any]:
        return self.answer


def test_ensemble_prediction_is_the_mean_of_its_members() -> None:
    pixels, masks = shapes(0)
    one, other = Fixed(0.9 * masks, "1" * 64), Fixed(0.3 * masks, "2" * 64)
    ensemble = Ensemble([one, other, one])
    answer = ensemble.predict(case_image(pixels))
    assert answer.dtype == np.float32
    np.testing.assert_allclose(answer, 0.7 * masks, rtol=1e-6)
    # The members' own answers are left alone.
    assert one.answer.max() == np.float32(0.9)
    assert len(ensemble.version) == 64
    assert Ensemble([one, other]).version not in (Ensemble([other, one]).version, ensemble.version)
    assert Ensemble([one, other]).version == Ensemble([one, other]).version
    with pytest.raises(ValueError, match="at least one"):
        Ensemble([])
