from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from PIL import Image

from samstudent.errors import UserError
from samstudent.imaging.annotations import LabelledMasks
from samstudent.research.experiment import nnunet, ours, work
from samstudent.research.experiment.data import open_folder
from samstudent.research.experiment.methods import METHODS, Planner, chosen
from samstudent.research.experiment.plan import Setting, in_order
from samstudent.research.experiment.store import Store, StoredCases, keep_pseudo
from samstudent.research.experiment.work import largest_component, measure, quality_rows, random_walk
from samstudent.student.data import make_loader, prepare_case
from support.drawn import shapes, small_task
from support.drawn_folder import labelled_folder


def setting_of(folder: Path, output: Path, **changes: Any) -> Setting:
    found = open_folder(folder)
    return Setting(
        folder=found, task=small_task(overlap=found.bits, **changes), output=output, embeddings=output / "embeddings",
        pool=tuple(found.order), unlabelled=None, test=tuple(found.labelled("test")), split="test", steps=5,
        stamp=found.stamp(found.order),
    )  # fmt: skip


@pytest.fixture
def setting(tmp_path: Path) -> Setting:
    return setting_of(labelled_folder(tmp_path / "data"), tmp_path / "out")


@pytest.mark.parametrize("kind", ["labels", "labels_overlap"])
def test_stored_cases_are_as_read(tmp_path: Path, kind: str) -> None:
    setting = setting_of(labelled_folder(tmp_path / "data", kind=kind), tmp_path / "out")
    store, task = setting.store, setting.task
    store.add(setting.folder, "case0")
    image, masks = setting.folder.read("case0", task)
    assert masks is not None
    assert (store.image("case0").pixels == image.pixels).all()
    assert store.image("case0").grid.spacing == image.grid.spacing
    assert (store.truth("case0").masks == masks.masks).all()  # type: ignore[union-attr]
    expected = prepare_case("case0", image, masks.masks, task)
    got = store.training_case("case0")
    assert (got.masks == expected.masks).all()
    assert np.abs(got.image - expected.image).max() < 1e-3


def test_pseudo_labels_come_back_with_what_they_teach(setting: Setting, tmp_path: Path) -> None:
    store, task = setting.store, setting.task
    for case in ("case0", "case1"):
        store.add(setting.folder, case)
    _, masks = shapes(1)
    ignore = np.zeros_like(masks)
    ignore[1, :9] = True
    soft = masks * np.float32(0.75)
    given = prepare_case(
        "case1", store.image("case1"), masks, task, ignore=ignore, weights=[0.5, 0], soft=soft, human=False
    )
    keep_pseudo(tmp_path / "pseudo", given)
    cases = StoredCases(store, ["case0"], {"case1": tmp_path / "pseudo"})
    doubted = StoredCases(store, ["case0"], {"case1": tmp_path / "pseudo"}, soft=True)[1]
    got = cases[1]
    assert [case.human for case in cases] == [True, False]
    assert (got.ignore == given.ignore).all()
    assert got.weights.tolist() == [0.5, 0]
    assert got.soft is None
    assert doubted.soft is not None and np.allclose(doubted.soft, given.soft)
    assert doubted.weights.tolist() == [1, 1] and not doubted.ignore.any()
    batch = next(iter(make_loader(cases, task, 1, 0)))
    assert batch["image"].shape == (4, 1, 64, 64)


def test_the_largest_component_is_kept() -> None:
    mask = np.zeros((20, 20), bool)
    mask[2:5, 2:5] = mask[10:18, 10:18] = True
    kept = largest_component(mask)
    assert kept.sum() == 64
    assert not largest_component(np.zeros((4, 4), bool)).any()


def test_a_random_walker_stops_at_the_border_of_the_image() -> None:
    grey = np.full((40, 40), 0.2)
    grey[10:30, 10:30] = 0.8
    probability = np.full((40, 40), 0.5)
    probability[14:26, 14:26], probability[:4] = 0.95, 0.02
    probability[-4:], probability[:, :4], probability[:, -4:] = 0.02, 0.02, 0.02
    walked = random_walk(grey, probability) >= 0.5
    assert (walked == (grey > 0.5)).mean() > 0.99
    assert not random_walk(grey, np.full((40, 40), 0.5)).any()


def test_what_is_measured_tells_missed_from_absent() -> None:
    truth, masks = np.zeros((3, 8, 8), bool), np.zeros((3, 8, 8), bool)
    truth[0, 2:4, 2:4] = masks[0, 2:4, 2:4] = masks[1, 0, 0] = True
    found = measure(LabelledMasks(truth), masks, (1.0, 1.0))
    assert found["dice"] == [1.0, 0.0, None]
    assert found["distance"][0] == 0
    assert found["truth"] == [True, False, False]
    assert found["found"] == [True, True, False]
    unknown = np.zeros_like(truth)
    unknown[1] = True
    found = measure(LabelledMasks(truth, unknown), masks, (1.0, 1.0))
    assert found["dice"] == [1.0, None, None]
    assert found["found"] == [True, False, False], "no false alarm where nothing is known"


