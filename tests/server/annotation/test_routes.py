"""Drawing of labels over HTTP: drafts, labels and conflicts, flags, live SAM, pixels, history."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient

from samstudent.imaging.annotations import read_label
from samstudent.imaging.case import for_sam, read_image
from samstudent.imaging.labels import read_masks
from samstudent.server import http
from samstudent.server.annotation.drawn_label import encoded
from samstudent.server.annotation.routes import slicer_colours
from samstudent.server.auth.roles import role_name, with_lower
from samstudent.server.review_page.pictures import Cropped
from samstudent.server.tasks.active_learning import SelectionStrategy
from support.drawn import FakeSam, dice, shapes, small_task
from support.http_server import RolesByToken
from support.review_bench import HEADER, Bench, volume_bench

PATH = "/samstudent/annotate"


def drawn_of(truth: np.ndarray, **changes: Any) -> dict[str, Any]:
    """Drawn label with all masks of a truth; ``changes`` of structures by name."""
    structures = {
        name: {"state": "drawn", **encoded(Cropped.of(mask))}
        for name, mask in zip(("disk", "square"), truth, strict=True)
    }
    for name, change in changes.items():
        structures[name] |= change
    return {"structures": structures, "seconds": 30, "actions": 4}


def put(sender: TestClient, case: str, part: str, label: dict[str, Any], base: str | None = None, **query: str) -> Any:
    files = {"label": ("label.json", json.dumps(label), "application/json")}
    headers = {} if base is None else {"If-Match": f'"{base}"'}
    return sender.put(f"{PATH}/{case}/{part}", files=files, params=query, headers=headers)


def final(bench: Bench, case: str) -> np.ndarray:
    path = bench.datastore.get_label_uri(case, "final")
    return read_masks(path, bench.study.task, read_image(bench.datastore.get_image_uri(case)).grid)


def test_cases_are_listed_with_their_state(bench: Bench) -> None:
    client = bench.client
    put(client, "low", "draft", drawn_of(bench.truths["low"]))
    client.put(f"{PATH}/test/flag", json={"reason": "blurred"})
    put(client, "plain", "label", drawn_of(bench.truths["plain"]), "none")
    listed = client.get(PATH).json()
    assert {item["case"]: item["state"] for item in listed["cases"]} == {
        "good": "unlabelled", "held": "unlabelled", "low": "draft", "middle": "unlabelled", "none": "unlabelled",
        "plain": "labelled", "test": "flagged",
    }  # fmt: skip
    assert listed["counts"] == {"unlabelled": 4, "draft": 1, "sent": 0, "labelled": 1, "flagged": 1}
    assert [i["case"] for i in client.get(PATH, params={"search": "L", "state": "labelled"}).json()["cases"]] == [
        "plain"
    ]
    assert client.get(PATH, params={"state": "lost"}).status_code == 400


def test_details_of_a_case(bench: Bench) -> None:
    found = bench.client.get(f"{PATH}/low").json()
    assert found["size"] == [64, 64] and found["label"] == {"digest": "none"} and found["draft"] is None
    assert found["structures"] == ["disk", "square"] and found["sources"] == ["student", "sam"]
    assert bench.client.get(f"{PATH}/plain").json()["sources"] == []  # no student, no pseudo label
    assert bench.client.get(f"{PATH}/nowhere").status_code == 404


def test_colours_of_slicer_are_found_by_name() -> None:
    assert slicer_colours(["Left_Lung", "disk"]) == {"Left_Lung": (197, 165, 145), "disk": None}


def test_pixels_are_those_of_the_file(bench: Bench) -> None:
    client = bench.client
    pixels = client.get(f"{PATH}/plain").json()["pixels"]
    sent = client.get(f"{PATH}/plain/pixels")
    assert pixels["bytes"] == 1 and not pixels["colour"] and sent.headers["content-encoding"] == "gzip"
    values = np.frombuffer(sent.content, np.uint8).reshape(64, 64)
    image = read_image(bench.datastore.get_image_uri("plain")).pixels[0]
    assert np.array_equal(values * pixels["scale"] + pixels["offset"], image)
    assert [w + pixels["offset"] for w in pixels["window"]] == [0, 255]
    again = client.get(f"{PATH}/plain/pixels", headers={"If-None-Match": sent.headers["etag"]})
    assert again.status_code == 304


def test_pixels_of_a_volume_come_by_plane(tmp_path: Path) -> None:
    bench = volume_bench(tmp_path)
    pixels = bench.client.get(f"{PATH}/v0").json()["pixels"]
    image = read_image(bench.datastore.get_image_uri("v0"), 3).pixels[0]
    sent = bench.client.get(f"{PATH}/v0/pixels", params={"axis": "y", "index": 5}).content
    plane = np.frombuffer(sent, "<u2").reshape(12, 32) * pixels["scale"] + pixels["offset"]
    assert np.abs(plane - image[:, 5]).max() <= pixels["scale"]
    assert bench.client.get(f"{PATH}/v0/pixels", params={"axis": "y", "index": 40}).status_code == 400


def test_draft_belongs_to_one_person(bench: Bench) -> None:
    client, label = bench.client, drawn_of(bench.truths["low"], square={"state": "open"})
    assert client.get(f"{PATH}/low/draft", params={"client": "anna"}).status_code == 404
    assert put(client, "low", "draft", label, client="anna").status_code == 200
    kept = client.get(f"{PATH}/low/draft", params={"client": "anna"}).json()
    assert kept["label"]["structures"]["disk"]["runs"] == label["structures"]["disk"]["runs"]
    assert client.get(f"{PATH}/low", params={"client": "anna"}).json()["draft"]["base"] == "none"
    assert client.get(f"{PATH}/low", params={"client": "ben"}).json()["draft"] is None
    assert client.delete(f"{PATH}/low/draft", params={"client": "anna"}).status_code == 200
    assert client.delete(f"{PATH}/low/draft", params={"client": "anna"}).status_code == 404
    assert (
        client.get(f"{PATH}/low%00/draft").status_code == client.delete(f"{PATH}/{'a' * 300}/draft").status_code == 404
    )
    assert not bench.datastore.get_labeled_images()


def test_label_is_saved_to_the_pixel_and_the_draft_removed(bench: Bench) -> None:
    client, label = bench.client, drawn_of(bench.truths["low"], disk={"start": "sam"}, square={"start": "sam"})
    put(client, "low", "draft", label)
    saved = put(client, "low", "label", label, "none")
    assert saved.status_code == 200, saved.text
    assert np.array_equal(final(bench, "low"), bench.truths["low"])
    info = bench.datastore.get_label_info("low", "final")
    assert info["annotation"]["seconds"] == 30 and info["annotation"]["start"] == "sam"
    assert client.get(f"{PATH}/low/draft").status_code == 404
    assert client.get(f"{PATH}/low").json()["label"]["digest"] == saved.json()["digest"]
    masks = client.get(f"{PATH}/low/label").json()["structures"]
    assert masks["disk"]["runs"] == label["structures"]["disk"]["runs"]


def test_structure_that_is_not_annotated_is_unknown_in_the_label(bench: Bench) -> None:
    label = drawn_of(bench.truths["low"], square={"state": "unknown", "box": None, "runs": []})
    assert put(bench.client, "low", "label", label, "none").status_code == 200
    grid = read_image(bench.datastore.get_image_uri("low")).grid
    found = read_label(bench.datastore.get_label_uri("low", "final"), bench.study.task, grid)
    assert found.annotated.tolist() == [True, False]
    assert bench.client.get(f"{PATH}/low/label").json()["structures"]["square"]["state"] == "unknown"


def test_label_of_somebody_else_is_not_replaced_and_both_are_kept(bench: Bench) -> None:
    client, truth = bench.client, bench.truths["low"]
    first = put(client, "low", "label", drawn_of(truth), "none", client="anna").json()["digest"]
    mine = drawn_of(np.roll(truth, 3, axis=2))
    refused = put(client, "low", "label", mine, "none", client="ben")
    assert refused.status_code == 409 and "changed by anna in the meantime" in refused.json()["detail"]
    assert np.array_equal(final(bench, "low"), truth)
    assert client.get(f"{PATH}/low/draft", params={"client": "ben"}).status_code == 200
    versions = client.get(f"{PATH}/low/history").json()["versions"]
    assert [(v["user"], v["refused"]) for v in versions] == [("anna", False), ("ben", True)]
    other = client.get(f"{PATH}/low/label", params={"version": versions[1]["id"]}).json()["structures"]
    assert other["disk"]["runs"] == mine["structures"]["disk"]["runs"]
    assert put(client, "low", "label", mine, first, client="ben").status_code == 200
    assert np.array_equal(final(bench, "low"), np.roll(truth, 3, axis=2))
    assert [v["user"] for v in client.get(f"{PATH}/low/history").json()["versions"]] == ["ben", "anna", "ben"]


@pytest.mark.parametrize(
    ("label", "message"),
    [
        (b"nothing", "label: : Invalid JSON"),
        (b'{"structures": {"ring": {"state": "absent"}}}', "'ring' is not in the task"),
        (b'{"structures": {"disk": {"state": "gone"}}}', "label: structures.disk.state"),
        (b'{"structures": {"disk": {"state": "absent"}}}', "square: expected"),
    ],
)
def test_wrong_label_is_refused_with_the_key(bench: Bench, label: bytes, message: str) -> None:
    files = {"label": ("label.json", label, "application/json")}
    refused = bench.client.put(f"{PATH}/low/label", files=files, headers={"If-Match": "none"})
    assert refused.status_code == 400 and message in refused.json()["detail"], refused.text


def test_label_without_if_match_is_refused(bench: Bench) -> None:
    assert put(bench.client, "low", "label", drawn_of(bench.truths["low"])).status_code == 428


def test_flagged_case_leaves_sampling_queue_and_training_until_taken_back(bench: Bench) -> None:
    client, study = bench.client, bench.study
    select = SelectionStrategy("uniform", study.selection, study.holdout, study.task.active_learning)

    def offered() -> set[str]:
        return {select({"client_id": str(n)}, bench.datastore)["id"] for n in range(12)}  # type: ignore[index]

    def queue() -> set[str]:
        return {item["case"] for item in client.get("/samstudent/review").json()["cases"]}

    assert "low" in queue()
    flagged = client.put(f"{PATH}/low/flag", json={"reason": "two patients in one film"})
    assert flagged.json()["flag"]["reason"] == "two patients in one film"
    assert client.get(f"{PATH}/low").json()["flag"]["who"] == "anonymous"
    assert "low" not in queue() and "low" not in offered() and "low" not in study.holdout.trainable(["low", "good"])
    counts = client.get("/samstudent/overview").json()["counts"]
    assert (counts["flagged"], counts["excluded"]) == (1, 2)
    assert client.delete(f"{PATH}/low/flag").status_code == 200
    assert client.delete(f"{PATH}/low/flag").status_code == 404
    assert "low" in queue() and "low" in offered() and "low" in study.holdout.trainable(["low", "good"])


def test_masks_of_student_and_sam_come_from_the_pseudo_label(bench: Bench) -> None:
    client = bench.client
    sam = client.get(f"{PATH}/low/predicted", params={"source": "sam"}).json()["structures"]
    assert sam["square"]["runs"] == encoded(Cropped.of(bench.truths["low"][1]))["runs"]  # also if it was rejected
    assert sam["square"]["start"] == "sam"
    student = client.get(f"{PATH}/low/predicted", params={"source": "student"}).json()["structures"]
    assert student["disk"]["box"][0] == sam["disk"]["box"][0] + 2
    assert client.get(f"{PATH}/plain/predicted", params={"source": "sam"}).status_code == 404


def test_box_is_answered_by_sam_from_one_embedding(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    sam = FakeSam()
    monkeypatch.setattr(bench.study, "sam", lambda: sam)
    client, truth = bench.client, bench.truths["plain"][0]
    rows, columns = np.flatnonzero(truth.any(1)), np.flatnonzero(truth.any(0))
    box = [int(v) for v in (columns[0], rows[0], columns[-1], rows[-1])]
    assert client.post(f"{PATH}/plain/prepare").json()["ready"]
    answers = [client.post(f"{PATH}/plain/sam", json={"structure": "disk", "box": box}) for _ in range(2)]
    answers.append(client.post(f"{PATH}/plain/sam", json={"structure": "disk", "positive": [box[:2]]}))
    assert [answer.status_code for answer in answers] == [200, 200, 200], answers[0].text
    assert sam.embedded == 1
    found, (x, y, _, w, h, _) = answers[0].json(), answers[0].json()["box"]
    mask = np.zeros((64, 64), dtype=bool)
    inside = np.repeat(np.arange(len(found["runs"])) % 2 == 1, found["runs"])
    mask[y : y + h, x : x + w] = inside.reshape(h, w)
    assert dice(mask, truth) > 0.97


def test_sam_sees_the_pixels_that_it_sees_for_other_clients(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bench, seen = volume_bench(tmp_path), list[np.ndarray]()

    class Recording(FakeSam):
        def embed(self, image: Any) -> Any:
            seen.append(image)
            return super().embed(image)

    monkeypatch.setattr(bench.study, "sam", Recording)
    for axis, index in (("z", 3), ("x", 7)):
        answer = bench.client.post(f"{PATH}/v0/prepare", params={"axis": axis, "index": index})
        assert answer.status_code == 200, answer.text
    pixels = for_sam(read_image(bench.datastore.get_image_uri("v0"), 3), bench.study.task.image)
    assert np.array_equal(seen[0], pixels[3]) and np.array_equal(seen[1], pixels[:, :, 7])


def test_preparation_builds_the_decoder_of_each_sam_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bench, decoded = volume_bench(tmp_path), list[str]()

    class Recording(FakeSam):
        def decode_many(self, embedding: Any, prompts: Any) -> Any:
            decoded.append(self.digest)
            return super().decode_many(embedding, prompts)

    sam = Recording()
    monkeypatch.setattr(bench.study, "sam", lambda: sam)
    for index in (3, 4):
        assert bench.client.post(f"{PATH}/v0/prepare", params={"axis": "z", "index": index}).status_code == 200
    assert decoded == [sam.digest]
    monkeypatch.setattr(sam, "digest", "a" * 64, raising=False)  # another adapted SAM with the same embeddings
    assert bench.client.post(f"{PATH}/v0/prepare", params={"axis": "z", "index": 3}).status_code == 200
    assert decoded == ["f" * 64, "a" * 64]


def test_box_on_a_large_image_is_answered_on_its_pixels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from support.drawn import write_png
    from support.review_bench import make_bench

    def draw(path: Path, number: int) -> np.ndarray:
        pixels, truth = shapes(number, (1500, 2000))
        write_png(path.with_suffix(".png"), pixels)
        return truth

    bench = make_bench(tmp_path, small_task(), draw, ["big"])

    class ScaledSam(FakeSam):
        """The disk of the true mask on the grid of the request."""

        def embed(self, image: Any) -> Any:
            return super().embed(image[::4, ::4]).on_grid(image.shape[:2])

        def decode_many(self, embedding: Any, prompts: Any) -> Any:
            from samstudent.sam.embedding import DecodedMask

            truth = bench.truths["big"][0][::4, ::4]
            low = np.full((500, 500), -5.0, np.float32)
            low[:375, :500][truth] = 5.0
            frame = replace(embedding.frame, input_size=(375, 500), side=500)
            return [DecodedMask(low, 0.9, frame) for _ in prompts]

    monkeypatch.setattr(bench.study, "sam", ScaledSam)
    found = bench.client.post(f"{PATH}/big/sam", json={"structure": "disk", "box": [0, 0, 1999, 1499]}).json()
    x, y, _, w, h, _ = found["box"]
    mask = np.zeros((1500, 2000), dtype=bool)
    mask[y : y + h, x : x + w] = np.repeat(np.arange(len(found["runs"])) % 2 == 1, found["runs"]).reshape(h, w)
    assert dice(mask, bench.truths["big"][0]) > 0.985


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"structure": "disk"}, "a box, or at least one positive point"),
        ({"structure": "disk", "box": [70, 0, 90, 5]}, "outside of the image"),
        ({"structure": "disk", "positive": [[64, 3]]}, "outside of the image"),
        ({"structure": "disk", "box": [0, 0, 5, 5], "index": 3}, "single image"),
    ],
)
def test_wrong_prompts_are_refused(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, body: dict[str, Any], message: str
) -> None:
    monkeypatch.setattr(bench.study, "sam", FakeSam)
    refused = bench.client.post(f"{PATH}/plain/sam", json=body)
    assert refused.status_code == 400 and message in refused.json()["detail"], refused.text


def test_roles_and_header(bench: Bench) -> None:
    context = bench.app.state.context
    login = RolesByToken({"anna": with_lower(["annotator"]), "rita": [role_name("user")]})
    app = http.build(replace(context, login=login))
    label = drawn_of(bench.truths["low"])

    def client(user: str, header: bool = True) -> TestClient:
        return TestClient(app, headers={"Authorization": f"Bearer {user}", **(HEADER if header else {})})

    assert put(client("rita"), "low", "draft", label).status_code == 403
    assert put(client("anna", header=False), "low", "draft", label).status_code == 403
    assert put(client("anna"), "low", "draft", label, client="ben").status_code == 200
    assert bench.app.state.annotation.drafts.get("ben", "low") is None
    assert bench.app.state.annotation.drafts.get("anna", "low") is not None
    assert client("rita").get(f"{PATH}/low").status_code == 200
