"""Real server on a real PACS: an annotator's work over DICOMweb, and an interrupted connection.

The tests share one server and one Orthanc and run in order.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import highdicom
import numpy as np
import pydicom
import pytest
import requests
from dicomweb_client import DICOMwebClient

from samstudent.imaging.case import read_image
from samstudent.imaging.dicom_seg_write import SegDescription, write_seg
from samstudent.imaging.labels import read_masks
from support.browser import Browser
from support.fake_pacs import Answer, FakePacs, say, silent
from support.film_study import FILMS, FilmStudy
from support.live_server import RunningServer, detail, wait_until
from support.needed import require_browser

pytestmark = pytest.mark.server

CLICK = {"label": "lunate", "foreground": [[31, 26, 0]], "background": [], "slice": 0}


def get(server: RunningServer, path: str) -> Any:
    response = requests.get(f"{server.url}/{path}", timeout=60)
    assert response.ok, response.text
    return response.json()


def put_label(server: RunningServer, case: str, path: Path, **params: Any) -> requests.Response:
    with path.open("rb") as file:
        return requests.put(
            f"{server.url}/datastore/label?image={case}",
            data={"params": json.dumps({"client_id": "annotator", **params})},
            files={"label": (path.name, file)},
            timeout=60,
        )


def segs_of(films: FilmStudy, case: str) -> list[Any]:
    """SEGs of a case in the PACS, oldest first, read by highdicom."""
    client = DICOMwebClient(films.orthanc.url)
    found = []
    for item in client.search_for_series(search_filters={"Modality": "SEG"}):
        for seg in client.retrieve_series(item["0020000D"]["Value"][0], item["0020000E"]["Value"][0]):
            if seg.ReferencedSeriesSequence[0].SeriesInstanceUID == case:
                found.append(highdicom.seg.Segmentation.from_dataset(seg))
    return sorted(found, key=lambda seg: (seg.InstanceCreationDate, seg.InstanceCreationTime))


def masks_of(films: FilmStudy, seg: Any, case: str) -> np.ndarray:
    """(S, y, x) by highdicom's own reader, in the order of the task."""
    uid = pydicom.dcmread(films.image(case)).SOPInstanceUID
    pixels = seg.get_pixels_by_source_instance(
        source_sop_instance_uids=[uid], ignore_spatial_locations=True, assert_missing_frames_are_empty=True
    )[0]
    labels = [item.SegmentLabel for item in seg.SegmentSequence]
    return np.stack([pixels[..., labels.index(name)].astype(bool) for name in films.task.names])


def stored_seg(server: RunningServer, films: FilmStudy, case: str) -> Any:
    """SEG of the active label, once it is stored in the PACS."""

    def there() -> Any:
        pacs = label_info(server, case)["pacs"]
        return pacs if pacs["state"] == "stored" else None

    instance = wait_until(there)["SOPInstanceUID"]
    return next(seg for seg in segs_of(films, case) if seg.SOPInstanceUID == instance)


def wait_for_polls(server: RunningServer) -> None:
    """Wait until the server has polled the PACS from now on, at least once from start to end."""
    polled: list[float] = []

    def twice() -> bool:
        found = float(get(server, "samstudent/pacs")["polled"])
        if found not in polled:
            polled.append(found)
        return len(polled) > 2

    wait_until(twice)


def label_info(server: RunningServer, case: str, tag: str = "final") -> dict[str, Any]:
    return dict(get(server, f"datastore/label/info?label={case}&tag={tag}"))


# ---- the list ----


def test_radiographs_of_the_pacs_are_cases(film_server: RunningServer, films: FilmStudy) -> None:
    info = film_server.client().info()
    assert (info["datastore"]["total"], info["datastore"]["completed"]) == (FILMS, 0)
    assert set(get(film_server, "datastore/?output=all")["objects"]) == set(films.cases)
    status = get(film_server, "samstudent/pacs")
    assert (status["state"], status["cases"], status["waiting"]) == ("connected", FILMS, [])


def test_new_radiograph_is_listed_within_seconds(film_server: RunningServer, films: FilmStudy) -> None:
    case = films.add_film(100)
    wait_until(lambda: case in get(film_server, "datastore/?output=all")["objects"])


