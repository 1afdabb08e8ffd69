"""Teacher: no case is predicted by a model that trained on it."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from samstudent.imaging.annotations import LabelledMasks
from samstudent.pseudolabels.cross_fitting import CrossFit, CrossFitOptions, cross_fit
from samstudent.pseudolabels.out_of_fold import LearningCases
from samstudent.pseudolabels.teacher import Teacher, fit_champion_head, fit_teacher
from samstudent.sam.cached_sam import CachedSam
from samstudent.student.predict import Student, binarize
from samstudent.task import Task
from support.drawn import FakeSam, case_image, dice, shapes, small_task, training_cases

TASK = small_task(training={"steps": 2, "batch_size": 4, "learning_rate": 0.01})
SAM: Any = CachedSam(FakeSam())  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> CrossFit:
    return cross_fit(training_cases(4, TASK), TASK, tmp_path_factory.mktemp("folds"), CrossFitOptions(folds=2, steps=2))


def read(case: str):  # type: ignore[no-untyped-def]
    pixels, masks = shapes(int(case.removeprefix("case")))
    return case_image(pixels), LabelledMasks(masks)


@pytest.fixture(scope="module")
def teacher(fitted: CrossFit) -> Teacher:
    return fit_teacher(fitted, read, SAM)


def test_oof_prediction_is_by_the_models_of_the_fold(teacher: Teacher, fitted: CrossFit) -> None:
    image, _ = read("case1")
    fold = fitted.folds["case1"]
    members = teacher.predict_oof("case1", image)
    assert members.shape == (2, 2, 64, 64)
    np.testing.assert_array_equal(members[0], teacher.students[fold].predict(image))
    np.testing.assert_array_equal(members[1], teacher.heads[fold].predict(image))
    trained_on = json.loads(fitted.models[fold].with_suffix(".json").read_text())["trained_on"]
    assert "case1" not in trained_on


def test_prediction_of_other_cases_is_by_all_models(teacher: Teacher) -> None:
    image, _ = read("case9")
    members = teacher.predict_members(image)
    expected = np.mean([student.predict(image) for student in teacher.students], axis=0)
    np.testing.assert_allclose(members[0], expected, atol=1e-6)
    with pytest.raises(KeyError):
        teacher.predict_oof("case9", image)


def test_previous_champion_has_its_weight_in_both_members(teacher: Teacher, fitted: CrossFit) -> None:
    image, _ = read("case9")
    earlier = Student.load(fitted.models[0], TASK)
    joined = replace(teacher, previous_champion=earlier, champion_weight=0.25)
    known, own = earlier.predict(image), teacher.predict_members(image)
    np.testing.assert_allclose(joined.predict_members(image), 0.75 * own + 0.25 * known, atol=1e-6)
    np.testing.assert_array_equal(joined.predict_oof("case1", image), teacher.predict_oof("case1", image))
    np.testing.assert_array_equal(replace(joined, champion_weight=0.0).predict_members(image), own)
    assert (
        len({t.version for t in (teacher, joined, replace(joined, champion_weight=0.5))}) == 3
        and not joined.is_single_model
    )


def test_full_student_has_weight_three_quarters_among_students(teacher: Teacher, fitted: CrossFit) -> None:
    full = replace(teacher, full_student=fitted.ensemble.predictors[0])
    assert full.version != teacher.version
    image, _ = read("case9")
    without, members = teacher.predict_members(image), full.predict_members(image)
    np.testing.assert_allclose(members[0], without[0] / 4 + full.full_student.predict(image) * 3 / 4, atol=1e-6)
    np.testing.assert_array_equal(members[1], without[1])  # it is no head
    labelled, _ = read("case1")
    np.testing.assert_array_equal(full.predict_oof("case1", labelled), teacher.predict_oof("case1", labelled))


def test_champion_of_weight_0_has_no_effect(teacher: Teacher, fitted: CrossFit) -> None:
    unheard = replace(teacher, previous_champion=fitted.ensemble.predictors[0], champion_weight=0.0)
    assert unheard.version == teacher.version
    assert replace(unheard, champion_weight=0.25).version != teacher.version


def test_champion_of_weight_1_is_the_single_model(
    teacher: Teacher, fitted: CrossFit, monkeypatch: pytest.MonkeyPatch
) -> None:
    image, _ = read("case9")
    earlier = Student.load(fitted.models[0], TASK)
    for head in teacher.heads:
        monkeypatch.setattr(head, "predict", lambda *_: pytest.fail("asked"))
    alone = replace(teacher, previous_champion=earlier, champion_weight=1.0)
    assert alone.is_single_model
    np.testing.assert_array_equal(alone.predict_members(image), earlier.predict(image)[None])
    np.testing.assert_array_equal(alone.predict(image), earlier.predict(image))


def fit_second(teacher: Teacher, folder: Path, unlabelled: list[str], task: Task = TASK) -> None:
    images = (read(case)[0] for case in unlabelled)
    fit_champion_head(teacher, LearningCases(read, images), task, SAM, folder / "champion_head.pt")


def test_champion_head_has_the_champion_weight_among_the_heads(
    teacher: Teacher, fitted: CrossFit, tmp_path: Path
) -> None:
    image, _ = read("case9")
    joined = replace(teacher, previous_champion=Student.load(fitted.models[0], TASK), champion_weight=0.25)
    before = joined.version
    fit_second(joined, tmp_path, ["case7", "case8"])
    assert joined.champion_head is not None and joined.version != before
    students, heads = joined.predict_members(image)
    own = teacher.predict_members(image)
    np.testing.assert_allclose(students, 0.75 * own[0] + 0.25 * joined.previous_champion.predict(image), atol=1e-6)  # type: ignore[union-attr]
    np.testing.assert_allclose(heads, 0.75 * own[1] + 0.25 * joined.champion_head.predict(image), atol=1e-6)
    np.testing.assert_array_equal(joined.predict_oof("case1", image), teacher.predict_oof("case1", image))


@pytest.mark.parametrize(
    "changes",
    [
        {"previous_champion": None},
        {"champion_weight": 0.0},
        {"champion_weight": 1.0},
        {"head_weight": 0.0},
        {"heads": ()},
    ],
)
def test_champion_head_without_weight_is_not_trained(
    teacher: Teacher, fitted: CrossFit, tmp_path: Path, changes: dict[str, object]
) -> None:
    joined = replace(
        teacher, **({"previous_champion": Student.load(fitted.models[0], TASK), "champion_weight": 0.5} | changes)
    )  # type: ignore[arg-type]
    fit_second(joined, tmp_path, ["case7"])
    assert joined.champion_head is None and not list(tmp_path.iterdir())


def test_champion_head_is_trained_on_labels_and_teacher_predictions(
    teacher: Teacher, fitted: CrossFit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    joined = replace(teacher, previous_champion=Student.load(fitted.models[0], TASK), champion_weight=0.5)
    taught = []

    def train(cases, task, path, training):  # type: ignore[no-untyped-def]
        taught.extend(cases)
        Path(path).write_bytes((fitted.models[0].with_name("head0.pt")).read_bytes())

    monkeypatch.setattr("samstudent.pseudolabels.teacher.train_head", train)
    said = binarize(joined.predict(read("case10")[0]), TASK)
    fit_second(joined, tmp_path, [f"case{number}" for number in range(10, 34)])
    # A quarter is human: four labels, twice, beside 24 cases.
    assert len(taught) == 4 * 2 + 24
    # In SAM's frame, four times as large here.
    assert dice(taught[8].masks[:, 2::4, 2::4].numpy(), said) > 0.95
    np.testing.assert_array_equal(taught[0].masks.numpy(), taught[4].masks.numpy())


def test_heads_are_reused_until_an_input_changes(teacher: Teacher, fitted: CrossFit) -> None:
    paths = [model.with_name(f"head{i}.pt") for i, model in enumerate(fitted.models)]
    before = [path.stat().st_mtime_ns for path in paths]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("samstudent.pseudolabels.teacher.train_head", lambda *a, **k: pytest.fail("trained again"))
        fit_teacher(fitted, read, SAM)
    assert [path.stat().st_mtime_ns for path in paths] == before


def test_without_a_sam_there_are_no_heads(fitted: CrossFit, tmp_path: Path) -> None:
    teacher = fit_teacher(fitted, read, None)
    assert teacher.heads == ()
    assert teacher.predict_members(read("case9")[0]).shape[0] == 1
