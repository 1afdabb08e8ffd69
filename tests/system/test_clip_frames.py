"""Study of an ultrasound clip through the real server: frames are cases of a 2D task."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import requests
import SimpleITK as sitk
from pydicom.data import get_testdata_file
from pydicom.pixels import pixel_array

from samstudent.imaging.case import read_image
from samstudent.imaging.label_writing import write_masks
from samstudent.imaging.labels import read_masks
from samstudent.task import load_task
from support.live_server import NO_SCORES, RunningServer, TinyStudy, server_on

pytestmark = pytest.mark.server
TASK = """\
name: clip
dimension: 2
structures: [chamber]
student: {network: unet, size: [64, 64], channels: [8, 16]}
holdout: {fraction: 0}
"""
FRAME = "p1@clip-0003"


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> TinyStudy:
    """The ultrasound clip of 30 colour frames that comes with pydicom, in a patient's folder."""
    root = tmp_path_factory.mktemp("clip")
    (root / "study" / "p1").mkdir(parents=True)
    shutil.copy(str(get_testdata_file("examples_ybr_color.dcm")), root / "study" / "p1" / "clip")
    (root / "clip.yaml").write_text(TASK)
    return TinyStudy(root / "study", root / "clip.yaml", load_task(root / "clip.yaml"), {})


@pytest.fixture(scope="module")
def server(study: TinyStudy, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    with server_on(study, tmp_path_factory.mktemp("home"), environment=NO_SCORES) as running:
        yield running


def downloaded(server: RunningServer, folder: Path) -> Path:
    answer = requests.get(f"{server.url}/datastore/image", params={"image": FRAME}, timeout=60)
    assert answer.ok, answer.text
    (folder / f"{FRAME}.nrrd").write_bytes(answer.content)
    return folder / f"{FRAME}.nrrd"


def test_each_frame_is_a_case_that_clients_load_as_one_file(
    server: RunningServer, study: TinyStudy, tmp_path: Path
) -> None:
    listed = requests.get(f"{server.url}/datastore/", params={"output": "all"}, timeout=60).json()["objects"]
    assert set(listed) == {f"p1@clip-{number:04}" for number in range(1, 31)}
    shown = sitk.GetArrayFromImage(sitk.ReadImage(str(downloaded(server, tmp_path))))
    assert (shown[0] == pixel_array(study.folder / "p1" / "clip", index=2)).all()


def test_click_and_label_of_a_frame(server: RunningServer, study: TinyStudy, tmp_path: Path) -> None:
    grid = read_image(downloaded(server, tmp_path), 2).grid
    params = {"label": "chamber", "foreground": [[160, 120]], "background": []}
    file, _ = server.client().infer("sam", FRAME, params)
    masks = read_masks(file, study.task, grid)
    assert masks.shape == (1, 240, 320)
    masks[0, 100:140, 140:180] = True
    write_masks(tmp_path / "label.seg.nrrd", masks, study.task, grid)
    server.client().save_label(FRAME, str(tmp_path / "label.seg.nrrd"), "final", {})
    back = requests.get(f"{server.url}/datastore/label", params={"label": FRAME, "tag": "final"}, timeout=60)
    (tmp_path / "back.seg.nrrd").write_bytes(back.content)
    assert (read_masks(tmp_path / "back.seg.nrrd", study.task, grid) == masks).all()
    pixels = requests.get(f"{server.url}/samstudent/annotate/{FRAME}/pixels", timeout=60).content
    assert np.frombuffer(pixels, np.uint8).size == 240 * 320 * 3