def test_next_sample_has_the_fields_for_ohif_and_slicer(film_server: RunningServer, films: FilmStudy) -> None:
    sample = film_server.client().next_sample("random", {})
    image = pydicom.dcmread(films.image(sample["id"]))
    assert sample["Modality"] == "DX" and sample["StudyDate"] == "20260101" and sample["StudyTime"] == "120000"
    assert sample["PatientID"] == image.PatientID
    assert sample["StudyInstanceUID"] == image.StudyInstanceUID
    assert sample["SeriesInstanceUID"] == image.SeriesInstanceUID == sample["id"]
    study, series = sample["StudyInstanceUID"], sample["SeriesInstanceUID"]
    assert sample["RetrieveURL"] == f"{films.orthanc.url}/studies/{study}/series/{series}"
    assert sample["name"] == f"{sample['id']}.dcm"
    assert (read_image(sample["path"]).pixels == read_image(films.image(sample["id"])).pixels).all()
    fetched = requests.get(f"{film_server.url}/datastore/image?image={sample['id']}", timeout=60)
    assert fetched.content[128:132] == b"DICM"


# ---- labels to the PACS ----


def test_label_is_stored_completely_in_the_pacs(film_server: RunningServer, films: FilmStudy, tmp_path: Path) -> None:
    case = films.cases[0]
    truth = films.truth[case]
    assert (truth[0] & truth[2]).any()  # the bones share pixels
    answer = put_label(film_server, case, films.label(case, tmp_path)).json()
    assert answer["pacs"]["state"] in ("stored", "waiting")  # it waits three seconds, not for ever
    seg = stored_seg(film_server, films, case)
    assert len(segs_of(films, case)) == 1
    assert (masks_of(films, seg, case) == truth).all()
    image = pydicom.dcmread(films.image(case))
    assert (seg.PatientID, seg.StudyInstanceUID) == (image.PatientID, image.StudyInstanceUID)
    assert str(seg.ContentCreatorName) == "annotator^"
    radius, ulna, _ = seg.SegmentSequence
    code = radius.SegmentedPropertyTypeCodeSequence[0]
    assert (code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning) == ("62413002", "SCT", "Radius")
    assert ulna.SegmentedPropertyTypeCodeSequence[0].CodingSchemeDesignator == "99SAMSTUDENT"
    assert radius.RecommendedDisplayCIELabValue != ulna.RecommendedDisplayCIELabValue
    assert radius.SegmentAlgorithmType == "MANUAL"


def test_absent_structure_is_an_empty_segment(film_server: RunningServer, films: FilmStudy, tmp_path: Path) -> None:
    case = films.cases[1]
    masks = films.truth[case].copy()
    masks[1] = False
    assert put_label(film_server, case, films.label(case, tmp_path, masks)).ok
    seg = stored_seg(film_server, films, case)
    assert len(seg.SegmentSequence) == 3
    assert (masks_of(films, seg, case) == masks).all()


def test_label_made_with_sam_has_its_provenance(film_server: RunningServer, films: FilmStudy, tmp_path: Path) -> None:
    case = films.cases[2]
    response = requests.post(
        f"{film_server.url}/infer/sam?image={case}&output=json", data={"params": json.dumps(CLICK)}, timeout=120
    )
    assert response.ok
    assert put_label(film_server, case, films.label(case, tmp_path)).ok
    seg = stored_seg(film_server, films, case)
    segment = seg.SegmentSequence[0]
    assert (segment.SegmentAlgorithmType, segment.SegmentAlgorithmName) == ("SEMIAUTOMATIC", "sam")


def test_output_dicom_seg_is_a_segmentation(film_server: RunningServer, films: FilmStudy, tmp_path: Path) -> None:
    case = films.cases[3]
    response = requests.post(
        f"{film_server.url}/infer/sam?image={case}&output=dicom_seg", data={"params": json.dumps(CLICK)}, timeout=120
    )
    assert response.ok, response.text
    assert response.headers["content-type"] == "application/dicom"
    (tmp_path / "seg.dcm").write_bytes(response.content)
    seg = highdicom.seg.segread(tmp_path / "seg.dcm")
    assert [item.SegmentLabel for item in seg.SegmentSequence] == ["lunate"]
    drawn, truth = seg.pixel_array.astype(bool), films.truth[case][2]
    assert 2 * (drawn & truth).sum() / (drawn.sum() + truth.sum()) > 0.7


# ---- labels from the PACS ----


def viewers_seg(films: FilmStudy, case: str, masks: np.ndarray, folder: Path, **changes: Any) -> pydicom.Dataset:
    """SEG as stored by a viewer: other names and order of segments."""
    path = folder / "viewer.dcm"
    grid = read_image(films.image(case)).grid
    write_seg(
        path, masks, films.task, grid, films.image(case), SegDescription("Segmentation", "MANUAL", creator="viewer")
    )
    seg = pydicom.dcmread(path)
    seg.Manufacturer = "a viewer"
    for segment, label in zip(seg.SegmentSequence, ("Radius", "ULNA", "lunate"), strict=True):
        segment.SegmentLabel = label
        for keyword, value in changes.items():
            setattr(segment, keyword, value)
    return seg


