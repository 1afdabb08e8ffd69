"""What is learnt from labels: kept, read again where it still counts, and taken again where nothing changed."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from samstudent.errors import NotFound, UserError
from samstudent.imaging.annotations import LabelledMasks
from samstudent.pseudolabels import labelled
from samstudent.pseudolabels import trust as trust_module
from samstudent.pseudolabels.trust import Trust, inputs_of, learn_trust, some_of, take_again, trusted_label
from samstudent.sam.adapted import Adaptation
from samstudent.task import Task
from support.drawn import FakeSam, FakeTeacher, case_image, learn_recipes, small_task

TRUST = {"adapt": False, "readers": False, "trials": 2}
TASK = small_task(trust=TRUST)
LABELS = {"case0": {"tag": "final", "sha256": "0" * 64}}


def sam(digest: str = "f" * 64) -> Any:
    made = FakeSam()
    made.digest = digest
    return made


def learn(folder: Path, inputs: str | None = None) -> Trust:
    teacher: Any = FakeTeacher()
    return learn_trust(teacher, teacher.read, TASK, sam(), None, folder, inputs=inputs)


def inputs(**changes: Any) -> str:
    given = {"teacher": FakeTeacher(), "labels": LABELS, "task": TASK, "backend": sam(), "seed": 0} | changes
    return inputs_of(**given)


def test_what_was_learnt_is_read_again(tmp_path: Path) -> None:
    trust = learn(tmp_path)
    again = Trust.load(tmp_path, TASK, sam())
    assert again.digest == trust.digest and again.choice == trust.choice and again.share == trust.share
    assert set(again.choice.recipes) == {"disk", "square"}


def test_nothing_learnt_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="nothing was learnt"):
        Trust.load(tmp_path, TASK, sam())


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"choice": {"structures": []}}'])
def test_what_cannot_be_read_is_said(tmp_path: Path, content: str) -> None:
    (tmp_path / "trust.json").write_text(content)
    with pytest.raises(UserError, match="unreadable"):
        Trust.load(tmp_path, TASK, sam())


@pytest.mark.parametrize(
    ("task", "digest", "says"),
    [
        (TASK, "e" * 64, "another SAM"),
        (small_task(recipe={"box_margin": 0.2}), "f" * 64, "another recipe"),
        (small_task(structures=["disk", "ring"]), "f" * 64, "another task"),
        (small_task(overlap=True, recipe={"box_margin": 0.2}), "e" * 64, "another task and recipe and SAM"),
    ],
)
def test_it_means_nothing_for_another_task_recipe_or_sam(tmp_path: Path, task: Any, digest: str, says: str) -> None:
    learn(tmp_path)
    with pytest.raises(UserError, match=says):
        Trust.load(tmp_path, task, sam(digest))


def test_what_does_not_shape_a_recipe_may_change(tmp_path: Path) -> None:
    learn(tmp_path)
    other = small_task(schedule={"every_labels": 3}, trust={"trials": 5}, training={"steps": 7})
    assert Trust.load(tmp_path, other, sam()).choice.recipes


def test_the_first_files_did_not_tell_what_for(tmp_path: Path) -> None:
    learn(tmp_path)
    path = tmp_path / "trust.json"
    content = json.loads(path.read_text())
    del content["for"], content["inputs"]
    path.write_text(json.dumps(content))
    assert Trust.load(tmp_path, TASK, sam()).choice.recipes
    with pytest.raises(UserError, match="another task"):
        Trust.load(tmp_path, small_task(structures=["disk", "ring"]), sam())
    assert take_again([tmp_path], inputs(), tmp_path / "new", TASK, sam()) is None


@pytest.mark.parametrize(
    "change",
    [
        {"teacher": FakeTeacher(version="u" * 64)},
        {"teacher": FakeTeacher(3)},
        {"labels": {"case0": {"tag": "final", "sha256": "1" * 64}}},
        {"backend": sam("e" * 64)},
        {"seed": 1},
        {"unlabelled": 3},
        {"task": TASK.model_copy(update={"trust": TASK.trust.model_copy(update={"trials": 3})})},
        {"task": small_task(trust=TRUST, recipe={"threshold": 0.4})},
        {"task": small_task(trust=TRUST, overlap=True)},
    ],
)
def test_the_digest_tells_all_that_is_learnt_from(change: dict[str, Any]) -> None:
    assert inputs() == inputs() != inputs(**change)


def test_the_digest_passes_over_what_nothing_is_learnt_from() -> None:
    sections = TASK.model_dump(mode="json") | {"schedule": {"every_labels": 3}, "pseudo_labels": {"threshold": 0.9}}
    assert inputs(task=type(TASK).model_validate(sections)) == inputs()


def test_the_same_inputs_are_not_learnt_from_twice(tmp_path: Path) -> None:
    trust = learn(tmp_path / "r2", inputs())
    learn_recipes(tmp_path / "r1", TASK)
    (tmp_path / "r2" / "adapted.safetensors").write_bytes(b"weights")
    earlier = [tmp_path / "r3", tmp_path / "r1", tmp_path / "r2"]
    again = take_again(earlier, inputs(), tmp_path / "r4", TASK, sam())
    assert again is not None and again.digest == trust.digest and again.record == trust.record
    for name in ("trust.json", "adapted.safetensors"):
        assert (tmp_path / "r4" / name).read_bytes() == (tmp_path / "r2" / name).read_bytes()
    # From there it is taken on.
    assert take_again([tmp_path / "r4"], inputs(), tmp_path / "r5", TASK, sam()) is not None


def test_other_inputs_or_a_damaged_folder_are_learnt_anew(tmp_path: Path) -> None:
    learn(tmp_path / "r1", inputs())
    new = tmp_path / "r2"
    assert take_again([tmp_path / "r1"], inputs(seed=1), new, TASK, sam()) is None
    path = tmp_path / "r1" / "trust.json"
    whole = json.loads(path.read_text())
    for damaged in (json.dumps(whole | {"adapted": "adapted.safetensors"}), path.read_text()[:-9], "[]"):
        path.write_text(damaged)
        assert take_again([tmp_path / "r1"], inputs(), new, TASK, sam()) is None
    assert not (new / "trust.json").exists()


class Doubting(FakeTeacher):
    """Each fold overlooks a part of the disk of its own; together they see all of it, less surely."""

    def honest_views(self, case_id: str, image: Any, size: Any = None) -> Any:
        return self._view(self.read(case_id)[1].masks, self.folds[case_id])

    def views(self, image: Any, size: Any = None, *, readers: bool = True) -> Any:
        return np.mean([self.fold_views(fold, image) for fold in range(3)], axis=0)

    def fold_views(self, fold: int, image: Any, size: Any = None, *, readers: bool = True) -> Any:
        return self._view(self.masks, fold)

    def _view(self, masks: Any, fold: int) -> Any:
        seen = masks.copy()
        rows = np.flatnonzero(masks[0].any(1))
        seen[0, np.array_split(rows, 3)[fold]] = False
        return np.where(seen, 0.9, 0.05).astype(np.float32)[None]


def test_estimates_rise_where_all_models_together_see_more_than_each(tmp_path: Path) -> None:
    teacher: Any = Doubting(6)
    image, label = teacher.read("case7")
    teacher.masks = label.masks
    task = small_task(trust=TRUST | {"trials": 0}, recipe={"source": "student"})
    alone = learn_trust(teacher, teacher.read, task, sam(), None, tmp_path / "alone")
    carried = learn_trust(teacher, teacher.read, task, sam(), None, tmp_path / "carried", unlabelled=[image] * 3)
    assert alone.record["carried_over"] == {"cases": 0, "structures": 0} and alone.shift == 0
    assert carried.record["carried_over"] == {"cases": 3, "structures": 6} and carried.shift > 0
    without, with_it = (
        trusted_label(image, teacher, trust, sam(), None).structures[0].quality for trust in (alone, carried)
    )
    assert without is not None and with_it is not None and with_it > without
    assert Trust.load(tmp_path / "carried", task, sam()).digest == carried.digest != alone.digest
    # The served student answers alone, and the calibrator is for one.
    teacher.alone = True
    one, same = (trusted_label(image, teacher, trust, sam(), None).structures[0].quality for trust in (alone, carried))
    assert one == same == without


def test_an_image_that_cannot_be_seen_is_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    teacher: Any = Doubting(6)
    image, label = teacher.read("case7")
    teacher.masks = label.masks
    colour = replace(image, pixels=np.concatenate([image.pixels] * 2), path=Path("two_channels.png"))

    def views(seen: Any, size: Any = None, *, readers: bool = True) -> Any:
        if seen is colour:
            raise UserError("two channels")
        return Doubting.views(teacher, seen)

    teacher.views = views
    task = small_task(trust=TRUST | {"trials": 0}, recipe={"source": "student"})
    trust = learn_trust(teacher, teacher.read, task, sam(), None, tmp_path, unlabelled=[colour, image])
    assert trust.record["carried_over"] == {"cases": 1, "structures": 2} and "two_channels.png" in caplog.text


def test_some_cases_from_all_over_the_list_are_looked_at() -> None:
    ids = [f"{i:03}" for i in range(100)]
    some = some_of(ids, TASK)
    assert len(some) == 20 and some[0] == "000" and some[-1] == "095" and len(set(some)) == 20
    assert some_of(ids[:3], TASK) == ids[:3] and some_of([], TASK) == []
    assert len(some_of(ids, small_task(structures=[f"tooth{i}" for i in range(32)]))) == 5
    assert len(some_of(ids, volume_task())) == 5


def volume_task(**trust: Any) -> Any:
    content = {"name": "v", "dimension": 3, "structures": ["ball"], "student": {"size": [16, 16, 16]}}
    return Task.model_validate(content | {"trust": {"adapt": False, "readers": True, **trust}})


class VolumeTeacher:
    """Knows the truth of a drawn ball; its readers see nothing."""

    version, folds, alone = "t" * 64, {f"case{i}": i % 3 for i in range(4)}, False

    def __init__(self) -> None:
        grid = np.indices((10, 24, 24))
        self.masks = (sum((g - n // 2) ** 2 for g, n in zip(grid, (10, 24, 24), strict=True)) <= 16)[None]
        self.image = case_image(np.where(self.masks[0], 90, 10))
        self.asked: list[bool] = []

    def views(self, image: Any, size: Any = None, *, readers: bool = True) -> Any:
        self.asked.append(readers)
        student = np.where(self.masks, 0.9, 0.05).astype(np.float32)
        return np.stack([student, np.zeros_like(student)][: 1 + readers])

    def honest_views(self, case_id: str, image: Any, size: Any = None) -> Any:
        return self.views(image)

    def fold_views(self, fold: int, image: Any, size: Any = None, *, readers: bool = True) -> Any:
        return self.views(image, readers=readers)


def test_of_volumes_sam_sees_no_slice_where_it_has_no_say(tmp_path: Path) -> None:
    """Readers that see nothing get no share, and a SAM that draws nothing none either."""
    teacher, blind = VolumeTeacher(), FakeSam(level=1000)
    trust = learn_trust(
        teacher,
        lambda case: (teacher.image, LabelledMasks(teacher.masks)),
        volume_task(trials=2),
        blind,
        None,
        tmp_path,
    )  # type: ignore[arg-type]
    assert trust.share == 0 and trust.choice.recipes["ball"].source == "student" and not trust.asks_sam
    blind.embedded, teacher.asked = 0, []
    label = trusted_label(teacher.image, teacher, trust, blind, None)  # type: ignore[arg-type]
    assert blind.embedded == 0 and teacher.asked == [False]
    np.testing.assert_array_equal(label.refined, teacher.masks)
    assert label.structures[0].quality is not None


def test_volumes_are_judged_without_a_calibrator_too(tmp_path: Path) -> None:
    teacher: Any = VolumeTeacher()
    task = volume_task(trials=0, calibrate=False)
    trust = learn_trust(
        teacher, lambda case: (teacher.image, LabelledMasks(teacher.masks)), task, FakeSam(), None, tmp_path
    )
    label = trusted_label(teacher.image, teacher, trust, FakeSam(), None)
    assert [s.status for s in label.structures] == ["accepted"]


def adapted_as_if(monkeypatch: pytest.MonkeyPatch, folds: tuple[int, ...]) -> None:
    """Adaptation that helped."""
    told: dict[str, Any] = dict.fromkeys(("plain", "adapted", "gain", "error", "seconds"), 0.5)
    found = Adaptation(
        {}, {fold: {} for fold in folds}, 1, used=True, reason="", curve=[], labels=[], settings={}, **told
    )
    better = FakeSam()
    better.digest = "a" * 64
    monkeypatch.setattr(trust_module, "_adapt", lambda *given: found)
    monkeypatch.setattr(trust_module, "save_adapted", lambda *given: None)
    monkeypatch.setattr(trust_module, "load_adapted", lambda *given: better)
    monkeypatch.setattr(trust_module, "with_weights", lambda *given: better)


def test_a_fold_of_blank_volumes_has_no_sam_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    adapted_as_if(monkeypatch, (0, 2))
    teacher: Any = VolumeTeacher()
    blank = np.zeros_like(teacher.masks)

    def honest_views(case: str, image: Any, size: Any = None) -> Any:
        return (blank if case == "case1" else 0.9 * teacher.masks).astype(np.float32)[None]

    monkeypatch.setattr(teacher, "honest_views", honest_views)
    truths = {f"case{i}": blank if i == 1 else teacher.masks for i in range(4)}
    trust = learn_trust(
        teacher, lambda case: (teacher.image, LabelledMasks(truths[case])), volume_task(), FakeSam(), None, tmp_path
    )
    assert trust.record["cases"] == 4


def test_of_large_volumes_some_slices_teach(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(labelled, "_SLICES", 8)
    monkeypatch.setattr(labelled, "_SLICES_EACH", 3)
    searched: list[Any] = []

    def search(honest: Any, *rest: Any, **options: Any) -> Any:
        searched.extend(honest)
        return real(honest, *rest, **options)

    real = trust_module.search
    monkeypatch.setattr(trust_module, "search", search)
    teacher = VolumeTeacher()
    learn_trust(
        teacher,
        lambda case: (teacher.image, LabelledMasks(teacher.masks)),
        volume_task(trials=1),
        FakeSam(),
        None,
        tmp_path,
    )  # type: ignore[arg-type]
    # Four volumes, three slices each: the first, the middle and the last that the ball touches.
    assert len(searched) == 12
    sizes = [int(case.truth.sum()) for case in searched[:3]]
    assert sizes[0] == sizes[2] < sizes[1] == int(teacher.masks[0].sum(axis=(1, 2)).max())


def test_models_that_know_nothing_teach_nothing(tmp_path: Path) -> None:
    trust = learn(tmp_path)
    assert trust.record["honest"] > 0.3 and trust.silence is None
    # A record of an earlier version does not tell.
    assert replace(trust, record={}).silence is None
    assert "labels alone" in (replace(trust, record={"honest": 0.04}).silence or "")
