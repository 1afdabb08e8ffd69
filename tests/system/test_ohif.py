"""OHIF of MONAI Label in a real browser, on the real server and a real Orthanc.

The tests share one server and one PACS and run in order.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import requests

from samstudent.imaging.case import read_image
from samstudent.imaging.label_writing import write_masks
from samstudent.imaging.labels import read_masks
from support.browser import Browser
from support.ct_study import LABELLED, SERIES, SHAPE, CtStudy
from support.drawn import dice
from support.film_study import server_on
from support.live_server import RunningServer
from support.needed import require_browser
from support.ohif_page import WEBGL, Ohif

pytestmark = pytest.mark.server


@pytest.fixture(scope="module")
def server(ct: CtStudy, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    require_browser()
    with server_on(ct, tmp_path_factory.mktemp("home"), scores=False) as running:
        yield running


@pytest.fixture(scope="module")
def ohif(server: RunningServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ohif]:
    browser = Browser(tmp_path_factory.mktemp("profile"), server.url, WEBGL)
    yield Ohif(browser)
    browser.close()


# ---- without a browser: what it is given ----


def test_query_is_forwarded_to_the_pacs(ct: CtStudy, server: RunningServer) -> None:
    def patients(query: str) -> list[str]:
        found = requests.get(f"{server.url}/proxy/dicom/qido/studies?{query}", timeout=60).json()
        return [study["00100020"]["Value"][0] for study in found]

    assert patients("00100020=ct1") == ["ct1"]  # OHIF's question for other studies of the patient
    assert len(patients("limit=2&offset=0")) == 2
    assert patients("PatientID=nobody") == []
    assert len(patients("")) == SERIES


def test_headers_and_errors_of_the_pacs_are_forwarded(ct: CtStudy, server: RunningServer) -> None:
    case = ct.cases[0]
    series = f"{server.url}/proxy/dicom/wado/studies/{ct.studies[case]}/series/{case}"
    images = requests.get(series, headers={"Accept": "multipart/related; type=application/dicom"}, timeout=60)
    assert images.headers["content-type"].startswith("multipart/related") and images.content.count(b"DICM") >= SHAPE[0]
    metadata = requests.get(f"{series}/metadata", headers={"Accept": "application/dicom+json"}, timeout=60)
    assert len(metadata.json()) == SHAPE[0]
    assert requests.get(f"{series}/instances/1.2.3/metadata", timeout=60).status_code == 404
    assert requests.get(f"{server.url}/proxy/dicom/wado/../../system", timeout=60).status_code in (400, 404)
    refused = requests.post(f"{server.url}/proxy/dicom/wado/studies", data=b"no DICOM", timeout=60)
    assert 400 <= refused.status_code < 500 and refused.status_code != 404


def test_files_of_ohif_are_served(server: RunningServer) -> None:
    icon = requests.get(f"{server.url}/ohif/assets/favicon-32x32.png", timeout=60)
    assert icon.content[1:4] == b"PNG" and icon.headers["content-type"] == "image/png"
    script = requests.get(f"{server.url}/ohif/app-config.js", timeout=60)
    assert "javascript" in script.headers["content-type"] and "monaiLabel" in script.text
    page = requests.get(f"{server.url}/ohif/monai-label?StudyInstanceUIDs=1.2", timeout=60)
    assert "text/html" in page.headers["content-type"]
    assert requests.get(f"{server.url}/ohif/assets/none.png", timeout=60).status_code == 404
    for path in ("%2e%2e/ohif.py", "assets/%2e%2e/%2e%2e/%2e%2e/proxy.py", "%2fetc/passwd", "..%5cohif.py"):
        assert requests.get(f"{server.url}/ohif/{path}", timeout=60).status_code == 404


# ---- with one ----


def test_clicks_with_sam_segment_structures(ct: CtStudy, server: RunningServer, ohif: Ohif) -> None:
    case = ct.cases[LABELLED]
    ohif.open_list([f"ct{seed}" for seed in range(SERIES)])
    ohif.open_study(ct.studies[case])
    # Of this patient, not of all.
    assert ohif.browser.text("[data-cy=studyBrowser-panel]").count("01-Jan-2026") == 1
    assert ohif.run("return document.querySelector('#monailabelServerURL').value") == f"{server.url}/"
    ohif.connect()
    assert ohif.segments() == {1: "liver", 2: "spleen"}
    assert not any(ohif.labelmap())
    gray = ohif.drawn()[1]

    ohif.choose("Point Prompts", "sam")
    for structure, name in enumerate(ct.task.names):
        ohif.choose_structure(name)
        middle = np.argwhere(ct.truth[case][structure, SHAPE[0] // 2]).mean(axis=0)
        slice = ohif.click_voxel(round(middle[1]), round(middle[0]))
        ohif.run_model("button[title='Run PointPrompts']")
    labelmap = np.reshape(ohif.labelmap(), SHAPE)
    assert set(np.flatnonzero(labelmap.any(axis=(1, 2)))) == {slice}
    for index, truth in enumerate(ct.truth[case][:, slice], 1):
        assert dice(labelmap[slice] == index, truth) > 0.5
    assert ohif.drawn()[1] > gray + 500


def test_exported_segmentation_becomes_the_label(
    ct: CtStudy, server: RunningServer, ohif: Ohif, tmp_path: Path
) -> None:
    case = ct.cases[LABELLED]
    drawn = np.reshape(ohif.labelmap(), SHAPE)
    ohif.export()
    ohif.browser.until(lambda: server.client().info()["datastore"]["completed"] == 1, "the label")
    file = tmp_path / f"{case}.seg.nrrd"
    file.write_bytes(requests.get(f"{server.url}/datastore/label?label={case}&tag=final", timeout=60).content)
    grid = read_image(ct.files / case).grid
    assert (grid.to_file(read_masks(file, ct.task, grid)) == np.stack([drawn == 1, drawn == 2])).all()


def test_next_sample_and_update_model_work(ct: CtStudy, server: RunningServer, ohif: Ohif, tmp_path: Path) -> None:
    ohif.press(".tab-label", "Active Learning")
    study = ohif.next_sample()
    assert study in ct.studies.values() and study != ct.studies[ct.cases[LABELLED]]
    for case in ct.cases[:LABELLED]:
        if ct.studies[case] != study:
            file = tmp_path / f"{case}.seg.nrrd"
            grid = read_image(ct.files / case).grid
            write_masks(file, grid.from_file(ct.truth[case]), ct.task, grid)
            server.client().save_label(case, str(file), params={})
    ohif.connect()
    ohif.press(".tab-label", "Active Learning")
    running = f"{server.url}/train/?check_if_running=true"
    ohif.press_until("button", "Update Model", lambda: requests.get(running, timeout=60).ok, "the training")
    ohif.browser.until(lambda: "student+sam" in server.client().info()["models"], "a student", 480)


def test_masks_of_the_student_are_displayed(ct: CtStudy, server: RunningServer, ohif: Ohif, tmp_path: Path) -> None:
    study = ohif.browser.driver.current_url.split("=")[-1]
    case = next(case for case, uid in ct.studies.items() if uid == study)
    answer = requests.post(f"{server.url}/infer/student+sam?image={case}&output=image", timeout=120)
    file = tmp_path / "answer.seg.nrrd"
    file.write_bytes(answer.content)
    grid = read_image(ct.files / case).grid
    masks = grid.to_file(read_masks(file, ct.task, grid))
    assert dice(masks[0], ct.truth[case][0]) > 0.5
    ohif.open_study(study)
    ohif.connect()
    gray = ohif.drawn()[1]
    ohif.choose("Auto-Segmentation", "student+sam")
    ohif.run_model(".tab-content button", "Run")
    labelmap = np.reshape(ohif.labelmap(), SHAPE)
    assert (np.stack([labelmap == 1, labelmap == 2]) == masks).all()
    ohif.browser.until(lambda: ohif.drawn()[1] > gray + 500, "the overlay")