def test_segmentation_stored_by_a_viewer_becomes_a_label(
    film_server: RunningServer, films: FilmStudy, tmp_path: Path
) -> None:
    case = films.cases[4]
    seg = viewers_seg(films, case, films.truth[case], tmp_path)
    films.orthanc.store([seg])
    wait_until(lambda: film_server.client().info()["datastore"]["completed"] == 4)
    info = label_info(film_server, case)
    assert (info["source"], info["user"], info["SOPInstanceUID"]) == ("PACS", "viewer", seg.SOPInstanceUID)
    assert info["pacs"]["state"] == "stored"
    wait_for_polls(film_server)  # it is not sent back
    assert len(segs_of(films, case)) == 1


def test_correction_by_a_viewer_replaces_the_label(
    film_server: RunningServer, films: FilmStudy, tmp_path: Path
) -> None:
    case = films.cases[0]
    before = label_info(film_server, case)["sha256"]
    corrected = np.roll(films.truth[case], 2, axis=1)
    films.orthanc.store([viewers_seg(films, case, corrected, tmp_path)])
    wait_until(lambda: label_info(film_server, case)["sha256"] != before)
    history = list((film_server.log.parent / "app").rglob(f"labels/.history/final/{case}/*.seg.nrrd"))
    assert [before[:12] in path.name for path in history] == [True]


def test_segmentation_of_a_program_is_not_a_label(film_server: RunningServer, films: FilmStudy, tmp_path: Path) -> None:
    case = films.add_film(200)
    wait_until(lambda: case in get(film_server, "datastore/?output=all")["objects"])
    seg = viewers_seg(films, case, films.truth[case], tmp_path, SegmentAlgorithmType="AUTOMATIC")
    films.orthanc.store([seg])
    wait_for_polls(film_server)
    assert not get(film_server, "datastore/?output=all")["objects"][case]["labels"]


# ---- a round ----


def test_round_stores_pseudo_labels_for_the_pacs(film_server: RunningServer, films: FilmStudy) -> None:
    client = film_server.client()
    client.train_start("student", {"pseudo_labels": "off"})
    assert film_server.wait_for("train")["status"] == "DONE"
    assert {"student", "student+sam"} <= set(client.info()["models"])
    labelled = client.info()["datastore"]["completed"]
    response = requests.post(f"{film_server.url}/batch/infer/student+sam?images=unlabeled", json={}, timeout=60)
    assert response.ok
    assert film_server.wait_for("batch/infer")["status"] == "DONE"

    def predictions() -> list[Any]:
        cases = [
            case
            for case, entry in get(film_server, "datastore/?output=all")["objects"].items()
            if case in films.cases and "final" not in entry["labels"]
        ]
        found = [seg for case in cases for seg in segs_of(films, case)]
        return [seg for seg in found if seg.ContentLabel == "PREDICTION"]

    segs = wait_until(predictions)
    champion = get(film_server, "samstudent/rounds")["rounds"][-1]
    for segment in segs[0].SegmentSequence:
        assert segment.SegmentAlgorithmType == "AUTOMATIC"
        parameters = segment.SegmentationAlgorithmIdentificationSequence[0].AlgorithmParameters
        assert f"student={champion['model_digest']}" in parameters
        assert "sam_digest=" in parameters and "quality=" in parameters
        assert segment.SegmentDescription.startswith("quality ")
    wait_for_polls(film_server)
    assert client.info()["datastore"]["completed"] == labelled  # none of them came back as a human's