def test_rows_of_quality_tell_of_rejected_structures_too() -> None:
    _, masks = shapes(0)
    task = small_task()
    half = masks.copy()
    half[0, :, : int(np.flatnonzero(masks[0].any(0)).mean())] = False
    rows = quality_rows(
        "a", LabelledMasks(masks), half, masks, task, {"disk": ("rejected", 0.4), "square": ("accepted", 0.9)}
    )
    assert [row["status"] for row in rows] == ["rejected", "accepted"]
    assert rows[0]["refined"] == 1
    assert rows[0]["raw"] < 0.8
    assert rows[0]["quality"] == 0.4
    assert quality_rows("a", None, half, masks, task) == []


def test_methods_share_what_they_have_in_common(setting: Setting) -> None:
    planner = Planner(setting)
    students = {name: METHODS[name].build(planner, 2, 0) for name in ("labels", "raw", "paper", "largest")}
    assert students["raw"].needs["pseudo"].needs["teacher"] == students["labels"]
    jobs = in_order(list(students.values()))
    assert sum(job.kind == "student" for job in jobs.values()) == 4
    assert list(jobs) == list(in_order(list(students.values())))
    assert METHODS["labels"].build(planner, 2, 1).key != students["labels"].key
    assert METHODS["labels"].build(planner, 3, 0).key != students["labels"].key


def test_a_part_switched_off_shares_the_folds(setting: Setting) -> None:
    planner = Planner(setting)
    ours, without = (METHODS[name].build(planner, 3, 0) for name in ("ours", "ours-search"))
    assert ours.key != without.key
    policies = [job.needs["pseudo"].needs["policy"] for job in (ours, without)]
    assert [job.params["ablations"]["choose_recipe"] for job in policies] == [True, False]
    assert policies[0].needs["students"] == policies[1].needs["students"]
    random = METHODS["ours-random-sam"].build(planner, 3, 0).needs["pseudo"].needs["policy"]
    assert random.params["random_sam"] == 0
    assert random.needs["students"].needs["students"] == policies[0].needs["students"].needs["students"]


def test_the_student_of_the_first_round_is_among_the_teachers_of_the_second(setting: Setting) -> None:
    planner = Planner(setting)
    ours, once = (METHODS[name].build(planner, 3, 0) for name in ("ours", "ours-again"))
    second, first = ours.needs["pseudo"], once.needs["pseudo"]
    assert "champion" not in first.needs and first.kind == second.kind == "trusted"
    assert second.needs["champion"].key == once.key and 0 < second.params["weight"] < 1
    assert second.needs["policy"].key == first.needs["policy"].key
    one = METHODS["ours-ensemble"].build(planner, 3, 0).needs["pseudo"]
    assert one.params["weight"] == 1
    assert one.needs["champion"].needs["pseudo"].needs["champion"].key == METHODS["labels"].build(planner, 3, 0).key
    assert METHODS["ours"].quality(planner, 3, 0).needs["champion"].key == once.key
    head = second.needs["head"]
    assert head.kind == "head" and head.needs["champion"].key == once.key
    assert head.params["ids"] == setting.rest(3)
    assert all("head" not in job.needs for job in (first, one))
    assert "head" not in METHODS["ours-readers"].build(planner, 3, 0).needs["pseudo"].needs


def test_quality_is_measured_on_few_volumes_and_on_every_image(setting: Setting) -> None:
    many = tuple(f"test{number}" for number in range(60))
    volumes = small_task(dimension=3, student={"size": [16, 64, 64], "channels": [8, 16]})
    for task, measured in ((setting.task, 60), (volumes, 10)):
        planner = Planner(replace(setting, test=many, task=task))
        quality, student = METHODS["ours"].quality(planner, 3, 0), METHODS["ours"].build(planner, 3, 0)
        assert len(quality.params["ids"]) == measured
        assert planner.evaluation(student, "ours", 3, 0).params["ids"] == list(many)


def test_a_student_may_go_on_from_the_labels_only_one(
    monkeypatch: pytest.MonkeyPatch, setting: Setting, tmp_path: Path
) -> None:
    labels, longer, plain, onward = (
        METHODS[name].build(Planner(setting), 3, 0) for name in ("labels", "labels+steps", "ours", "ours+start")
    )
    assert longer.params["steps"] == 2 * labels.params["steps"] == 2 * onward.params["steps"]
    assert onward.needs["start"].key == labels.key and onward.needs["pseudo"].key == plain.needs["pseudo"].key
    assert len({job.key for job in (labels, longer, plain, onward)}) == 4

    class Started(Exception):
        pass

    def train_student(*given: Any, start: Path | None, **more: Any) -> None:
        raise Started(start)

    monkeypatch.setattr(work, "train_student", train_student)
    for needs, start in ({}, None), ({"start": tmp_path}, tmp_path / "model.pt"):
        with pytest.raises(Started) as caught:
            work.train(setting, labels.params, needs, tmp_path, lambda *progress: None)
        assert caught.value.args == (start,)


