"""Real server as a process, with MONAI Label's own client, as in 3D Slicer's module.

The tests of this file share one server and run in order: an annotator's day, from an empty study to pseudo labels.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nrrd
import numpy as np
import pytest
import requests
from monailabel.client import MONAILabelClient
from monailabel.client.client import MONAILabelClientException
from PIL import Image

import samstudent
from samstudent.imaging.case import read_image
from samstudent.imaging.labels import read_masks
from support.live_server import CASES, RunningServer, TinyStudy, detail, wait_until

pytestmark = pytest.mark.server

#: A click on the lunate of every film.
CLICK = {"label": "lunate", "foreground": [[31, 26, 0]], "background": [], "slice": 0}


def post(server: RunningServer, path: str, **arguments: Any) -> requests.Response:
    return requests.post(f"{server.url}/{path}", timeout=120, **arguments)


def infer(server: RunningServer, output: str, params: dict[str, Any], model: str = "sam") -> requests.Response:
    return post(server, f"infer/{model}?image={CASES[0]}&output={output}", data={"params": json.dumps(params)})


def dice(a: np.ndarray, b: np.ndarray) -> float:
    return float(2 * (a & b).sum() / (a.sum() + b.sum()))


# ---- a study without labels ----


def test_info_has_the_fields_for_clients(client: MONAILabelClient) -> None:
    info = client.info()
    assert "config" not in info  # with it Slicer says "please upgrade"
    assert info["name"] == "samstudent - tiny"
    assert isinstance(info["labels"], list)  # OHIF pushes to it
    assert set(info["labels"]) == {"radius", "ulna", "lunate"}
    assert info["models"]["sam"]["type"] == "deepgrow"
    assert info["models"]["sam"]["dimension"] == 2
    assert set(info["trainers"]) == {"student", "sam"}
    assert {"random", "uniform", "entropy", "disagreement", "diversity", "mixed"} <= set(info["strategies"])
    assert {"diversity", "uncertainty"} <= set(info["scoring"])
    assert (info["datastore"]["total"], info["datastore"]["completed"]) == (len(CASES), 0)


def test_student_without_weights_is_not_listed(client: MONAILabelClient, server: RunningServer) -> None:
    assert set(client.info()["models"]) == {"sam"}
    response = infer(server, "json", {}, model="student")
    assert response.status_code == 404
    assert "student" in detail(response)


def test_click_with_the_client_returns_a_mask(client: MONAILabelClient, study: TinyStudy) -> None:
    file, result = client.infer("sam", CASES[0], CLICK)
    drawn = np.asarray(Image.open(file))
    assert drawn.shape == (64, 64)
    assert dice(drawn == 3, study.truth[CASES[0]][2]) > 0.7
    assert result["label_names"] == {"radius": 1, "ulna": 2, "lunate": 3}
    assert result["structures"][0]["predicted_iou"] > 0.5


def test_output_image_is_nrrd_for_ohif(server: RunningServer) -> None:
    form = {"result_extension": ".nrrd", "result_dtype": "uint8", "result_compress": False, "restore_label_idx": False}
    response = infer(server, "image", CLICK | form)
    assert response.ok
    header, values = read_nrrd(response.content)
    assert header["encoding"] == "raw"
    assert values.shape == (1, 64, 64)
    assert set(np.unique(values)) == {0, 3}


def test_output_json_has_the_structures(server: RunningServer) -> None:
    response = infer(server, "json", CLICK)
    assert response.headers["content-type"].startswith("application/json")
    assert response.json()["structures"][0]["name"] == "lunate"


def test_output_all_has_both_parts(server: RunningServer) -> None:
    response = infer(server, "all", CLICK)
    assert response.headers["content-type"].startswith("multipart/form-data")
    assert b'name="params"' in response.content and b'name="image"' in response.content


def test_output_dicom_seg_is_refused_for_a_folder(server: RunningServer) -> None:
    response = infer(server, "dicom_seg", CLICK)
    assert response.status_code == 400
    assert "DICOMweb" in detail(response)


def test_result_files_are_removed(server: RunningServer) -> None:
    assert infer(server, "image", CLICK).ok
    wait_until(lambda: not list(server.temporary.glob("*.png")))


def test_uploaded_image_is_used_for_inference(client: MONAILabelClient, tmp_path: Path) -> None:
    Image.fromarray(np.zeros((40, 50), dtype=np.uint8)).save(tmp_path / "mine.png")
    file, _ = client.infer("sam", "", {"label": "ulna", "roi": [9, 30, 9, 30, 0, 0]}, file=str(tmp_path / "mine.png"))
    assert Image.open(file).size == (50, 40)


def test_session_is_used_for_inference(client: MONAILabelClient, study: TinyStudy) -> None:
    session = client.create_session(str(study.image(CASES[1])))["session_id"]
    assert Path(client.get_session(session)["image"]).name
    file, _ = client.infer("sam", "", dict(CLICK), session_id=session)
    uploaded = np.asarray(Image.open(file))
    file, _ = client.infer("sam", CASES[1], dict(CLICK))
    assert uploaded.any() and (uploaded == np.asarray(Image.open(file))).all()
    client.remove_session(session)
    with pytest.raises(MONAILabelClientException) as error:
        client.get_session(session)
    assert error.value.status_code == 404
    with pytest.raises(MONAILabelClientException, match="no such session"):
        client.infer("sam", "", dict(CLICK), session_id=session)


def test_next_samples_differ_between_clients(server: RunningServer, study: TinyStudy) -> None:
    first = server.client("alice").next_sample("random", {})
    second = server.client("bob").next_sample("random", {})
    assert {first["id"], second["id"]} <= set(CASES)
    assert first["id"] != second["id"]
    assert Path(first["path"]) == study.image(first["id"])


@pytest.mark.parametrize("strategy", ["uniform", "entropy", "disagreement", "diversity", "mixed"])
def test_every_strategy_selects_a_case_without_labels(server: RunningServer, strategy: str) -> None:
    assert server.client(strategy).next_sample(strategy, {})["id"] in CASES


def test_scoring(server: RunningServer) -> None:
    """The server starts all methods at its start; then one by a request."""
    wait_until(lambda: requests.get(f"{server.url}/scoring/", timeout=30).ok)
    server.wait_for("scoring")
    assert post(server, "scoring/uncertainty", json={}).ok
    assert server.wait_for("scoring")["status"] == "DONE"
    jobs = requests.get(f"{server.url}/scoring/?all=true", timeout=30).json()
    assert {job["request"]["method"] for job in jobs} == {"diversity", "uncertainty"}
    assert {job["status"] for job in jobs} == {"DONE"}


def test_logs(server: RunningServer) -> None:
    response = requests.get(f"{server.url}/logs/?lines=50&text=true", timeout=30)
    assert response.ok and response.text.strip()


@pytest.mark.parametrize(
    "query", ["", "?lines=220823216873378669186252800&html=true&refresh=-727", "?lines=0", "?lines=-5"]
)
def test_logs_are_plain_text_for_any_options(server: RunningServer, query: str) -> None:
    response = requests.get(f"{server.url}/logs/{query}", timeout=30)
    assert response.ok, response.text
    assert response.headers["content-type"].startswith("text/plain") and "<script" not in response.text


@pytest.mark.parametrize(
    ("path", "arguments", "status", "reason"),
    [
        ("infer/nosuch?image=case00", {"data": {"params": "{}"}}, 404, "sam"),
        ("infer/sam?image=nosuch", {"data": {"params": "{}"}}, 404, "nosuch"),
        ("infer/sam?image=../tiny.yaml", {"data": {"params": "{}"}}, 400, "image id"),
        ("infer/sam?image=/etc/passwd", {"data": {"params": "{}"}}, 400, "image id"),
        ("infer/sam", {"data": {"params": "{}"}}, 400, "image"),
        ("infer/sam?image=case00", {"data": {"params": "{"}}, 400, "JSON"),
        ("infer/sam?image=case00", {"data": {"params": "[]"}}, 400, "JSON object"),
        ("infer/sam?image=case00", {"data": {"params": "{}"}}, 400, "no points"),
        ("infer/sam?image=case00", {"data": {"params": '{"background": [[1, 1, 0]]}'}}, 400, "only background"),
        ("infer/sam?image=case00", {"data": {"params": '{"foreground": [[99, 1, 0]]}'}}, 400, "outside of the image"),
        ("infer/sam?image=case00", {"data": {"params": '{"foreground": "x"}'}}, 400, "foreground"),
        ("infer/sam?image=case00", {"data": {"params": '{"image": "/etc/passwd"}'}}, 400, "image"),
        ("infer/sam?image=case00&session_id=0-0", {"data": {"params": "{}"}}, 404, "session"),
        ("infer/sam?image=case00&output=film", {"data": {"params": "{}"}}, 422, "output"),
        ("activelearning/nosuch", {"json": {}}, 404, "random"),
        ("activelearning/random", {"data": "{", "headers": {"content-type": "application/json"}}, 400, "JSON"),
        ("train/nosuch", {"json": {}}, 404, "student"),
        ("train/student", {"json": {"name": "../../x"}}, 400, "name"),
        ("train/student", {"json": {"train_ds": "/etc/passwd"}}, 400, "train_ds"),
        ("scoring/nosuch", {"json": {}}, 404, "uncertainty"),
        ("batch/infer/nosuch", {"json": {}}, 404, "sam"),
        ("batch/infer/student", {"json": {}}, 404, "student"),
        ("train/student", {"json": {}}, 409, "nothing to train on"),
        ("train/sam", {"json": {}}, 409, "3 labelled cases"),
        ("train/student", {"json": {"steps": 0}}, 400, "steps"),
        ("samstudent/rounds/r0007/promote", {}, 404, "r0007"),
        ("samstudent/rollback", {}, 409, ""),
    ],
)
def test_invalid_requests_have_a_reason(
    server: RunningServer, path: str, arguments: dict[str, Any], status: int, reason: str
) -> None:
    response = post(server, path, **arguments)
    assert (response.status_code, reason in detail(response)) == (status, True), response.text


# ---- labels ----


def test_saved_labels_are_listed(
    client: MONAILabelClient, server: RunningServer, study: TinyStudy, tmp_path: Path
) -> None:
    for case in CASES[:6]:
        client.save_label(case, str(study.label(case, tmp_path)), params={"comment": "checked"})
    assert client.info()["datastore"]["completed"] == 6
    labels = client.datastore()["objects"][CASES[0]]["labels"]
    assert labels["final"]["info"]["comment"] == "checked"
    saved = Path(client.download_label(CASES[0], "final"))
    grid = read_image(study.image(CASES[0])).grid
    assert (read_masks(saved, study.task, grid) == study.truth[CASES[0]]).all()


def test_label_map_of_slicer_is_read_by_its_names(client: MONAILabelClient, study: TinyStudy, tmp_path: Path) -> None:
    """Slicer numbers segments in their order in the scene, here lunate first."""
    truth = study.truth[CASES[6]]
    values = np.zeros((1, 64, 64), dtype=np.uint8)
    values[0][truth[0]] = 2
    values[0][truth[2]] = 1
    nrrd.write(str(tmp_path / "label.nrrd"), values, index_order="C")
    info = {"label_info": [{"name": "lunate", "idx": 1}, {"name": "radius", "idx": 2}]}
    client.save_label(CASES[6], str(tmp_path / "label.nrrd"), params=info)
    assert client.info()["datastore"]["completed"] == 7


def test_label_of_unknown_structures_is_refused(
    client: MONAILabelClient, server: RunningServer, tmp_path: Path
) -> None:
    nrrd.write(str(tmp_path / "label.nrrd"), np.full((1, 64, 64), 9, dtype=np.uint8), index_order="C")
    with pytest.raises(MONAILabelClientException, match="Status: 400") as error:
        client.save_label(CASES[7], str(tmp_path / "label.nrrd"))
    assert "9" in error.value.msg
    assert client.info()["datastore"]["completed"] == 7


def test_labelled_cases_are_not_selected_again(server: RunningServer) -> None:
    client = server.client("carol")
    asked = client.next_sample("random", {}).get("id")
    assert asked is None or asked in CASES[7:]


# ---- training ----


def test_training_makes_a_listed_student(client: MONAILabelClient, server: RunningServer) -> None:
    job = client.train_start("student", {"pseudo_labels": "off"})
    assert job["status"] in ("SUBMITTED", "RUNNING")
    wait_until(lambda: client.train_status(check_if_running=True))
    busy = post(server, "train/student", json={})
    assert busy.status_code == 429
    assert server.wait_for("train")["status"] == "DONE", server.tail()
    assert {"sam", "student", "student+sam"} <= set(client.info()["models"])
    rounds = requests.get(f"{server.url}/samstudent/rounds", timeout=30).json()
    assert rounds["champion"] == "r0001"
    assert rounds["rounds"][0]["status"] == "done"
    one = requests.get(f"{server.url}/samstudent/rounds/r0001", timeout=30).json()
    assert one["id"] == "r0001" and one["inputs"]["task"]["name"] == "tiny" and one["scores"]["challenger"]
    assert requests.get(f"{server.url}/samstudent/rounds/r0009", timeout=30).status_code == 404


@pytest.mark.parametrize("model", ["student", "student+sam"])
def test_masks_of_the_student_are_on_the_grid_of_the_image_and_those_of_python(
    client: MONAILabelClient, study: TinyStudy, model: str
) -> None:
    file, result = client.infer(model, CASES[8], {"result_extension": ".seg.nrrd"})
    masks = read_masks(file, study.task, read_image(study.image(CASES[8])).grid)
    assert masks.shape == (3, 64, 64)
    json.dumps(result)
    opened = samstudent.open_study(study.folder, study.task_file)
    found = opened.predict(study.image(CASES[8]), refine=model == "student+sam")
    np.testing.assert_array_equal(found.masks, masks)


def test_training_can_be_stopped(client: MONAILabelClient, server: RunningServer) -> None:
    client.train_start("student", {"steps": 100_000, "pseudo_labels": "off"})
    wait_until(lambda: client.train_status(check_if_running=True))
    client.train_stop()
    assert server.wait_for("train")["status"] in ("STOPPED", "ERROR")
    wait_until(lambda: "train" not in server.jobs())
    assert "student" in client.info()["models"]
    assert requests.get(f"{server.url}/samstudent/rounds", timeout=30).json()["champion"] == "r0001"


def test_the_active_sam_is_reported(server: RunningServer) -> None:
    reported = requests.get(f"{server.url}/samstudent/sam", timeout=30).json()
    assert (reported["backend"], reported["active"], reported["adapted"]) == ("lite_medsam", None, [])
    assert len(reported["digest"]) == 64
    assert post(server, "samstudent/sam/plain").json() == {"active": None}


def test_sam_is_adapted_and_the_result_reported(client: MONAILabelClient, server: RunningServer) -> None:
    """Two steps need not improve it: the running server uses the active one."""
    client.train_start("sam", {})
    assert server.wait_for("train", 400)["status"] == "DONE", server.tail()
    reported = requests.get(f"{server.url}/samstudent/sam", timeout=30).json()
    (adapted,) = reported["adapted"]
    found = adapted["adaptation"]
    assert found["settings"]["steps"] == 2 and len(adapted["labels"]) == len(found["labels"]) >= 3
    assert reported["active"] == ("s0001" if found["used"] else None)
    answer = infer(server, "json", CLICK).json()
    assert answer["structures"][0]["sam"] == reported["digest"]
    plain = infer(server, "json", CLICK | {"label": "fracture"}).json()["structures"][0]["sam"]
    assert (plain != reported["digest"]) == found["used"]
    post(server, "samstudent/sam/plain")
    assert infer(server, "json", CLICK).json()["structures"][0]["sam"] == plain


def test_round_fits_a_policy_and_trains(client: MONAILabelClient, server: RunningServer) -> None:
    client.train_start("student", {"pseudo_labels": "renew"})
    assert server.wait_for("train", 400)["status"] == "DONE", server.tail()
    record = requests.get(f"{server.url}/samstudent/rounds", timeout=30).json()["rounds"][-1]
    kept = requests.get(f"{server.url}/samstudent/rounds/{record['id']}", timeout=30).json()
    # The labels are those of the first round, and so are the students on parts of them: only the hold-out tells.
    assert kept["inputs"]["policy"] and kept["comparison"]["mean"]["cases"] == kept["comparison"]["held_out"]
    assert sorted(kept["scores"]["folds"]) == sorted(record["labels_used"])
    assert len(requests.get(f"{server.url}/samstudent/sam", timeout=30).json()["adapted"]) == 2


def test_schedule_is_reported(server: RunningServer) -> None:
    status = requests.get(f"{server.url}/samstudent/schedule", timeout=30)
    assert status.ok
    assert isinstance(status.json(), dict)


# ---- pseudo labels ----


def test_batch_inference_generates_pseudo_labels(
    client: MONAILabelClient, server: RunningServer, study: TinyStudy
) -> None:
    response = post(server, "batch/infer/student+sam?images=unlabeled")  # the body is the host's default
    assert response.ok, response.text
    assert server.wait_for("batch/infer")["status"] == "DONE", server.tail()
    made = {path.name.split(".")[0] for path in (study.folder / "labels" / "pseudo").iterdir()}
    assert made and made <= set(CASES[7:])
    # They are no human's work, and no viewer is offered them.
    assert client.info()["datastore"]["completed"] == 7
    assert not any("pseudo" in entry["labels"] for entry in client.datastore()["objects"].values())


def test_fully_labelled_study_has_no_next_sample(
    client: MONAILabelClient, server: RunningServer, study: TinyStudy, tmp_path: Path
) -> None:
    for case in CASES[7:]:
        client.save_label(case, str(study.label(case, tmp_path)))
    assert client.next_sample("random", {}) == {"reason": f"all {len(CASES)} cases are labelled"}


def read_nrrd(content: bytes) -> tuple[dict[str, Any], np.ndarray]:
    """Header and values (slowest axis first) of an NRRD file's bytes."""
    import io

    file = io.BytesIO(content)
    header = nrrd.read_header(file)
    return dict(header), nrrd.read_data(header, file, index_order="C")
