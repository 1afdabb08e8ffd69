"""Study of DICOM series in subfolders through the real server, as 3D Slicer uses it: image, label, round, student."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import requests
import SimpleITK as sitk

from samstudent.imaging.case import read_image
from samstudent.imaging.label_writing import write_masks
from samstudent.task import load_task
from support.ct_study import SHAPE, draw_series
from support.live_server import NO_SCORES, RunningServer, TinyStudy, server_on

pytestmark = pytest.mark.server
TASK = """\
name: organs
dimension: 3
structures: [liver, spleen]
overlap: true
image: {intensity: window, low: 0, high: 1400}
student: {network: unet, size: [16, 32, 32], channels: [8, 16]}
training: {steps: 6, batch_size: 2, learning_rate: 0.01}
pseudo_labels: {policy: fixed}
holdout: {fraction: 0}
"""
LABELLED = ("p0_portal", "p1_portal")
#: The third patient's two series are in one folder, as on a CD.
ON_CD = ("p2_4", "p2_5")


@dataclass
class DicomStudy(TinyStudy):
    """Three patients, one with two series; ``truth``: masks (2, z, y, x) of the files, the lowest slice first."""


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> DicomStudy:
    root = tmp_path_factory.mktemp("dicom")
    (root / "organs.yaml").write_text(TASK)
    truth = {}
    for seed, case in enumerate((*LABELLED, *ON_CD)):
        images, truth[case] = draw_series(seed)
        patient, series = case.split("_")
        folder = root / "study" / (f"{patient}/{series}" if case in LABELLED else patient)
        folder.mkdir(parents=True, exist_ok=True)
        for index, image in enumerate(images):
            if case in ON_CD:
                image.SeriesNumber = int(series)
            image.save_as(folder / f"IM{seed}{index}", enforce_file_format=True)
    return DicomStudy(root / "study", root / "organs.yaml", load_task(root / "organs.yaml"), truth)


@pytest.fixture(scope="module")
def server(study: DicomStudy, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    with server_on(study, tmp_path_factory.mktemp("home"), environment=NO_SCORES) as running:
        yield running


def downloaded(server: RunningServer, case: str, folder: Path) -> Path:
    """The image as Slicer loads it: under the name of its metadata."""
    info = requests.get(f"{server.url}/datastore/image/info", params={"image": case}, timeout=60).json()
    answer = requests.get(f"{server.url}/datastore/image", params={"image": case}, timeout=60)
    assert answer.ok, answer.text
    (folder / info["name"]).write_bytes(answer.content)
    return folder / str(info["name"])


def test_each_series_is_a_case(server: RunningServer) -> None:
    listed = requests.get(f"{server.url}/datastore/", params={"output": "all"}, timeout=60).json()["objects"]
    assert set(listed) == {*LABELLED, *ON_CD}


def test_image_has_the_geometry_of_its_series(server: RunningServer, study: DicomStudy, tmp_path: Path) -> None:
    image = sitk.ReadImage(str(downloaded(server, ON_CD[0], tmp_path)))
    assert image.GetSize() == SHAPE[::-1] and image.GetSpacing() == pytest.approx((3, 3, 5))
    assert image.GetOrigin() == pytest.approx((-72, -72, 0))
    masks = study.truth[ON_CD[0]]
    assert np.median(sitk.GetArrayFromImage(image)[masks[0]]) > 1000


def test_labels_train_a_student_that_predicts_in_place(
    server: RunningServer, study: DicomStudy, tmp_path: Path
) -> None:
    for case in LABELLED:
        grid = read_image(downloaded(server, case, tmp_path)).grid
        file = tmp_path / f"{case}.seg.nrrd"
        write_masks(file, grid.from_file(study.truth[case]), study.task, grid)
        server.client().save_label(case, str(file), "final", {})
    server.client().train_start("student", {"pseudo_labels": "off"})
    assert server.wait_for("train")["status"] == "DONE", server.tail()
    file, _ = server.client().infer("student", ON_CD[1], {})
    found, image = sitk.ReadImage(file), sitk.ReadImage(str(downloaded(server, ON_CD[1], tmp_path)))
    assert found.GetSize()[:3] == image.GetSize() and found.GetOrigin()[:3] == pytest.approx(image.GetOrigin()[:3])


def test_predict_reads_folders_of_series(server: RunningServer, study: DicomStudy, tmp_path: Path) -> None:
    """After the test above: on the round that was trained there."""
    result = subprocess.run(
        [
            sys.executable, "-m", "samstudent.cli.main", "predict", str(study.folder / "p2"), "--studies",
            str(study.folder), "--task", str(study.task_file), "--format", "dicom", "--output", str(tmp_path / "out"),
        ],
        capture_output=True, text=True, timeout=300, check=False, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert result.returncode == 0, result.stdout + result.stderr
    assert {path.name for path in (tmp_path / "out").glob("*.dcm")} == {"series_4.dcm", "series_5.dcm"}
    assert set(json.loads((tmp_path / "out" / "prediction.json").read_text())["failed"]) == set()


def test_click_is_answered_on_the_grid_of_the_client(server: RunningServer, tmp_path: Path) -> None:
    image = sitk.ReadImage(str(downloaded(server, ON_CD[0], tmp_path)))
    file, _ = server.client().infer("sam", ON_CD[0], {"label": "liver", "foreground": [[15, 22, 2]], "background": []})
    assert sitk.ReadImage(file).GetSize()[:3] == image.GetSize()
