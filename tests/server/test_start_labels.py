"""3D Slicer's own module on the server's HTTP application: pseudo labels to start from, and automatic segmentation of
the next sample."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from monailabel.client import MONAILabelClient
from numpy.typing import NDArray

from samstudent.imaging.case import read_image
from samstudent.imaging.label_writing import write_masks
from samstudent.imaging.labels import read_masks
from samstudent.server import http
from samstudent.server.context import Tasks
from samstudent.server.datastore.viewer_grid import moved
from samstudent.server.tasks.active_learning import strategies
from samstudent.server.tasks.sam_interactive import SamInteractiveTask
from samstudent.server.tasks.student_infer import StudentInferTask, StudentSamInferTask
from samstudent.server.tasks.study_round import StudyRound
from samstudent.task import Task
from support.dicom_files import save_series
from support.drawn import FakeSam, learn_recipes, shapes, small_task, write_png
from support.http_server import make_context
from support.infer_requests import serve
from support.page_server import served
from support.review_bench import Bench, make_bench
from support.slicer_module import Panel, connected_module
from support.slicer_qt import SETTINGS
from support.student_study import DrawnStudy

NAMES = ("disk", "square")
CASES = ["good", "low", "plain"]
SMALL = {"size": [16, 16, 16], "channels": [4, 8]}


def slicer_bench(folder: Path, task: Task, overlap: bool = False) -> Bench:
    """Three films on a server with all models, strategies and a fake SAM; two have pseudo labels."""

    def draw(path: Path, number: int) -> NDArray[Any]:
        pixels, truth = shapes(number, overlap=overlap)
        write_png(path.with_suffix(".png"), pixels)
        return truth

    bench = make_bench(folder, task, draw, CASES)
    study: Any = DrawnStudy(str(folder), str(folder), task)
    sam = SamInteractiveTask(task, FakeSam, study.embeddings)
    models = {"student": StudentInferTask(study), "student+sam": StudentSamInferTask(study), "sam": sam}
    tasks = Tasks(models, {}, strategies(task, study.selection, study.holdout, study.reviews), {})
    context = make_context(folder, task, study=study, datastore=bench.datastore, tasks=tasks)
    bench = Bench(study, bench.datastore, bench.truths, http.build(context))
    for case in ("good", "low"):
        bench.pseudo_label(case)
    return bench


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return slicer_bench(tmp_path / "study", small_task(holdout={"fraction": 0}))


@pytest.fixture
def panel(bench: Bench, tmp_path: Path) -> Iterator[Panel]:
    with served(bench.app) as url, connected_module(tmp_path, url) as panel:
        yield panel


def open_case(panel: Panel, bench: Bench, case: str) -> None:
    """Press *Next Sample*; the server selects this case."""
    path = bench.datastore.get_image_uri(case)
    panel.widget.samples.clear()
    panel.widget.logic.next_sample = lambda *args: {"id": case, "name": f"{case}.png", "path": path}
    panel.ui.nextSampleButton.click()
    panel.quiet()


def on_screen(panel: Panel) -> NDArray[np.bool_]:
    return np.stack([panel.segments.named(name)[0] for name in NAMES])


def listed(client: TestClient) -> set[str]:
    """Cases with the tag ``original`` in the list."""
    objects = client.get("/datastore/?output=all").json()["objects"]
    return {case for case, entry in objects.items() if "original" in entry["labels"]}


def test_pseudo_label_is_displayed_with_the_next_sample(bench: Bench, panel: Panel) -> None:
    open_case(panel, bench, "good")
    assert (on_screen(panel) == bench.truths["good"]).all()
    open_case(panel, bench, "low")  # its square is below the threshold of the quality filter
    assert (on_screen(panel) == bench.truths["low"]).all()
    open_case(panel, bench, "plain")
    assert not on_screen(panel).any()


def test_start_is_no_label(bench: Bench, panel: Panel) -> None:
    client = bench.client
    assert listed(client) == {"good", "low"}
    open_case(panel, bench, "good")
    assert client.get("/datastore/").json()["completed"] == 0
    assert client.get("/datastore/").json()["label_tags"] == {}
    assert client.get("/datastore/?output=train").json() == []
    cases = StudyRound(bench.study, bench.datastore).round_cases([], [])
    assert {case.id for case in cases.unlabelled} == set(CASES)
    assert "original" not in bench.datastore.get_labels_by_image_id("good")

    panel.ui.saveLabelButton.click()
    assert not panel.messages.errors
    assert bench.datastore.get_labeled_images() == ["good"]
    assert listed(client) == {"low"}


def test_rejected_pseudo_label_is_no_start(bench: Bench) -> None:
    client = bench.client
    for case, decision in (("good", "reject"), ("low", "send")):
        digest = client.get(f"/samstudent/review/{case}").json()["digest"]
        assert client.post(f"/samstudent/review/{case}/{decision}", json={"digest": digest}).is_success
    assert listed(client) == {"low"}
    for case, status in (("good", 404), ("low", 200)):
        assert client.get(f"/datastore/label?label={case}&tag=original").status_code == status
        assert client.head(f"/datastore/label?image={case}&tag=original").status_code == status
        assert client.get(f"/datastore/label/info?label={case}&tag=original").status_code == status


def test_stored_result_of_a_model_has_priority(bench: Bench, panel: Panel, tmp_path: Path) -> None:
    stored = np.roll(bench.truths["good"], 4, axis=2)
    write_masks(tmp_path / "x.nrrd", stored, bench.study.task, read_image(bench.datastore.get_image_uri("good")).grid)
    names = {"params": {"label_names": {"disk": 1, "square": 2}}}
    bench.datastore.save_label("good", str(tmp_path / "x.nrrd"), "original", names)
    open_case(panel, bench, "good")
    assert (on_screen(panel) == stored).all()


def test_overlapping_start_is_complete(tmp_path: Path) -> None:
    """As segments, which the module reads by their names: a label map would cut one of the structures."""
    bench = slicer_bench(tmp_path / "study", small_task(overlap=True, holdout={"fraction": 0}), overlap=True)
    assert bench.truths["good"].all(axis=0).any()
    with served(bench.app) as url:
        file = MONAILabelClient(url, tmpdir=str(tmp_path)).download_label("good", "original")
    assert file.endswith(".seg.nrrd")
    masks = read_masks(file, bench.study.task, read_image(bench.datastore.get_image_uri("good")).grid)
    assert (masks == bench.truths["good"]).all()


def test_start_of_a_tilted_volume_is_complete(tmp_path: Path) -> None:
    """On the grid of the copy that 3D Slicer loads, with the structures below the threshold."""

    def draw(path: Path, number: int) -> NDArray[Any]:
        save_series(path, [0, 2, 4, 6], lateral=0.5, SeriesInstanceUID=f"1.2.{number + 1}")
        truth = np.zeros((2, *read_image(path, 3).grid.spatial_shape), bool)
        truth[0, 1, :2], truth[1, 2, :2] = True, True
        return truth

    task = small_task(dimension=3, student=SMALL, holdout={"fraction": 0})
    bench = make_bench(tmp_path / "study", task, draw, ["low"])
    bench.pseudo_label("low")
    (tmp_path / "start.nrrd").write_bytes(bench.client.get("/datastore/label?label=low&tag=original").content)
    shown = read_image(bench.datastore.viewer_file("low")).grid
    own = read_image(bench.datastore.get_image_uri("low"), 3).grid
    assert shown.shape != own.shape
    start = read_masks(tmp_path / "start.nrrd", bench.study.task, shown)
    assert (start == moved(bench.truths["low"], own, shown, tmp_path)).all() and start.any(axis=(1, 2, 3)).all()


def test_no_model_is_run_automatically_without_a_student(bench: Bench, panel: Panel) -> None:
    SETTINGS["MONAILabel/autoRunSegmentationOnNextSample"] = True
    open_case(panel, bench, "plain")
    assert [segment.name for segment in panel.segments.segments.values()] == list(NAMES)
    assert panel.ui.deepgrowModelSelector.currentText == "sam"
    assert bench.client.get("/info/").json()["models"]["sam"]["labels"] == {}


@pytest.mark.parametrize(("source", "best"), [("none", "student"), ("student", "student"), ("sam", "student+sam")])
def test_best_model_is_run_automatically(bench: Bench, tmp_path: Path, source: str, best: str) -> None:
    """By the labeling policy of the served round, which compares the student's masks with those of SAM."""
    serve(bench)
    if source != "none":
        recipe = {"source": source}
        learn_recipes(bench.study.policy_folder("r0001"), bench.study.task, disk=recipe, square={"source": "student"})
    with served(bench.app) as url, connected_module(tmp_path, url) as panel:
        SETTINGS["MONAILabel/autoRunSegmentationOnNextSample"] = True
        open_case(panel, bench, "plain")
        assert panel.ui.segmentationModelSelector.currentText == best
        file, _ = panel.widget.logic.infer(best, "plain", {"result_extension": ".nrrd"})
        expected = read_masks(file, bench.study.task, read_image(bench.datastore.get_image_uri("plain")).grid)
        assert (on_screen(panel) == expected).all()


def test_fixed_recipe_is_the_best_model(tmp_path: Path) -> None:
    task = small_task(pseudo_labels={"policy": "fixed"}, holdout={"fraction": 0})
    bench = slicer_bench(tmp_path / "study", task)
    serve(bench)
    info = bench.client.get("/info/").json()
    assert list(info["models"]) == ["student+sam", "student", "sam"] and info["labels"] == list(NAMES)
    assert info["models"]["sam"]["labels"] == {"disk": 1, "square": 2}