def test_radiograph_can_be_accepted_on_the_review_page(
    film_server: RunningServer, films: FilmStudy, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """OHIF cannot open radiographs; the review page can, and an accepted label is sent to the PACS."""
    require_browser()
    case = get(film_server, "samstudent/review")["cases"][0]["case"]
    browser = Browser(tmp_path_factory.mktemp("profile"), film_server.url)
    try:
        browser.open("samstudent#review")
        browser.shows(case)
        assert sum(browser.drawn()) > 0
        browser.press("A")
        wait_until(lambda: case not in [c["case"] for c in get(film_server, "samstudent/review")["cases"]])
        assert browser.console() == []
    finally:
        browser.close()
    seg = stored_seg(film_server, films, case)
    assert seg.ContentLabel == "LABEL"
    file = tmp_path_factory.mktemp("accepted") / "label.seg.nrrd"
    file.write_bytes(requests.get(f"{film_server.url}/datastore/label?label={case}&tag=final", timeout=60).content)
    accepted = read_masks(file, films.task, read_image(films.image(case)).grid)
    assert accepted.any() and (masks_of(films, seg, case) == accepted).all()


# ---- the PACS goes away ----


def forget_image(server: RunningServer, case: str) -> None:
    """Remove the cached image, which scoring may have fetched."""
    for folder in (server.log.parent / "app" / "model").glob(f"*/images/{case}"):
        shutil.rmtree(folder)


def test_unreachable_pacs_does_not_block_the_server(
    film_server: RunningServer, films: FilmStudy, tmp_path: Path
) -> None:
    """An acknowledged label is not lost, the client is informed, other requests succeed, and the server recovers."""
    last = films.add_film(300)
    wait_until(lambda: last in get(film_server, "datastore/?output=all")["objects"])
    case = films.cases[1]
    assert requests.get(f"{film_server.url}/datastore/image?image={case}", timeout=60).ok  # now it is on this disk
    films.orthanc.kill()
    answer = put_label(film_server, case, films.label(case, tmp_path))
    assert answer.status_code == 200
    assert answer.json()["pacs"]["state"] == "waiting"
    wait_until(lambda: "no response" in label_info(film_server, case)["pacs"]["reason"])
    forget_image(film_server, last)
    # An image that is not on this disk: 503 with the reason; one that is: as ever.
    image = requests.get(f"{film_server.url}/datastore/image?image={last}", timeout=60)
    assert image.status_code == 503
    assert "PACS" in detail(image) and films.orthanc.url in detail(image)
    infer = requests.post(f"{film_server.url}/infer/sam?image={last}", data={"params": json.dumps(CLICK)}, timeout=60)
    assert infer.status_code == 503
    infer = requests.post(f"{film_server.url}/infer/sam?image={case}", data={"params": json.dumps(CLICK)}, timeout=60)
    assert infer.ok
    # A label of a case whose image is not here is taken, too.
    unchecked = put_label(film_server, last, films.label(last, tmp_path))
    assert unchecked.status_code == 200
    status = get(film_server, "samstudent/pacs")
    assert status["state"] == "away" and "no response" in status["reason"]
    assert {(label["case"], label["tag"]) for label in status["waiting"]} == {(case, "final"), (last, "final")}
    assert film_server.client().info()["datastore"]["total"] == len(films.cases)  # nothing has gone from the list

    films.orthanc.start()
    wait_until(lambda: get(film_server, "samstudent/pacs")["waiting"] == [], 60)
    assert get(film_server, "samstudent/pacs")["state"] == "connected"
    assert (masks_of(films, segs_of(films, case)[-1], case) == films.truth[case]).all()
    assert (masks_of(films, segs_of(films, last)[-1], last) == films.truth[last]).all()


@pytest.mark.parametrize("answer", [say(200, b"<html>Log in</html>", "text/html"), silent], ids=["html", "silence"])
def test_invalid_responses_of_the_pacs_are_reported(
    film_server: RunningServer, films: FilmStudy, tmp_path: Path, answer: Answer
) -> None:
    last = films.add_film(400 + (answer is silent))
    wait_until(lambda: last in get(film_server, "datastore/?output=all")["objects"])
    films.orthanc.kill()
    fake = FakePacs(films.orthanc.port)
    forget_image(film_server, last)
    try:
        fake.answer = answer
        image = requests.get(f"{film_server.url}/datastore/image?image={last}", timeout=60)
        assert image.status_code == 503 and films.orthanc.url in detail(image)
        case = films.cases[1]
        assert put_label(film_server, case, films.label(case, tmp_path)).json()["pacs"]["state"] == "waiting"
        assert film_server.client().info()["datastore"]["total"] == len(films.cases)
    finally:
        fake.close()
    films.orthanc.start()
    wait_until(lambda: get(film_server, "samstudent/pacs")["waiting"] == [], 60)
    assert requests.get(f"{film_server.url}/datastore/image?image={last}", timeout=60).ok


def test_waiting_labels_survive_a_restart(film_server: RunningServer, films: FilmStudy, tmp_path: Path) -> None:
    """Both are killed, the PACS first. Last of this file: the server is stopped."""
    case = films.cases[3]

    def labels() -> int:
        return sum(seg.ContentLabel == "LABEL" for seg in segs_of(films, case))

    before = labels()
    films.orthanc.kill()
    assert put_label(film_server, case, films.label(case, tmp_path)).status_code == 200
    film_server.process.kill()
    film_server.stop()
    films.orthanc.start()
    assert labels() == before
    film_server.start_again()
    film_server.wait_until_up()
    wait_until(lambda: labels() == before + 1, 60)
