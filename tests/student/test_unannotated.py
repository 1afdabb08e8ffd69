"""Unannotated structures: excluded from training and scores."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from samstudent.imaging.annotations import LabelledMasks
from samstudent.metrics import dice_where_known
from samstudent.pseudolabels.ablations import Ablations
from samstudent.pseudolabels.head_training import HeadCase, _Batches, head_cases
from samstudent.pseudolabels.out_of_fold import LearningCases, OutOfFoldCase, examples_of
from samstudent.pseudolabels.policy_fit import FitOptions, fit_policy
from samstudent.pseudolabels.quality_filter import absence_prior
from samstudent.pseudolabels.recipe_evaluation import RecipeEvaluator
from samstudent.rounds.case_store import CaseStore
from samstudent.rounds.cases import FileCase
from samstudent.rounds.prepare import prepare
from samstudent.rounds.scoring import compare, train_dice
from samstudent.sam.adapt_samples import Example, prompt_samples
from samstudent.sam.cached_sam import CachedSam
from samstudent.student.data import AugmentedCases, Draw, collate, make_loader
from samstudent.student.loss import StudentLoss
from samstudent.student.predict import Student
from samstudent.student.training import TrainingOptions, train_student
from samstudent.student.training_case import TrainingCase
from samstudent.task import Task
from support.drawn import FakeSam, FakeTeacher, case_image, shapes, small_task, write_png

TASK = small_task()


def study(folder: Path, names: tuple[str, ...], both: int = 2, count: int = 8) -> list[FileCase]:
    """Films with a disk and a square. Only of the first ``both`` the square is labelled; of the others the label's
    names are these."""
    files = []
    for seed in range(count):
        pixels, masks = shapes(seed)
        image, label = folder / f"c{seed}.png", folder / f"c{seed}-label.png"
        write_png(image, pixels)
        values = masks[0] + (2 * masks[1] if seed < both else 0)
        Image.fromarray(values.astype(np.uint8)).save(label)
        meaning = ("disk", "square") if seed < both else names
        files.append(FileCase(f"c{seed}", image, label, meaning))
    return files


def load_cases(files: list[FileCase], task: Task, folder: Path) -> tuple[list[TrainingCase], dict[str, str]]:
    store = CaseStore(folder / "prepared", task)
    cases, left_out = prepare(files, store)
    # In the order of the study, not of the ids.
    found = {case.id: store.training_case(case) for case in cases}
    return [found[file.id] for file in files if file.id in found], left_out


def square_dice(student: Student) -> float:
    scores = []
    for seed in range(100, 104):
        pixels, masks = shapes(seed)
        masks_of = student.predict(case_image(pixels)) >= 0.5
        scores.append(dice_where_known(LabelledMasks(masks), masks_of)[1])
    return float(np.mean(scores))


def test_unannotated_structure_is_trained_from_other_cases(tmp_path: Path) -> None:
    dice = {}
    for how, names in (("unknown", ("disk", "ignore:square")), ("absent", ("disk", "square"))):
        cases, left_out = load_cases(study(tmp_path, names, count=16), TASK, tmp_path)
        assert not left_out and [case.weights[1] for case in cases] == [1, 1] + [float(how == "absent")] * 14
        train_student(cases, TASK, tmp_path / f"{how}.pt", TrainingOptions(steps=80, seed=0))
        dice[how] = square_dice(Student.load(tmp_path / f"{how}.pt", TASK))
    assert dice["unknown"] > 0.75 > 0.3 > dice["absent"], "taught as absent, it is not found any more"


def test_unmentioned_in_the_task_gives_the_same_weights(tmp_path: Path) -> None:
    task = small_task(unmentioned={"square": "unknown"})
    cases, _ = load_cases(study(tmp_path, ("disk",)), task, tmp_path)
    assert [case.weights.tolist() for case in cases] == [[1, 1]] * 2 + [[1, 0]] * 6


def test_label_without_annotations_is_left_out(tmp_path: Path) -> None:
    files = study(tmp_path, ("ignore:disk", "ignore:square"), count=3)
    Image.fromarray(np.zeros((64, 64), np.uint8)).save(files[2].label)
    cases, left_out = load_cases(files, TASK, tmp_path)
    assert [case.id for case in cases] == ["c0", "c1"] and "annotated" in left_out["c2"]


@pytest.mark.parametrize("overlap", [False, True])
def test_structure_without_any_annotation_is_trained_as_absent(overlap: bool) -> None:
    """Its output would be arbitrary without any training."""
    task = small_task(overlap=overlap, training={"rotate": 0, "zoom": 0, "shift": 0, "intensity": 0})
    cases = [training_case(seed, known=(True, False)) for seed in range(2)]
    batch = next(iter(make_loader(cases, task, 1, 0)))
    assert (batch["weights"] == 1).all()
    batch = next(iter(make_loader([*cases, training_case(2)], task, 1, 0)))
    assert (batch["weights"][:, 1] == 0).any()


def training_case(seed: int, known: tuple[bool, bool] = (True, True)) -> TrainingCase:
    pixels, masks = shapes(seed)
    weights = np.array(known, dtype=np.float32)
    masks = masks & np.array(known)[:, None, None]
    return TrainingCase(f"c{seed}", pixels[None] / np.float32(255), masks, np.zeros_like(masks), weights, True)


@pytest.mark.parametrize("overlap", [False, True])
def test_loss_is_independent_of_unannotated_structures(overlap: bool) -> None:
    """For any logits of the square, also in place of background, the loss is the same."""
    case = training_case(0, known=(True, False))
    data = AugmentedCases([case], small_task(overlap=overlap, training={"rotate": 0, "zoom": 0, "shift": 0}))
    batch = collate([data[Draw(0, 0)]])
    loss = StudentLoss(overlap)
    logits = torch.zeros(1, 2 if overlap else 3, 64, 64)
    logits[:, -2] = 4 * torch.from_numpy(case.masks[0]).float() - 2
    found = []
    for shift in (-3.0, 0.0, 3.0):
        changed = logits.clone()
        if overlap:
            changed[:, 1] = shift
        else:
            # Their sum stays, as the square's pixels are taken from the background.
            changed[:, 0] = torch.log(torch.tensor(2.0)) + torch.nn.functional.logsigmoid(torch.tensor(shift))
            changed[:, 2] = torch.log(torch.tensor(2.0)) + torch.nn.functional.logsigmoid(torch.tensor(-shift))
        found.append(float(loss(changed, batch).total))
    assert found == pytest.approx([found[0]] * 3, abs=1e-5)


def test_ignored_region_is_excluded_from_scores(tmp_path: Path) -> None:
    _, masks = shapes(0)
    region = np.roll(masks, 3, axis=2)
    label = LabelledMasks(masks & ~region, region)
    wrong = masks | region
    assert dice_where_known(label, wrong).tolist() == [1, 1]
    assert dice_where_known(LabelledMasks(masks), wrong).max() < 1


class Fixed:
    """Student with the same prediction for every image."""

    def __init__(self, masks: NDArray[Any]) -> None:
        self.masks = masks

    def predict(self, image: Any, size: Any = None) -> NDArray[Any]:
        return np.where(self.masks, 0.9, 0.02).astype(np.float32)


def test_scores_exclude_unannotated_structures(tmp_path: Path) -> None:
    files = study(tmp_path, ("disk", "ignore:square"), both=0, count=1)
    _, masks = shapes(0)
    student: Any = Fixed(masks)
    store = CaseStore(tmp_path / "prepared", TASK)
    cases, _ = prepare(files, store)
    assert compare([student], cases, store) == [{"c0": [1.0, None]}], "no false alarm, no hit"
    label = LabelledMasks(masks & np.array([True, False])[:, None, None], unknown_square(masks))
    assert train_dice(student, [(case_image(shapes(0)[0]), label)], TASK) == 1


def unknown_square(masks: NDArray[Any]) -> NDArray[Any]:
    unknown = np.zeros_like(masks)
    unknown[1] = True
    return unknown


def test_absence_prior_uses_annotated_cases_only() -> None:
    present = np.array([[True, True], [True, False], [True, False], [True, False]])
    annotated = np.array([[True, True], [True, False], [True, False], [True, False]])
    assert absence_prior(present, annotated) == pytest.approx([1 - 5 / 6, 1 - 2 / 3])


class PartlyLabelled(FakeTeacher):
    """Of two cases the square is not annotated, though the teacher sees it."""

    def read(self, case_id: str) -> Any:  # type: ignore[override]
        pixels, masks = shapes(int(case_id.removeprefix("case")))
        label = LabelledMasks(masks)
        if case_id in ("case1", "case2"):
            label = LabelledMasks(masks & np.array([True, False])[:, None, None], unknown_square(masks))
        return case_image(pixels), label

    def predict_oof(self, case_id: str, image: Any, size: Any = None) -> NDArray[Any]:
        masks = shapes(int(case_id.removeprefix("case")))[1]
        return np.where(masks, 0.9, 0.05).astype(np.float32)[None]


def test_recipe_quality_and_adaptation_exclude_unannotated_structures(tmp_path: Path) -> None:
    teacher: Any = PartlyLabelled(6)
    task, sam = small_task(recipe={"source": "student"}), CachedSam(FakeSam())  # type: ignore[arg-type]
    found = [OutOfFoldCase.of(case, *teacher.read(case), teacher, task) for case in sorted(teacher.folds)]
    dice = RecipeEvaluator(found, task, 0.0, sam).dice(dict.fromkeys(task.names, task.recipe))
    assert np.isnan(dice[[1, 2], 1]).all() and np.isfinite(np.delete(dice, [1, 2], axis=0)).all()
    assert np.nanmin(dice) > 0.9
    (part,) = examples_of(found[1], 0.0, task, sam, 6)
    assert part.known is not None and part.known.tolist() == [True, False]
    # SAM is neither taught to draw nothing there, nor to doubt its answer.
    example = Example("case1", 0, part.embedding, part.truth, part.truth | True)
    known = np.array([True, False])
    assert {q.structure for q in prompt_samples(0, replace(example, known=known), task.recipe, "vit_b")} == {0}
    assert {q.structure for q in prompt_samples(0, example, task.recipe, "vit_b")} == {0, 1}
    options = FitOptions(ablations=Ablations(adapt_sam=False))
    policy = fit_policy(teacher, LearningCases(teacher.read), task, sam, tmp_path, options)
    assert policy.quality is not None and policy.quality.report["rows"] == 6 + 4
    assert policy.record["oof_dice"] > 0.9


def test_embedding_heads_exclude_unannotated_structures() -> None:
    pixels, masks = shapes(0)
    label = LabelledMasks(masks & np.array([True, False])[:, None, None], unknown_square(masks))
    image, sam = case_image(pixels), CachedSam(FakeSam())  # type: ignore[arg-type]
    (unsaid,) = head_cases(image, label, TASK, sam)
    (known,) = head_cases(image, LabelledMasks(masks), TASK, sam)
    region = LabelledMasks(masks, np.roll(masks, 9, axis=1))
    (partly,) = head_cases(image, region, TASK, sam)
    assert unsaid.weights is not None and unsaid.weights.tolist() == [1, 0] and unsaid.ignore is None
    assert known.weights is None and partly.ignore is not None and partly.ignore.any()

    def batch(cases: list[HeadCase], overlap: bool) -> dict[str, torch.Tensor]:
        return next(iter(_Batches(cases, 1, 0, overlap)))

    for overlap in (False, True):
        found = batch([unsaid, known, partly], overlap)
        assert set(found["weights"][:, 1].tolist()) == {0, 1}
        assert found["ignore"].shape[1] == (2 if overlap else 1)
        assert (batch([unsaid], overlap)["weights"] == 1).all(), "which nobody annotates is taught as absent"
        assert batch([known], overlap)["ignore"].shape[1] == 1
