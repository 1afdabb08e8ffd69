"""3D Slicer's own module with the real server, on volumes with axes in several directions.

As ``test_slicer``; the student never draws the first structure.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import nibabel
import numpy as np
import pytest
import requests
import torch
from numpy.typing import NDArray

from samstudent.imaging.case import read_image
from samstudent.imaging.labels import read_masks
from samstudent.rounds.study import Study
from samstudent.server.datastore.study_folder import StudyFolderDatastore
from samstudent.student.predict import save_model
from samstudent.student.training import new_network
from samstudent.task import Task, load_task
from support.human_labels import read_human_label
from support.live_server import NO_SCORES, RunningServer, server_on
from support.slicer_module import Panel, connected_module
from support.slicer_qt import SETTINGS

pytestmark = pytest.mark.server

NAMES = ("anterior", "middle", "posterior")
#: How the file's axes i, j, k run, by case.
AXES = ("RAS", "LPS", "PIL", "SRA")
#: i, j, k.
SHAPE = (30, 24, 12)
SPACING = (1.0, 1.5, 2.0)
TASK = """\
name: solid
dimension: 3
structures: [anterior, middle, posterior]
student: {network: unet, size: [16, 16, 16], channels: [8, 16]}
training: {steps: 20}
"""


@dataclass
class Solids:
    folder: Path
    task_file: Path
    task: Task


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Solids:
    root = tmp_path_factory.mktemp("solids")
    (root / "solid.yaml").write_text(TASK)
    made = Solids(root / "scans", root / "solid.yaml", load_task(root / "solid.yaml"))
    made.folder.mkdir()
    for index, axes in enumerate(AXES):
        orientation = nibabel.orientations.axcodes2ornt(tuple(axes))
        affine = np.linalg.inv(nibabel.orientations.inv_ornt_aff(orientation, SHAPE)) @ np.diag([*SPACING, 1.0])
        affine[:3, 3] += (5, -7, 11)
        nibabel.save(nibabel.Nifti1Image(scan(index), affine), made.folder / f"scan{axes}.nii.gz")
    network = new_network(made.task, 1)
    with torch.no_grad():  # the background first, then the structures; the first never, the others where noise says so
        network[-1].weight[:] = torch.randn(network[-1].weight.shape, generator=torch.Generator().manual_seed(2)) * 3
        network[-1].weight[1], network[-1].bias[:] = 0, torch.tensor([0.0, -50.0, 0.0, 0.0])
    ledger = Study(str(made.folder), str(made.folder), made.task).ledger
    round_id = ledger.new_round("test")
    ledger.update(round_id, status="done", model_digest=save_model(ledger.model_path(round_id), network, made.task))
    ledger.promote(round_id)
    return made


@pytest.fixture(scope="module")
def server(study: Solids, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    with server_on(study, tmp_path_factory.mktemp("home"), environment=NO_SCORES) as running:  # type: ignore[arg-type]
        yield running


def scan(seed: int) -> NDArray[np.int16]:
    """(i, j, k): two bright balls on noise."""
    rng = np.random.default_rng(seed)
    i, j, k = np.mgrid[: SHAPE[0], : SHAPE[1], : SHAPE[2]]
    balls = ((i - 9) ** 2 + (j - 9) ** 2 + 4 * (k - 5) ** 2 < 36) * 300.0
    balls += ((i - 21) ** 2 + (j - 15) ** 2 + 4 * (k - 6) ** 2 < 36) * 500.0
    return (balls + rng.normal(0, 15, SHAPE)).astype(np.int16)


@pytest.fixture
def panel(server: RunningServer, tmp_path: Path) -> Iterator[Panel]:
    with connected_module(tmp_path, server.url) as panel:
        yield panel


def load(panel: Panel, study: Solids, axes: str) -> str:
    """Display the case, as *Next Sample* does."""
    case = f"scan{axes}"
    panel.widget.logic.next_sample = lambda *args: {"id": case, "path": str(study.folder / f"{case}.nii.gz")}
    panel.ui.nextSampleButton.click()
    panel.quiet()
    return case


def drawn(shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """Three blocks, (S, k, j, i), no mirror image of themselves."""
    masks = np.zeros((3, *shape), bool)
    masks[0, 1:4, 2:6, 3:9] = True
    masks[1, 3:9, 7:9, 1:20] = True
    masks[2, 8:11, 12:20, 22:27] = True
    return masks


def test_next_sample_is_one_of_the_volumes(panel: Panel) -> None:
    panel.ui.nextSampleButton.click()
    panel.quiet()
    assert panel.widget.current_sample["id"] in [f"scan{axes}" for axes in AXES]
    assert sorted(panel.volume.image.GetSize()) == sorted(SHAPE)


def test_cases_are_not_scored_against_the_setting(server: RunningServer) -> None:
    """Neither at the start nor by the next sample, which the test before has requested."""
    assert requests.get(f"{server.url}/scoring/", timeout=30).status_code == 404


@pytest.mark.parametrize("axes", AXES)
def test_auto_segmentation_is_aligned_with_one_segment_for_each_structure(
    panel: Panel, server: RunningServer, study: Solids, axes: str
) -> None:
    case = load(panel, study, axes)
    panel.ui.segmentationModelSelector.setCurrentText("student")
    panel.ui.segmentationButton.click()
    panel.quiet()
    file, _ = server.client().infer("student", case, {"result_extension": ".seg.nrrd"})
    grid = read_image(study.folder / f"{case}.nii.gz").grid
    expected = grid.to_file(read_masks(file, study.task, grid))
    assert not expected[0].any() and expected[1:].any()
    assert (np.stack([panel.segments.named(name) for name in NAMES]) == expected).all()


@pytest.mark.parametrize("axes", ["LPS", "PIL"])  # each click on a new slice takes SAM's encoder
def test_smart_edit_changes_the_clicked_slice_only(panel: Panel, study: Solids, axes: str) -> None:
    load(panel, study, axes)
    shape = panel.segments.shape
    i, j, k = panel_middle(panel)
    panel.draw("middle", drawn(shape)[1])
    before = panel.segments.named("middle").copy()
    panel.ui.dgUpdateCheckBox.checked = True
    panel.ui.labelComboBox.setCurrentText("middle")
    panel.mark([i, j, k])
    panel.quiet()
    after = panel.segments.named("middle")
    others = np.arange(shape[0]) != k
    assert (after[others] == before[others]).all()
    assert after[k, j, i] and (after[k] != before[k]).any()
    assert not panel.segments.named("posterior").any()


def panel_middle(panel: Panel) -> list[int]:
    """i, j, k in the file of the first ball's middle: its brightest smoothed voxel is found as a user would, by eye."""
    import SimpleITK as sitk

    smooth = sitk.GetArrayFromImage(sitk.SmoothingRecursiveGaussian(panel.volume.image, 3.0))
    k, j, i = np.unravel_index(smooth.argmax(), smooth.shape)
    return [int(i), int(j), int(k)]


