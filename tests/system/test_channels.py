"""Task with two registered sequences as channels, through the real server: cases, viewers, click, round, student."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import requests
from PIL import Image

from samstudent.imaging.case import read_image
from samstudent.imaging.label_writing import write_masks
from samstudent.imaging.labels import read_masks
from samstudent.task import load_task
from support.live_server import NO_SCORES, RunningServer, TinyStudy, draw_film, server_on

pytestmark = pytest.mark.server
TASK = """\
name: sequences
dimension: 2
structures: [radius, ulna, lunate]
overlap: true
image: {channels: [T1, T2], sam_channel: T2}
student: {size: [64, 64], channels: [8, 16]}
training: {steps: 8, batch_size: 4, learning_rate: 0.02}
pseudo_labels: {policy: fixed}
holdout: {fraction: 0}
"""
CASES = [f"case{index}" for index in range(4)]


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> TinyStudy:
    """Four cases; T2 is the drawn film, T1 its negative with another range."""
    root = tmp_path_factory.mktemp("channels")
    folder = root / "films"
    folder.mkdir()
    (root / "sequences.yaml").write_text(TASK)
    truth = {}
    for index, case in enumerate(CASES):
        pixels, truth[case] = draw_film(np.random.default_rng(index))
        Image.fromarray(pixels).save(folder / f"{case}_T2.png")
        Image.fromarray((255 - (pixels >> 8)).astype(np.uint8)).save(folder / f"{case}_T1.png")
    return TinyStudy(folder, root / "sequences.yaml", load_task(root / "sequences.yaml"), truth)


@pytest.fixture(scope="module")
def server(study: TinyStudy, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    with server_on(study, tmp_path_factory.mktemp("home"), environment=NO_SCORES) as running:
        yield running


def test_files_of_a_case_are_one_case_of_which_clients_load_one(
    server: RunningServer, study: TinyStudy, tmp_path: Path
) -> None:
    listed = requests.get(f"{server.url}/datastore/", params={"output": "all"}, timeout=60).json()["objects"]
    assert set(listed) == set(CASES)
    info = requests.get(f"{server.url}/datastore/image/info", params={"image": CASES[0]}, timeout=60).json()
    assert info["name"] == "case0_T2.png"
    answer = requests.get(f"{server.url}/datastore/image", params={"image": CASES[0]}, timeout=60)
    assert answer.content == (study.folder / "case0_T2.png").read_bytes()


def test_click_is_answered(server: RunningServer, study: TinyStudy) -> None:
    params = {"label": "lunate", "foreground": [[31, 26]], "background": []}
    file, _ = server.client().infer("sam", CASES[0], params)
    grid = read_image(study.folder / "case0_T2.png").grid
    assert read_masks(file, study.task, grid)[2].any()


def test_page_shows_the_channel(server: RunningServer, study: TinyStudy) -> None:
    address = f"{server.url}/samstudent/annotate/{CASES[0]}"
    form = requests.get(address, timeout=60).json()
    shown = np.frombuffer(requests.get(f"{address}/pixels", timeout=60).content, "<u2").reshape(64, 64)
    with Image.open(study.folder / "case0_T2.png") as film:
        expected = np.asarray(film).astype(float)
    stored = form["pixels"]
    assert np.abs(shown * float(stored["scale"]) + float(stored["offset"]) - expected).max() <= 1


def test_round_on_channels_and_its_student(server: RunningServer, study: TinyStudy, tmp_path: Path) -> None:
    for case in CASES[:3]:
        grid = read_image(study.folder / f"{case}_T1.png").grid
        write_masks(tmp_path / f"{case}.seg.nrrd", study.truth[case], study.task, grid)
        server.client().save_label(case, str(tmp_path / f"{case}.seg.nrrd"), "final", {})
    server.client().train_start("student", {})
    assert server.wait_for("train")["status"] == "DONE", server.tail()
    file, _ = server.client().infer("student+sam", CASES[3], {})
    grid = read_image(study.folder / "case3_T2.png").grid
    assert read_masks(file, study.task, grid).shape == (3, 64, 64)
