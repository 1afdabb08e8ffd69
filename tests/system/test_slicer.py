"""3D Slicer's own module with the real server, on radiographs: all functions of its panel.

Slicer itself is not here. ``slicer_module`` runs the module that ships in the monailabel wheel in a scene of stand-ins.
The served student never draws the radius, the first of the task's structures.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
from monailabel.client import MONAILabelClient
from numpy.typing import NDArray
from PIL import Image

from samstudent.imaging.case import read_image
from samstudent.imaging.label_writing import label_map
from samstudent.imaging.labels import read_masks
from samstudent.rounds.study import Study
from samstudent.server.datastore.study_folder import StudyFolderDatastore
from samstudent.student.predict import save_model
from samstudent.student.training import TrainingOptions, new_network, train_student
from samstudent.student.training_case import CaseLabel, prepare_case
from support.human_labels import read_human_label
from support.live_server import CASES, RunningServer, TinyStudy, draw_film
from support.slicer_module import Panel, connected_module
from support.slicer_qt import SETTINGS, CheckBox, ComboBox, TableWidgetItem

pytestmark = pytest.mark.server
NAMES = ("radius", "ulna", "lunate")


@pytest.fixture(scope="module")
def study(study: TinyStudy, tmp_path_factory: pytest.TempPathFactory) -> TinyStudy:
    """Study with a served student that has trained on ulna and lunate, and finds no radius."""
    import torch

    path = tmp_path_factory.mktemp("model") / "model.pt"
    cases = []
    for seed in range(20, 28):
        pixels, masks = draw_film(np.random.default_rng(seed))
        film = path.parent / f"{seed}.png"
        Image.fromarray(pixels).save(film)
        cases.append(prepare_case(film.stem, read_image(film), CaseLabel(masks), study.task))
    train_student(cases, study.task, path, TrainingOptions(seed=1, steps=40))
    network = new_network(study.task, 0)
    network.load_state_dict(torch.load(path, weights_only=True)["model"])
    with torch.no_grad():
        network[-1].weight[0] = 0
        network[-1].bias[0] = -20
    ledger = Study(str(study.folder), str(study.folder), study.task).ledger
    round_id = ledger.new_round("test")
    ledger.update(round_id, status="done", model_digest=save_model(ledger.model_path(round_id), network, study.task))
    ledger.promote(round_id)
    return study


@pytest.fixture
def panel(server: RunningServer, tmp_path: Path) -> Iterator[Panel]:
    """The module, opened and connected."""
    with connected_module(tmp_path, server.url) as panel:
        yield panel


def next_sample(panel: Panel) -> str:
    """Press *Next Sample*; returns the case."""
    panel.ui.nextSampleButton.click()
    panel.quiet()
    return str(panel.widget.current_sample["id"])


def submit(panel: Panel) -> None:
    before = len(panel.messages.infos)
    panel.ui.saveLabelButton.click()
    panel.quiet()
    assert len(panel.messages.infos) == before + 1


def trained_on(study: TinyStudy, case: str) -> NDArray[np.bool_]:
    """Submitted label of a case as read by a training: bool (S, y, x)."""
    datastore = StudyFolderDatastore(str(study.folder), auto_reload=False, read_only=True)
    return read_human_label(datastore, case, study.task)[1].masks.astype(bool)


def on_screen(panel: Panel, names: Sequence[str] = NAMES) -> NDArray[np.bool_]:
    """The flat masks of the segments, bool (S, y, x)."""
    return np.stack([panel.segments.named(name)[0] for name in names])


# ---- what is offered ----


def test_panel_lists_models_and_options_of_the_server(panel: Panel) -> None:
    panel.quiet()
    assert panel.ui.appComboBox.items == ["samstudent - tiny"]
    assert panel.ui.segmentationModelSelector.items == ["student", "student+sam"]
    assert panel.ui.deepgrowModelSelector.items == ["sam"]
    assert panel.ui.labelComboBox.items == list(NAMES)
    assert set(panel.ui.strategyBox.items) >= {"random", "mixed", "entropy"}
    assert panel.ui.trainerBox.items[0] == "student"
    assert not panel.ui.scribblesCollapsibleButton.shown
    assert panel.ui.dgNegativeControlPointPlacementWidget.shown


def test_every_option_round_trips_through_the_table(panel: Panel) -> None:
    """Unchanged options are sent unchanged; edited ones with their type."""
    seen = {}
    for section, kind in enumerate(("models", "trainers", "strategies", "scoring")):
        panel.ui.optionsSection.setCurrentIndex(section)
        for index, name in enumerate(list(panel.ui.optionsName.items)):
            panel.ui.optionsName.setCurrentIndex(index)
            before = dict(panel.widget.info[kind][name]["config"])
            assert set(panel.ui.configTable.cells()) == set(before)
            sent = panel.widget.getParamsFromConfig(kind, name)
            expected = {key: value[0] if isinstance(value, list) else value for key, value in before.items()}
            assert sent == expected and {k: type(v) for k, v in sent.items()} == {
                k: type(v) for k, v in expected.items()
            }
            seen[name] = set(before)
    assert {"student", "student+sam", "mixed"} <= set(seen)
    assert {"pseudo_labels", "promote", "max_epochs", "seed"} <= seen["student"]


def test_edited_option_keeps_its_type(panel: Panel) -> None:
    panel.ui.optionsSection.setCurrentIndex(1)
    cells = panel.ui.configTable.cells()
    assert isinstance(cells["pseudo_labels"], ComboBox) and isinstance(cells["promote"], CheckBox)
    assert isinstance(cells["seed"], TableWidgetItem)
    cells["pseudo_labels"].setCurrentText("off")
    cells["promote"].setChecked(False)
    cells["seed"].setText("7")
    sent = panel.widget.getParamsFromConfig("train", "student")
    assert (sent["pseudo_labels"], sent["promote"], sent["seed"]) == ("off", False, 7)


# ---- a case comes ----


def test_next_sample_is_loaded_with_an_empty_segment_for_each_structure(panel: Panel, study: TinyStudy) -> None:
    case = next_sample(panel)
    assert case in CASES
    assert panel.volume.image.GetSize() == (64, 64, 1)
    assert [segment.name for segment in panel.segments.segments.values()] == list(NAMES)
    assert not on_screen(panel).any()


def test_next_sample_is_downloaded_without_a_shared_folder(panel: Panel) -> None:
    logic = panel.widget.logic
    logic.next_sample = lambda *args: type(logic).next_sample(logic, *args) | {"path": "/not/on/this/machine.png"}
    case = next_sample(panel)
    assert panel.volume.image.GetSize() == (64, 64, 1)
    assert (panel.folder / f"{case}.png").is_file()


@pytest.mark.parametrize("extension", [".png", ".nrrd", ".nii.gz"])
def test_label_saved_by_a_model_is_displayed(panel: Panel, client: MONAILabelClient, extension: str) -> None:
    """The tag ``original``; structures keep their values if one is absent."""
    case = next_sample(panel)
    file, _ = client.infer("student", case, {"save_label": True, "result_extension": extension})
    drawn = np.asarray(read_label(file))
    panel.widget.logic.next_sample = lambda *args: sample
    sample = {"id": case, "name": f"{case}.png", "path": str(panel.widget.current_sample["path"])}
    assert next_sample(panel) == case
    assert not panel.segments.named("radius").any()
    for name, value in (("ulna", 2), ("lunate", 3)):
        assert (panel.segments.named(name)[0] == (drawn == value)).all() and (drawn == value).any()


def read_label(file: str) -> NDArray[Any]:
    import SimpleITK as sitk

    return np.squeeze(sitk.GetArrayFromImage(sitk.ReadImage(file)))


# ---- drawing ----


@pytest.mark.parametrize("model", ["student", "student+sam"])
def test_auto_segmentation_assigns_each_structure_to_its_segment(
    panel: Panel, client: MONAILabelClient, study: TinyStudy, model: str
) -> None:
    """The radius is absent and first: by counting present structures, ulna and lunate would be exchanged."""
    case = next_sample(panel)
    panel.draw("radius", np.ones((1, 64, 64), bool))  # of an earlier attempt; the answer says that there is none
    panel.ui.segmentationModelSelector.setCurrentText(model)
    panel.ui.segmentationButton.click()
    panel.quiet()
    file, _ = client.infer(model, case, {"result_extension": ".seg.nrrd"})
    values = label_map(read_masks(file, study.task, read_image(study.image(case)).grid))
    assert set(np.unique(values)) == {0, 2, 3}
    assert [segment.name for segment in panel.segments.segments.values()] == list(NAMES)
    for value, shown in enumerate(on_screen(panel), 1):
        assert (shown == (values == value)).all()


def test_auto_segmentation_supports_segments_in_any_order(panel: Panel) -> None:
    next_sample(panel)
    panel.ui.segmentationButton.click()
    first = on_screen(panel)
    panel.segments.arrange(["lunate", "radius", "ulna"])
    panel.draw("background", ~first.any(axis=0)[None])
    panel.segments.arrange(["background"])
    panel.ui.segmentationButton.click()
    panel.quiet()
    assert (on_screen(panel) == first).all() and first[1].any()


def test_smart_edit_segments_the_selected_structure(panel: Panel, client: MONAILabelClient, study: TinyStudy) -> None:
    case = next_sample(panel)
    truth = study.truth[case]
    panel.ui.dgUpdateCheckBox.checked = True
    panel.ui.labelComboBox.setCurrentText("lunate")
    panel.mark(centre(truth[2]))
    panel.quiet()
    assert (panel.segments.named("lunate")[0] & truth[2]).any()
    before = panel.segments.named("lunate").copy()
    panel.ui.labelComboBox.setCurrentText("ulna")
    # A box with a click in it. RAS: the film's rows run to the back, its columns to the left.
    y, x = (np.flatnonzero(truth[1].any(axis=axis)).tolist() for axis in (1, 0))
    panel.widget._sam2ROINode.place(panel.ras([x[0], y[0], 0]), panel.ras([x[-1], y[-1], 0]))
    panel.mark(centre(truth[1]))
    panel.quiet()
    asked = {"label": "ulna", "foreground": [centre(truth[1])], "roi": [x[0], x[-1], y[0], y[-1], 0, 0]}
    answer = read_label(client.infer("sam", case, asked)[0]) > 0
    assert (panel.segments.named("ulna")[0] == answer).all() and answer.any()
    assert not panel.segments.named("radius").any()
    kept = before & ~panel.segments.named("ulna")
    assert (panel.segments.named("lunate") == kept).all()
    assert [segment.name for segment in panel.segments.segments.values()] == list(NAMES)


def test_smart_edit_segments_an_unknown_segment(panel: Panel, study: TinyStudy) -> None:
    case = next_sample(panel)
    panel.draw("fracture", np.zeros((1, 64, 64), bool))
    panel.widget.updateGUIFromParameterNode()
    panel.ui.labelComboBox.setCurrentText("fracture")
    panel.mark(centre(study.truth[case][2]))
    panel.ui.dgUpdateButton.click()
    panel.quiet()
    assert panel.segments.named("fracture").any() and not on_screen(panel).any()


# ---- submitting ----

#: The order in which segments lie, with those that Slicer leaves out and one that the task does not know.
ORDERS = {
    "as they come": ["radius", "ulna", "lunate"],
    "reversed": ["lunate", "ulna", "radius"],
    "background in the middle": ["ulna", "background", "radius", "lunate"],
    "background and scribbles first": ["background", "foreground_scribbles", "background_scribbles", *NAMES[::-1]],
    "a segment of the user first": ["Segment_1", "lunate", "radius", "ulna"],
}


@pytest.mark.parametrize("extension", [".nii.gz", ".nrrd", ".seg.nrrd", ".png"])
@pytest.mark.parametrize("order", ORDERS.values(), ids=ORDERS)
def test_submitted_label_is_the_training_label(
    panel: Panel, study: TinyStudy, order: Sequence[str], extension: str
) -> None:
    """In any order, and with an empty segment."""
    SETTINGS.update({"MONAILabel/fileExtension": extension, "MONAILabel/allowOverlappingSegments": False})
    case = next_sample(panel)
    drawn = disjoint(study.truth[case])
    drawn[1] = False  # the ulna is empty
    everything = dict(zip(NAMES, drawn, strict=True)) | {"background": ~drawn.any(axis=0)}
    for name in order:
        panel.draw(name, everything.get(name, np.zeros((64, 64), bool))[None])
    if "Segment_1" in order:
        panel.draw("Segment_1", (~drawn.any(axis=0))[None])
    panel.segments.arrange(order)
    submit(panel)
    assert (trained_on(study, case) == drawn).all() and drawn[0].any() and drawn[2].any()
    requests.delete(f"{panel.widget.serverUrl()}/datastore/label?id={case}&tag=final", timeout=30).raise_for_status()


def test_overlapping_segments_are_preserved_in_seg_nrrd(panel: Panel, study: TinyStudy) -> None:
    SETTINGS.update({"MONAILabel/fileExtension": ".seg.nrrd", "MONAILabel/allowOverlappingSegments": True})
    case = next_sample(panel)
    truth = study.truth[case]
    assert (truth[0] & truth[2]).any()
    for name, mask in zip(NAMES, truth, strict=True):
        panel.draw(name, mask[None])
    panel.draw("background", ~truth.any(axis=0)[None])
    panel.segments.arrange(["background", "lunate", "radius"])
    submit(panel)
    assert (trained_on(study, case) == truth).all()


def test_submitted_label_is_counted_and_enables_training(panel: Panel, study: TinyStudy) -> None:
    done = panel.ui.activeLearningProgressBar.value
    case = next_sample(panel)
    for name, mask in zip(NAMES, disjoint(study.truth[case]), strict=True):
        panel.draw(name, mask[None])
    submit(panel)
    assert panel.ui.activeLearningProgressBar.value > done
    assert panel.ui.trainingButton.enabled
    assert next_sample(panel) != case


def test_image_of_the_user_is_uploaded(panel: Panel, study: TinyStudy) -> None:
    """Loaded in Slicer, not in the study: a session during segmentation, uploaded with its label."""
    pixels, truth = draw_film(np.random.default_rng(77))
    mine = panel.folder / "mine.png"
    Image.fromarray(pixels).save(mine)
    panel.slicer.util.loadVolume(str(mine))
    assert panel.widget.current_sample["session"] and panel.ui.uploadImageButton.enabled
    panel.ui.dgUpdateCheckBox.checked = True
    panel.ui.labelComboBox.setCurrentText("lunate")
    panel.mark(centre(truth[2]))
    panel.quiet()
    assert panel.segments.named("lunate").any()
    panel.ui.segmentationButton.click()
    panel.quiet()
    panel.draw("ulna", truth[1][None])
    drawn = on_screen(panel)
    submit(panel)
    read_back = trained_on(study, "mine")
    assert (read_back[1] == (drawn[1] & ~drawn[2])).all() and (read_back[2] == drawn[2]).all()


# ---- update model ----


def test_training_is_started_and_stopped(
    panel: Panel, server: RunningServer, client: MONAILabelClient, study: TinyStudy
) -> None:
    for case in CASES:
        client.save_label(case, str(study.label(case, panel.folder)))
    panel.widget.fetchInfo()
    panel.ui.optionsSection.setCurrentIndex(1)
    panel.ui.configTable.cells()["pseudo_labels"].setCurrentText("off")
    panel.ui.trainingButton.click()
    panel.quiet()
    assert panel.widget.timer.running and not panel.ui.trainingButton.enabled
    panel.widget.timer.emit("timeout")  # every five seconds in Slicer
    server.wait_for("train")
    timer = panel.widget.timer
    timer.emit("timeout")
    panel.quiet()
    assert panel.ui.trainingProgressBar.value == 100 and not timer.running
    assert panel.ui.trainingButton.enabled and panel.ui.accuracyProgressBar.value > 0

    panel.ui.configTable.cells()["max_epochs"].setText("10000")
    panel.ui.trainingButton.click()
    assert panel.ui.stopTrainingButton.enabled
    panel.ui.stopTrainingButton.click()  # at once: the job has hardly begun
    panel.quiet()
    assert server.wait_for("train")["status"] in ("STOPPED", "ERROR")
    time.sleep(0.5)
    panel.widget.timer.emit("timeout")
    assert panel.ui.trainingButton.enabled


def centre(mask: NDArray[Any]) -> list[float]:
    """i, j, k of the pixel of a flat mask nearest to its middle."""
    points = np.argwhere(mask)
    j, i = points[np.linalg.norm(points - points.mean(axis=0), axis=1).argmin()]
    return [int(i), int(j), 0]


def disjoint(truth: NDArray[Any]) -> NDArray[np.bool_]:
    """Masks without shared pixels, as drawn in Slicer's editor by default: later structures take precedence."""
    values = np.zeros(truth.shape[1:], int)
    for value, mask in enumerate(truth, 1):
        values[mask] = value
    return np.stack([values == value for value in range(1, len(truth) + 1)])