@pytest.mark.parametrize("links", [True, False])
def test_heads_of_a_killed_run_are_begun_again(
    monkeypatch: pytest.MonkeyPatch, setting: Setting, tmp_path: Path, links: bool
) -> None:
    def refuse(*paths: Path) -> None:
        raise PermissionError("no links here")

    monkeypatch.setattr(ours, "_teacher", lambda *given: None)  # what is killed
    if not links:
        monkeypatch.setattr("os.link", refuse)
    students, folder = tmp_path / "students", tmp_path / "heads"
    students.mkdir()
    names = ("fold0.pt", "fold0.json", "full.pt")
    for name in names:
        (students / name).write_text(f"all of {name}")
    folder.mkdir()
    (folder / "fold0.pt").write_text("half")
    for _ in range(2):
        ours.fit_heads(setting.task, setting.store, {}, students, folder, None, None, lambda *progress: None)  # type: ignore[arg-type]
        assert {path.name: path.read_text() for path in folder.iterdir()} == {name: f"all of {name}" for name in names}


def test_ours_needs_some_labels_and_methods_their_names(setting: Setting) -> None:
    with pytest.raises(UserError, match="--labels 2"):
        METHODS["ours"].build(Planner(setting), 2, 0)
    with pytest.raises(UserError, match="ours-nothing"):
        chosen(["labels", "ours-nothing"])


@pytest.mark.parametrize("kind", ["labels", "labels_overlap"])
def test_nnunet_gets_its_raw_folder(tmp_path: Path, kind: str) -> None:
    setting = setting_of(labelled_folder(tmp_path / "data", train=2, test=1, kind=kind), tmp_path / "out")
    for case in ("case0", "case1", "case2"):
        setting.store.add(setting.folder, case)
    folder = nnunet.export(setting.store, ["case0", "case1"], ["case2"], tmp_path / "raw")
    content = (folder / "dataset.json").read_text()
    assert sorted(p.name for p in (folder / "imagesTr").iterdir()) == ["case0_0000.png", "case1_0000.png"]
    assert [p.name for p in (folder / "imagesTs").iterdir()] == ["case2_0000.png"]
    values = np.asarray(Image.open(folder / "labelsTr" / "case1.png"))
    truth = setting.store.truth("case1")
    assert truth is not None
    labels = json.loads(content)["labels"]
    for i, name in enumerate(setting.task.names):
        wanted = labels[name] if isinstance(labels[name], list) else [labels[name]]
        assert (np.isin(values, wanted) == truth.masks[i]).all()
    assert ("regions_class_order" in content) == (kind == "labels_overlap")


def test_nnunet_gets_volumes_with_their_spacing(tmp_path: Path) -> None:
    data = labelled_folder(tmp_path / "data", train=2, test=1, depth=4)
    setting = setting_of(data, tmp_path / "out", dimension=3, student={"size": [32, 32, 32], "channels": [8, 16]})
    setting.store.add(setting.folder, "case0")
    folder = nnunet.export(setting.store, ["case0"], [], tmp_path / "raw")
    file: Any = nibabel.load(folder / "imagesTr" / "case0_0000.nii.gz")
    assert file.header.get_zooms() == (1.0, 1.0, 2.0)
    label: Any = nibabel.load(folder / "labelsTr" / "case0.nii.gz")
    truth = setting.store.truth("case0")
    assert truth is not None
    assert (np.asarray(label.dataobj).transpose(2, 1, 0) == truth.masks[0] + 2 * truth.masks[1]).all()


@pytest.mark.parametrize("regions", [True, False])
def test_answers_of_nnunet_are_taken_back(tmp_path: Path, regions: bool) -> None:
    _, masks = shapes(0)
    given = masks[:, None].astype(np.float32)
    if not regions:
        given = np.concatenate([1 - given.sum(0, keepdims=True), given])
    np.savez(tmp_path / "a.npz", probabilities=given)
    nnunet.keep_answer(tmp_path / "a.npz", tmp_path / "kept" / "a.npz", 2)
    assert (nnunet.answer(tmp_path / "kept", "a", masks.shape) == masks).all()


def test_nnunet_that_is_missing_is_told_of_before_anything_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(UserError, match="nnunetv2"):
        nnunet.require()


def test_another_students_grid_is_another_store(setting: Setting, tmp_path: Path) -> None:
    other = setting_of(setting.folder.path, tmp_path / "out", student={"size": [32, 32], "channels": [8, 16]})
    assert isinstance(other.store, Store)
    assert other.store.path != setting.store.path