def test_box_without_a_click_applies_to_the_displayed_slice(panel: Panel, study: Solids) -> None:
    load(panel, study, "RAS")
    panel.ui.labelComboBox.setCurrentText("middle")
    panel.widget._sam2ROINode.place(panel.ras([2, 2, 4]), panel.ras([16, 16, 6]))
    panel.slicer.slice_logic.offset = float(panel.ras([0, 0, 5])[2])
    panel.ui.dgUpdateButton.click()
    panel.quiet()
    # The client takes the offset in millimetres, 21, for a slice's index; the server finds the slice that is meant.
    assert np.flatnonzero(panel.segments.named("middle").any(axis=(1, 2))).tolist() == [5]


@pytest.mark.parametrize("extension", [".nii.gz", ".nrrd", ".seg.nrrd"])
@pytest.mark.parametrize("axes", AXES)
def test_submitted_label_is_the_training_label(panel: Panel, study: Solids, axes: str, extension: str) -> None:
    overlap = extension == ".seg.nrrd"  # then the segments themselves are submitted, cut to what is drawn
    SETTINGS.update({"MONAILabel/fileExtension": extension, "MONAILabel/allowOverlappingSegments": overlap})
    case = load(panel, study, axes)
    masks = drawn(panel.segments.shape)
    if overlap:
        masks[0] |= masks[1]
    else:
        masks[1] &= ~masks[0]
    for name, mask in zip(NAMES, masks, strict=True):
        panel.draw(name, mask)
    panel.draw("background", ~masks.any(axis=0))
    panel.segments.arrange(["posterior", "background", "middle", "anterior"])
    panel.ui.saveLabelButton.click()
    panel.quiet()
    datastore = StudyFolderDatastore(str(study.folder), auto_reload=False, read_only=True)
    image, read_back = read_human_label(datastore, case, study.task)
    assert (image.grid.to_file(read_back.masks) == masks).all()
