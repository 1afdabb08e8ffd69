"""Labeling policy: storage, validation, and reuse for unchanged inputs."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from samstudent.errors import NotFound, UserError
from samstudent.imaging.annotations import LabelledMasks
from samstudent.pseudolabels import out_of_fold, policy_fit
from samstudent.pseudolabels.ablations import Ablations
from samstudent.pseudolabels.labelling import label_case, refine_and_estimate
from samstudent.pseudolabels.out_of_fold import LearningCases
from samstudent.pseudolabels.policy import LabelingPolicy
from samstudent.pseudolabels.policy_fit import FitOptions, cases_for_offset, fit_policy, policy_inputs, reuse_policy
from samstudent.sam.adapted import Adaptation
from samstudent.sam.cached_sam import CachedSam
from samstudent.task import Task
from support.drawn import FakeSam, FakeTeacher, case_image, learn_recipes, shapes, small_task

TASK = small_task()
#: ``FakeSam`` has nothing to train.
PLAIN = Ablations(adapt_sam=False)
FIXED = Ablations(adapt_sam=False, choose_recipe=False)
LABELS = {"case0": {"tag": "final", "sha256": "0" * 64}}


def sam(digest: str = "f" * 64) -> Any:
    made = FakeSam()
    made.digest = digest
    return made


def fit(folder: Path, inputs: str | None = None, ablations: Ablations = PLAIN) -> LabelingPolicy:
    teacher: Any = FakeTeacher()
    options = FitOptions(ablations=ablations, inputs=inputs)
    return fit_policy(teacher, LearningCases(teacher.read), TASK, CachedSam(sam()), folder, options)


def inputs(**changes: Any) -> str:
    given = {"teacher": FakeTeacher(), "labels": LABELS, "task": TASK, "backend": sam(), "options": FitOptions()}
    return policy_inputs(**(given | changes))


def test_saved_policy_is_loaded(tmp_path: Path) -> None:
    policy = fit(tmp_path)
    again = LabelingPolicy.load(tmp_path, TASK, sam())
    assert again.digest == policy.digest and again.choice == policy.choice and again.head_weight == policy.head_weight
    assert set(again.choice.recipes) == {"disk", "square"}


def test_missing_policy_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="no labeling policy"):
        LabelingPolicy.load(tmp_path, TASK, sam())


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"choice": {"structures": []}}'])
def test_unreadable_policy_is_reported(tmp_path: Path, content: str) -> None:
    (tmp_path / "policy.json").write_text(content)
    with pytest.raises(UserError, match="unreadable"):
        LabelingPolicy.load(tmp_path, TASK, sam())


@pytest.mark.parametrize(
    ("task", "digest", "says"),
    [
        (TASK, "e" * 64, "another SAM"),
        (small_task(recipe={"box_margin": 0.2}), "f" * 64, "another recipe"),
        (small_task(structures=["disk", "ring"]), "f" * 64, "another task"),
        (small_task(overlap=True, recipe={"box_margin": 0.2}), "e" * 64, "another task and recipe and SAM"),
    ],
)
def test_policy_of_another_task_recipe_or_sam_is_refused(tmp_path: Path, task: Any, digest: str, says: str) -> None:
    fit(tmp_path)
    with pytest.raises(UserError, match=says):
        LabelingPolicy.load(tmp_path, task, sam(digest))


def test_policy_is_valid_after_irrelevant_changes_of_the_task(tmp_path: Path) -> None:
    fit(tmp_path)
    other = small_task(schedule={"every_labels": 3}, training={"steps": 7})
    assert LabelingPolicy.load(tmp_path, other, sam()).choice.recipes


@pytest.mark.parametrize(
    "change",
    [
        {"teacher": FakeTeacher(version="u" * 64)},
        {"teacher": FakeTeacher(3)},
        {"labels": {"case0": {"tag": "final", "sha256": "1" * 64}}},
        {"backend": sam("e" * 64)},
        {"options": FitOptions(seed=1)},
        {"unlabelled": 3},
        {"options": FitOptions(ablations=PLAIN)},
        {"task": small_task(training={"steps": 7})},
        {"task": small_task(recipe={"threshold": 0.4})},
        {"task": small_task(overlap=True)},
    ],
)
def test_digest_depends_on_all_inputs(change: dict[str, Any]) -> None:
    assert inputs() == inputs() != inputs(**change)


def test_digest_ignores_irrelevant_settings() -> None:
    sections = TASK.model_dump(mode="json") | {"schedule": {"every_labels": 3}, "pseudo_labels": {"threshold": 0.9}}
    assert inputs(task=type(TASK).model_validate(sections)) == inputs()


def test_policy_is_reused_for_equal_inputs(tmp_path: Path) -> None:
    policy = fit(tmp_path / "r2", inputs())
    learn_recipes(tmp_path / "r1", TASK)
    (tmp_path / "r2" / "adapted.safetensors").write_bytes(b"weights")
    earlier = [tmp_path / "r3", tmp_path / "r1", tmp_path / "r2"]
    again = reuse_policy(earlier, inputs(), tmp_path / "r4", TASK, sam())
    assert again is not None and again.digest == policy.digest and again.record == policy.record
    for name in ("policy.json", "adapted.safetensors"):
        assert (tmp_path / "r4" / name).read_bytes() == (tmp_path / "r2" / name).read_bytes()
    # From there it is taken on.
    assert reuse_policy([tmp_path / "r4"], inputs(), tmp_path / "r5", TASK, sam()) is not None


def test_policy_is_not_reused_for_other_inputs_or_a_damaged_folder(tmp_path: Path) -> None:
    fit(tmp_path / "r1", inputs())
    new = tmp_path / "r2"
    assert reuse_policy([tmp_path / "r1"], inputs(options=FitOptions(seed=1)), new, TASK, sam()) is None
    path = tmp_path / "r1" / "policy.json"
    whole = json.loads(path.read_text())
    for damaged in (json.dumps(whole | {"adapted": "adapted.safetensors"}), path.read_text()[:-9], "[]"):
        path.write_text(damaged)
        assert reuse_policy([tmp_path / "r1"], inputs(), new, TASK, sam()) is None
    assert not (new / "policy.json").exists()


class Doubting(FakeTeacher):
    """Each fold misses another part of the disk; the ensemble finds all of it, with lower probability."""

    def predict_oof(self, case_id: str, image: Any, size: Any = None) -> Any:
        return self._predict(self.read(case_id)[1].masks, self.folds[case_id])

    def predict_members(self, image: Any, size: Any = None, *, heads: bool = True) -> Any:
        return np.mean([self.predict_fold(fold, image) for fold in range(3)], axis=0)

    def predict_fold(self, fold: int, image: Any, size: Any = None, *, heads: bool = True) -> Any:
        return self._predict(self.masks, fold)

    def _predict(self, masks: Any, fold: int) -> Any:
        seen = masks.copy()
        rows = np.flatnonzero(masks[0].any(1))
        seen[0, np.array_split(rows, 3)[fold]] = False
        return np.where(seen, 0.9, 0.05).astype(np.float32)[None]


def test_quality_is_higher_if_the_ensemble_is_better_than_its_members(tmp_path: Path) -> None:
    teacher: Any = Doubting(6)
    image, label = teacher.read("case7")
    teacher.masks = label.masks
    task, plain = small_task(recipe={"source": "student"}), CachedSam(sam())
    options = FitOptions(ablations=FIXED)
    single = fit_policy(teacher, LearningCases(teacher.read), task, plain, tmp_path / "single", options)
    cases = LearningCases(teacher.read, [image] * 3)
    ensemble = fit_policy(teacher, cases, task, plain, tmp_path / "ensemble", options)
    assert single.record["ensemble_offset"] == {"cases": 0, "structures": 0} and single.ensemble_offset == 0
    assert ensemble.record["ensemble_offset"] == {"cases": 3, "structures": 6} and ensemble.ensemble_offset > 0
    without, with_it = (
        label_case(image, teacher, policy, plain).structures[0].quality for policy in (single, ensemble)
    )
    assert without is not None and with_it is not None and with_it > without
    assert LabelingPolicy.load(tmp_path / "ensemble", task, sam()).digest == ensemble.digest != single.digest
    # The served student predicts alone, and the quality model is that of one model.
    teacher.is_single_model = True
    one, same = (label_case(image, teacher, policy, plain).structures[0].quality for policy in (single, ensemble))
    assert one == same == without


def test_image_without_predictions_is_left_out_of_the_fit(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    teacher: Any = Doubting(6)
    image, label = teacher.read("case7")
    teacher.masks = label.masks
    colour = replace(image, pixels=np.concatenate([image.pixels] * 2), path=Path("two_channels.png"))

    def predict_members(given: Any, size: Any = None, *, heads: bool = True) -> Any:
        if given is colour:
            raise UserError("two channels")
        return Doubting.predict_members(teacher, given)

    teacher.predict_members = predict_members
    task, cases = small_task(recipe={"source": "student"}), LearningCases(teacher.read, [colour, image])
    policy = fit_policy(teacher, cases, task, CachedSam(sam()), tmp_path, FitOptions(ablations=FIXED))
    assert policy.record["ensemble_offset"] == {"cases": 1, "structures": 2} and "two_channels.png" in caplog.text


def test_the_offset_is_fitted_on_cases_from_the_whole_list() -> None:
    ids = [f"{i:03}" for i in range(100)]
    some = cases_for_offset(ids, TASK)
    assert len(some) == 20 and some[0] == "000" and some[-1] == "095" and len(set(some)) == 20
    assert cases_for_offset(ids[:3], TASK) == ids[:3] and cases_for_offset([], TASK) == []
    assert len(cases_for_offset(ids, small_task(structures=[f"tooth{i}" for i in range(32)]))) == 5
    assert len(cases_for_offset(ids, VOLUMES)) == 5


VOLUMES = Task.model_validate({"name": "v", "dimension": 3, "structures": ["ball"], "student": {"size": [16, 16, 16]}})


class VolumeTeacher:
    """Teacher with the true mask of a ball; its embedding heads find nothing."""

    version, folds, is_single_model = "t" * 64, {f"case{i}": i % 3 for i in range(4)}, False

    def __init__(self) -> None:
        grid = np.indices((10, 24, 24))
        self.masks = (sum((g - n // 2) ** 2 for g, n in zip(grid, (10, 24, 24), strict=True)) <= 16)[None]
        self.image = case_image(np.where(self.masks[0], 90, 10))
        #: Whether heads were asked for, call by call.
        self.heads: list[bool] = []

    def read(self, case: str) -> Any:
        return self.image, LabelledMasks(self.masks)

    def predict_members(self, image: Any, size: Any = None, *, heads: bool = True) -> Any:
        self.heads.append(heads)
        student = np.where(self.masks, 0.9, 0.05).astype(np.float32)
        return np.stack([student, np.zeros_like(student)][: 1 + heads])

    def predict_oof(self, case_id: str, image: Any, size: Any = None) -> Any:
        return self.predict_members(image)

    def predict_fold(self, fold: int, image: Any, size: Any = None, *, heads: bool = True) -> Any:
        return self.predict_members(image, heads=heads)


def fit_volumes(folder: Path, teacher: Any, fake: FakeSam, ablations: Ablations = PLAIN) -> LabelingPolicy:
    plain = CachedSam(fake)  # type: ignore[arg-type]
    return fit_policy(teacher, LearningCases(teacher.read), VOLUMES, plain, folder, FitOptions(ablations=ablations))


def test_slices_are_not_embedded_if_no_recipe_uses_sam(tmp_path: Path) -> None:
    """Heads without predictions get no weight, and a SAM with empty masks is not chosen."""
    teacher: Any = VolumeTeacher()
    blind: Any = FakeSam(level=1000)
    policy = fit_volumes(tmp_path, teacher, blind)
    assert policy.head_weight == 0 and policy.choice.recipes["ball"].source == "student" and not policy.uses_sam
    blind.embedded, teacher.heads = 0, []
    label = label_case(teacher.image, teacher, policy, CachedSam(blind))
    assert blind.embedded == 0 and teacher.heads == [False]
    np.testing.assert_array_equal(label.refined, teacher.masks)
    assert label.structures[0].quality is not None


def test_volumes_are_filtered_without_a_quality_model(tmp_path: Path) -> None:
    teacher: Any = VolumeTeacher()
    fake: Any = FakeSam()
    policy = fit_volumes(tmp_path, teacher, fake, replace(FIXED, estimate_quality=False))
    assert policy.quality is None and LabelingPolicy.load(tmp_path, VOLUMES, fake).digest == policy.digest
    label = label_case(teacher.image, teacher, policy, CachedSam(fake))
    assert [s.status for s in label.structures] == ["accepted"]


def adapted_as_if(monkeypatch: pytest.MonkeyPatch, folds: tuple[int, ...]) -> None:
    """Adaptation with a gain."""
    figures: dict[str, Any] = dict.fromkeys(("plain", "adapted", "gain", "error", "seconds"), 0.5)
    found = Adaptation(
        {}, {fold: {} for fold in folds}, 1, used=True, reason="", curve=[], labels=[], settings={}, **figures
    )
    better = FakeSam()
    better.digest = "a" * 64
    monkeypatch.setattr(policy_fit, "adapt", lambda *given: found)
    monkeypatch.setattr(policy_fit, "save_adapted", lambda *given: None)
    monkeypatch.setattr(policy_fit, "load_adapted", lambda *given: better)
    monkeypatch.setattr(policy_fit, "with_weights", lambda *given: better)


def test_adapted_sam_is_part_of_the_policy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    adapted_as_if(monkeypatch, (0, 1, 2))
    policy = fit(tmp_path, ablations=Ablations())
    assert policy.adapted is not None and policy.digest != replace(policy, adapted=None).digest
    assert json.loads((tmp_path / "policy.json").read_text())["adapted"] == "adapted.safetensors"


def test_fold_of_blank_volumes_has_no_adapted_sam(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    adapted_as_if(monkeypatch, (0, 2))
    teacher: Any = VolumeTeacher()
    blank = np.zeros_like(teacher.masks)

    def predict_oof(case: str, image: Any, size: Any = None) -> Any:
        return (blank if case == "case1" else 0.9 * teacher.masks).astype(np.float32)[None]

    monkeypatch.setattr(teacher, "predict_oof", predict_oof)
    monkeypatch.setattr(
        teacher, "read", lambda case: (teacher.image, LabelledMasks(blank if case == "case1" else teacher.masks))
    )
    assert fit_volumes(tmp_path, teacher, FakeSam(), Ablations()).record["cases"] == 4


def test_adaptation_samples_slices_of_large_volumes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(out_of_fold, "_SLICES", 8)
    monkeypatch.setattr(out_of_fold, "_SLICES_EACH", 3)
    learnt: list[Any] = []
    monkeypatch.setattr(policy_fit, "adapt", lambda backend, examples, *rest: learnt.extend(examples))
    teacher: Any = VolumeTeacher()
    fit_volumes(tmp_path, teacher, FakeSam(), replace(FIXED, adapt_sam=True))
    # Four volumes, three slices each: the first, the middle and the last that the ball touches.
    assert len(learnt) == 12
    sizes = [int(example.truth.sum()) for example in learnt[:3]]
    assert sizes[0] == sizes[2] < sizes[1] == int(teacher.masks[0].sum(axis=(1, 2)).max())


def test_teacher_below_the_minimum_dice_is_skipped(tmp_path: Path) -> None:
    policy = fit(tmp_path)
    assert policy.record["oof_dice"] > 0.3 and policy.skip_reason is None
    assert "labels only" in (replace(policy, record={"oof_dice": 0.04}).skip_reason or "")


def test_lower_bounds_need_enough_labels_that_a_person_has_seen(tmp_path: Path) -> None:
    teacher: Any = FakeTeacher(10)
    plain = CachedSam(sam())

    def fitted(unchecked: set[str]) -> LabelingPolicy:
        options = FitOptions(ablations=FIXED, unchecked=frozenset(unchecked))
        return fit_policy(teacher, LearningCases(teacher.read), TASK, plain, tmp_path / str(len(unchecked)), options)

    policy = fitted({"case9"})
    assert policy.record["quality"]["bound"]["cases"] == 9
    again = LabelingPolicy.load(tmp_path / "1", TASK, sam())
    image = case_image(shapes(20)[0])
    _, _, estimates = refine_and_estimate(image, teacher.predict_oof("case20", image), again, plain)
    assert estimates is not None and set(estimates) == {"disk", "square"}
    assert all(found.lower is not None and found.lower <= found.dice for found in estimates.values())
    few = fitted({"case8", "case9"})
    assert few.record["quality"]["bound"]["needed"] == 9
    _, _, estimates = refine_and_estimate(image, teacher.predict_oof("case20", image), few, plain)
    assert estimates is not None and all(found.lower is None for found in estimates.values())
