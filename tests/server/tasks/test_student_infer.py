"""Infer tasks through the host's interface."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nrrd
import numpy as np
import pytest

from samstudent.errors import Conflict, UserError
from samstudent.imaging.case import read_image
from samstudent.imaging.labels import read_masks
from samstudent.pseudolabels.policy import LabelingPolicy
from samstudent.pseudolabels.quality_features import ShapeStatistics
from samstudent.pseudolabels.quality_model import SIGNS, QualityModel
from samstudent.pseudolabels.quality_regression import Coefficients
from samstudent.pseudolabels.recipe_choice import RecipeChoice, StructureChoice
from samstudent.rounds.study import Study
from samstudent.server.tasks.student_infer import StudentInferTask, StudentSamInferTask, result_extension
from support.drawn import FakeSam, dice, learn_recipes, shapes, small_task, write_png
from support.infer_requests import serve


def infer(task: Any, image: str, **params: Any) -> tuple[Path, dict[str, Any]]:
    file, facts = task({"model": "student", "image": image, "device": "cpu"} | params)
    json.dumps(facts)
    return Path(file), facts


def test_models_are_not_listed_before_a_student_is_served(bench: Any) -> None:
    for task in (StudentInferTask(bench.study), StudentSamInferTask(bench.study)):
        assert not task.is_valid() and task.get_path() is None
        with pytest.raises(Conflict, match="no student yet"):
            infer(task, bench.datastore.get_image_uri("c0"))


def test_both_models_return_masks_on_the_grid_of_the_image(bench: Any, trained: Path, tmp_path: Path) -> None:
    version = serve(bench, trained)
    pixels, truth = shapes(200, (100, 110))
    path = write_png(tmp_path / "film.png", pixels)
    plain, refined = StudentInferTask(bench.study), StudentSamInferTask(bench.study)
    for task, extra in ((plain, set()), (refined, {"quality", "prompts"})):
        assert task.is_valid()
        assert task.get_path() == str(bench.study.ledger.champion_path())
        file, facts = infer(task, str(path))
        masks = read_masks(file, bench.study.task, read_image(path).grid)
        assert file.suffix == ".png"
        assert dice(masks[0], truth[0]) > 0.85 and dice(masks[1], truth[1]) > 0.8
        assert facts["label_names"] == {"disk": 1, "square": 2}
        assert facts["student"] == version
        assert extra <= set(facts["structures"]["disk"])
    assert 0 < facts["structures"]["disk"]["quality"] <= 1
    assert facts["sam"]["backend"] == "lite_medsam"


def test_label_names_include_absent_structures_in_order(bench: Any, trained: Path, tmp_path: Path) -> None:
    serve(bench, trained)
    pixels, truth = shapes(7)
    image = np.where(truth[1], 40, pixels).astype(np.uint8)
    _, facts = infer(StudentInferTask(bench.study), str(write_png(tmp_path / "one.png", image)))
    assert facts["label_names"] == {"disk": 1, "square": 2}
    assert facts["structures"]["square"] == {"present": False}


def test_nrrd_for_ohif_is_uncompressed(bench: Any) -> None:
    serve(bench)
    file, _ = infer(
        StudentInferTask(bench.study), bench.datastore.get_image_uri("c0"),
        result_extension=".nrrd", result_compress=False, result_dtype="uint8", restore_label_idx=False,
    )  # fmt: skip
    header = nrrd.read_header(str(file))
    assert header["encoding"] == "raw" and list(header["sizes"]) == [64, 64, 1]


def test_new_champion_is_loaded(bench: Any) -> None:
    task = StudentInferTask(bench.study)
    first = serve(bench)
    assert task.student().version == first and task.student() is task.student("cpu")
    second = serve(bench, seed=1)
    assert task.student().version == second != first
    bench.study.ledger.rollback()
    assert task.student().version == first


def test_student_of_another_task_is_not_listed(bench: Any, tmp_path: Path) -> None:
    serve(bench)
    bench.study.task = small_task(structures=["disk", "ring"])
    assert not StudentInferTask(bench.study).is_valid()


def test_damaged_student_is_not_listed(bench: Any) -> None:
    serve(bench)
    path = bench.study.ledger.champion_path()
    path.write_bytes(path.read_bytes()[:-1])
    assert not StudentInferTask(bench.study).is_valid()
    assert StudentInferTask(bench.study).get_path() is None


def test_each_structure_is_refined_with_the_recipe_of_the_served_round(bench: Any, trained: Path) -> None:
    """Also after a roll-back: the policy belongs to the student."""
    task, study = StudentSamInferTask(bench.study), bench.study
    image = bench.datastore.get_image_uri("c0")
    serve(bench, trained)
    learn_recipes(study.policy_folder("r0001"), study.task, disk={"source": "student"}, square={"source": "sam"})
    serve(bench, trained)
    learn_recipes(study.policy_folder("r0002"), study.task, disk={"source": "sam"}, square={"source": "student"})

    def sources() -> list[str]:
        facts = infer(task, image)[1]
        return [facts["sam"]["recipes"], *(facts["structures"][name]["source"] for name in ("disk", "square"))]

    assert sources() == ["r0002", "sam", "student"]
    study.ledger.rollback()
    assert sources() == ["r0001", "student", "sam"]
    study.ledger.promote("r0002")
    assert sources() == ["r0002", "sam", "student"]


def test_recipe_can_select_the_students_mask(bench: Any, trained: Path) -> None:
    serve(bench, trained)
    kept = {"source": "student", "component": "all", "min_size": 1}
    learn_recipes(bench.study.policy_folder("r0001"), bench.study.task, disk=kept, square=kept)
    image = bench.datastore.get_image_uri("c0")
    plain, refined = (
        read_masks(infer(task(bench.study), image)[0], bench.study.task, read_image(image).grid)
        for task in (StudentInferTask, StudentSamInferTask)
    )
    np.testing.assert_array_equal(plain, refined)


class Painter:
    """Student that predicts a block in every volume."""

    version = "b" * 64

    def predict(self, image: Any) -> Any:
        p = np.zeros((2, *image.pixels.shape[1:]), np.float32)
        p[0, 1:5, 22:42, 22:42] = 0.9
        return p


@pytest.mark.parametrize("source", ["student", "sam"])
def test_sam_is_not_run_on_volumes_if_no_recipe_uses_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str
) -> None:
    volume = np.full((6, 64, 64), 40, np.uint8)
    volume[1:5, 24:40, 24:40] = 200
    nrrd.write(str(tmp_path / "ct.nrrd"), volume, index_order="C")
    drawn = small_task(dimension=3, student={"size": [16, 64, 64], "channels": [8, 16, 32]})
    study, sam = Study(str(tmp_path), str(tmp_path), drawn), FakeSam()
    recipe = drawn.recipe.model_copy(update={"source": source})
    choice = RecipeChoice({name: StructureChoice(recipe) for name in drawn.names})
    statistics = ShapeStatistics(np.zeros((1, 2)), np.zeros((1, 2, 3)))
    fitted = Coefficients(*(np.zeros(len(SIGNS)) for _ in range(3)), 0.0, np.zeros(0))
    policy = LabelingPolicy(drawn, 0.0, choice, QualityModel((), fitted, statistics))
    monkeypatch.setattr(study, "plain_sam", lambda: sam)
    monkeypatch.setattr(study, "policy_of", lambda round_id: policy)
    task = StudentSamInferTask(study)
    monkeypatch.setattr(task, "served", lambda device=None: ("r0001", Painter()))
    facts = infer(task, str(tmp_path / "ct.nrrd"))[1]
    assert (sam.embedded == 0) == (source == "student")
    assert facts["label_names"] == {"disk": 1, "square": 2} and facts["sam"]["recipes"] == "r0001"
    reported = facts["structures"]["disk"]
    assert reported["present"] and reported["source"] == source
    # Nobody judged it: that is not a quality of 0.
    figures = [reported[key] for key in ("quality", "predicted_iou", "agreement", "stability")]
    assert all((figure is None) == (source == "student") for figure in figures)
    assert facts["structures"]["square"]["quality"] is None


def another_sam(folder: Path) -> None:
    content = json.loads((folder / "policy.json").read_text())
    content["valid_for"]["SAM"] = "another"
    (folder / "policy.json").write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("harm", "says"),
    [
        (lambda folder: (folder / "policy.json").unlink(), "no labeling policy"),
        (lambda folder: (folder / "policy.json").write_text("{"), "unreadable"),
        (another_sam, "another SAM"),
    ],
)
def test_task_recipe_is_used_without_a_valid_policy(
    bench: Any, trained: Path, harm: Any, says: str, caplog: pytest.LogCaptureFixture
) -> None:
    serve(bench, trained)
    folder = bench.study.policy_folder("r0001")
    learn_recipes(folder, bench.study.task, disk={"source": "student"})
    harm(folder)
    task = StudentSamInferTask(bench.study)
    for _ in range(2):
        _, facts = infer(task, bench.datastore.get_image_uri("c0"))
        assert facts["sam"]["recipes"] == "task" and facts["structures"]["disk"]["source"] == "sam"
    # Once, not with every image.
    lines = [line for record in caplog.records if "round r0001: the task's recipe" in (line := record.getMessage())]
    assert len(lines) == 1 and says in lines[0]


@pytest.mark.parametrize(
    ("image", "asked", "expected"),
    [
        ("a.png", None, ".png"), ("a.nii.gz", None, ".nii.gz"), ("a.NRRD", None, ".nrrd"), ("a.jpg", None, ".png"),
        ("dicom/folder", None, ".nrrd"), ("a.dcm", None, ".nrrd"), ("a.png", ".seg.nrrd", ".seg.nrrd"),
    ],
)  # fmt: skip
def test_format_of_the_result(image: str, asked: str | None, expected: str) -> None:
    assert result_extension({"image": image, "result_extension": asked}) == expected


def test_wrong_requests_are_named(bench: Any) -> None:
    serve(bench)
    task = StudentInferTask(bench.study)
    with pytest.raises(UserError, match="result_extension"):
        infer(task, bench.datastore.get_image_uri("c0"), result_extension=".exe")
    with pytest.raises(UserError, match="image: expected"):
        task({"image": ""})
    with pytest.raises(UserError, match="device"):
        infer(task, bench.datastore.get_image_uri("c0"), device="tpu")
