"""Review over HTTP: queue, details, decisions and their effects."""

from __future__ import annotations

import io
import json
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image

from samstudent.imaging.case import read_image
from samstudent.imaging.labels import read_masks
from samstudent.pseudolabels.provenance import is_current
from samstudent.server.auth import audit
from samstudent.server.datastore.study_list import StudyList
from samstudent.server.tasks.active_learning import SelectionStrategy
from samstudent.server.tasks.study_round import StudyRound
from support.review_bench import HEADER, MADE, QUALITIES, RAW, Bench, shifted, volume_bench


def queue(client: TestClient, **query: Any) -> list[str]:
    answer = client.get("/samstudent/review", params=query)
    assert answer.status_code == 200, answer.text
    return [item["case"] for item in answer.json()["cases"]]


def decide(client: TestClient, case: str, verb: str, **body: Any) -> Any:
    if "digest" not in body:
        body["digest"] = client.get(f"/samstudent/review/{case}").json()["digest"]
    return client.post(f"/samstudent/review/{case}/{verb}", json=body)


def trains(bench: Bench, tag: str = "pseudo") -> set[str]:
    """Cases whose pseudo labels would train in the next round."""
    study = bench.study
    trainable = study.holdout.trainable(bench.datastore.list_images())
    made = MADE if tag == "pseudo" else RAW
    store, found = StudyRound(study, bench.datastore), set()
    for case in trainable:
        labels = bench.datastore.get_labels_by_image_id(case)
        if tag in labels and "final" not in labels:
            info = bench.datastore.get_label_info(labels[tag], tag)
            accepted = any(entry["status"] == "accepted" for entry in info["structures"].values())
            if accepted and is_current(info, made) and store.may_train(case, info):
                found.add(case)
    return found


def test_queue_is_sorted_by_quality_without_hold_out_cases(bench: Bench) -> None:
    bench.pseudo_label("held")  # left from before it was reserved, say
    bench.pseudo_label("test")
    client = bench.client
    assert queue(client) == ["none", "low", "middle", "good"]
    assert queue(client, structure="disk") == ["middle", "low", "good"]
    assert queue(client, first=1, count=2) == ["low", "middle"]
    answer = client.get("/samstudent/review").json()
    assert answer["total"] == 4 and answer["counts"]["waiting"] == 4
    assert answer["cases"][1] == {
        "case": "low", "state": "waiting", "who": None, "time": None, "worst": 0.3, "mean": 0.6, "rejected": 1,
        "lower_bound": None,
    }  # fmt: skip


def test_details_of_a_case_are_complete(bench: Bench) -> None:
    case = bench.client.get("/samstudent/review/low").json()
    assert case["size"] == [64, 64] and case["axes"] is None
    disk, square = case["structures"]
    assert (disk["status"], disk["quality"], disk["refined"], disk["student"]) == ("accepted", 0.9, True, True)
    assert (square["status"], square["refined"], square["threshold"]) == ("rejected", True, 0.6)
    assert case["provenance"]["sam_backend"] == "lite_medsam"


def test_image_and_masks_are_aligned(bench: Bench) -> None:
    client = bench.client
    image = client.get("/samstudent/review/low/image", params={"size": 32})
    assert image.headers["content-type"] == "image/png" and "private" in image.headers["cache-control"]
    assert np.asarray(Image.open(io.BytesIO(image.content))).shape == (32, 32)
    masks = client.get("/samstudent/review/low/masks", params={"size": 64}).json()
    assert masks["size"] == [64, 64]
    truth = bench.truths["low"]
    for source, wanted in (("refined", truth), ("student", shifted(truth))):
        for name, mask in zip(bench.study.task.names, wanted, strict=True):
            lengths = masks[source][name]
            values = np.concatenate([np.full(n, i % 2, bool) for i, n in enumerate(lengths)])
            assert np.array_equal(values.reshape(64, 64), mask), (source, name)


def test_unchanged_picture_is_304(bench: Bench) -> None:
    client = bench.client
    first = client.get("/samstudent/review/low/image", params={"size": 64})
    again = client.get(
        "/samstudent/review/low/image", params={"size": 64}, headers={"If-None-Match": first.headers["etag"]}
    )
    assert again.status_code == 304 and not again.content
    other = client.get(
        "/samstudent/review/low/image", params={"size": 32}, headers={"If-None-Match": first.headers["etag"]}
    )
    assert other.status_code == 200


def test_acceptance_saves_a_label_of_the_user(bench: Bench) -> None:
    client = bench.client
    assert decide(client, "good", "accept").json() == {"case": "good", "state": "accepted"}
    info = bench.datastore.get_label_info("good", "final")
    accepted = info["accepted_from"]
    assert info["user"] == "anonymous" and accepted["provenance"]["student"] == MADE.student
    assert accepted["structures"]["disk"] == {"status": "accepted", "quality": 0.95, "taken": "refined"}
    grid = read_image(bench.datastore.get_image_uri("good")).grid
    label = read_masks(bench.datastore.get_label_uri("good", "final"), bench.study.task, grid)
    assert np.array_equal(label, bench.truths["good"])
    assert "good" not in trains(bench)
    assert queue(client) == ["none", "low", "middle"] and queue(client, state="accepted") == ["good"]
    assert bench.client.get("/samstudent/overview").json()["counts"]["accepted"] == 1
    for tag in ("pseudo", "pseudo_raw"):  # as the next round does it
        bench.datastore.remove_label("good", tag)
    assert set(client.get("/samstudent/review/good/masks").json()["refined"]) == {"disk", "square"}


def test_masks_are_available_while_a_label_is_accepted(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Saving a human label writes the list before the file; a request for the masks waits for both."""
    client, write, responses = bench.client, StudyList.write, []
    request = threading.Thread(target=lambda: responses.append(bench.client.get("/samstudent/review/good/masks")))

    def slow_write(listed: StudyList) -> None:
        write(listed)
        if not request.ident:
            request.start()
            request.join(1)

    monkeypatch.setattr(StudyList, "write", slow_write)
    assert decide(client, "good", "accept").status_code == 200
    request.join()
    assert [response.status_code for response in responses] == [200], responses[0].text


def test_rejected_structure_requires_a_source(bench: Bench) -> None:
    client = bench.client
    refused = decide(client, "low", "accept")
    assert refused.status_code == 400 and "square" in refused.json()["detail"]
    assert not bench.datastore.get_label_by_image_id("low", "final")
    assert decide(client, "low", "accept", structures={"square": "student", "disk": "absent"}).status_code == 200
    grid = read_image(bench.datastore.get_image_uri("low")).grid
    label = read_masks(bench.datastore.get_label_uri("low", "final"), bench.study.task, grid)
    assert not label[0].any() and np.array_equal(label[1], shifted(bench.truths["low"])[1])


def test_rejected_mask_of_sam_can_be_selected(bench: Bench) -> None:
    assert decide(bench.client, "low", "accept", structures={"square": "refined"}).status_code == 200
    grid = read_image(bench.datastore.get_image_uri("low")).grid
    label = read_masks(bench.datastore.get_label_uri("low", "final"), bench.study.task, grid)
    assert np.array_equal(label, bench.truths["low"])


def test_rejection_is_valid_until_another_student_makes_the_label(bench: Bench) -> None:
    client = bench.client
    assert trains(bench) == {"good", "low", "middle"}
    assert decide(client, "middle", "reject").json()["state"] == "rejected"
    assert trains(bench) == {"good", "low"} and "middle" not in trains(bench, "pseudo_raw")
    assert queue(client) == ["none", "low", "good"]
    (item,) = client.get("/samstudent/review", params={"state": "rejected"}).json()["cases"]
    assert (item["case"], item["who"]) == ("middle", "anonymous")
    bench.pseudo_label("middle")  # made again by the same
    assert queue(client, state="rejected") == ["middle"]
    bench.pseudo_label("middle", made=replace(MADE, student="f" * 64))
    assert queue(client) == ["none", "low", "middle", "good"]


def test_sent_case_is_selected_first_until_it_is_labelled(bench: Bench, tmp_path: Path) -> None:
    client, study = bench.client, bench.study
    decide(client, "good", "send")
    decide(client, "low", "send")
    assert trains(bench) == {"middle"}

    def ask(client_id: str) -> Any:
        section, rng = study.task.active_learning, np.random.default_rng(0)
        for name in ("uniform", "mixed"):
            strategy = SelectionStrategy(name, study.selection, study.holdout, section, rng, study.reviews)
            if answer := strategy({"client_id": client_id}, bench.datastore):
                return answer["id"], answer["selected_by"]
        return None

    assert ask("anna") == ("good", "review")
    assert ask("bob") == ("low", "review")
    assert ask("carl")[0] not in ("good", "low")
    bench.datastore.save_label("good", bench.datastore.get_label_uri("good", "pseudo"), "final", {})
    assert ask("dora")[0] != "good"
    assert study.reviews.sent() == ["low"] and queue(client, state="sent") == ["low"]


def test_every_decision_can_be_undone(bench: Bench) -> None:
    client, before = bench.client, queue(bench.client)
    for case, verb in (("good", "accept"), ("middle", "reject"), ("low", "send")):
        assert decide(client, case, verb).status_code == 200
    for case in ("good", "middle", "low"):
        assert client.delete(f"/samstudent/review/{case}/decision").status_code == 200
    assert queue(client) == before and trains(bench) == {"good", "low", "middle"}
    assert not bench.datastore.get_labeled_images()
    assert len(bench.datastore.labels.history.versions("final", "good")) == 1  # nothing that was a label is lost
    again = client.delete("/samstudent/review/good/decision")
    assert again.status_code == 409 and "no decision" in again.json()["detail"]


def test_human_label_is_kept_whatever_its_metadata_claims(bench: Bench) -> None:
    """The undo of a review removes an accepted label; only administrators may remove a human one."""
    store = bench.datastore
    store.save_label("good", store.get_label_uri("good", "pseudo"), "final", {"user": "bob"})
    info = json.dumps({"accepted_from": {"x": 1}, "note": "x"})
    url = "/datastore/label/info?label=good&tag=final"
    assert bench.client.put(url, data={"info": info}).is_success
    assert bench.client.delete("/samstudent/review/good/decision").status_code == 409
    kept = store.get_label_info("good", "final")
    assert (kept["user"], kept["note"]) == ("bob", "x") and store.labels.history.versions("final", "good") == []


def test_undo_keeps_a_human_label_saved_since(bench: Bench) -> None:
    client = bench.client
    decide(client, "good", "accept")
    bench.datastore.save_label("good", bench.datastore.get_label_uri("good", "pseudo"), "final", {"user": "bob"})
    assert client.delete("/samstudent/review/good/decision").status_code == 409
    assert bench.datastore.get_label_info("good", "final")["user"] == "bob"


@pytest.mark.parametrize("verb", ["accept", "reject", "send"])
def test_decision_about_a_changed_label_is_a_conflict(bench: Bench, verb: str) -> None:
    client = bench.client
    digest = client.get("/samstudent/review/good").json()["digest"]
    bench.pseudo_label("good", qualities={"disk": 0.95, "square": None})
    stale = decide(client, "good", verb, digest=digest)
    assert stale.status_code == 409 and "has changed in the meantime" in stale.json()["detail"]
    assert decide(client, "middle", "send").status_code == 200
    late = decide(client, "middle", verb)
    assert late.status_code == 409 and "sent by anonymous" in late.json()["detail"]
    bench.datastore.save_label("low", bench.datastore.get_label_uri("low", "pseudo"), "final", {})
    labelled = decide(client, "low", verb, digest="x")
    assert labelled.status_code == 409 and "has a human label" in labelled.json()["detail"]


def test_hold_out_case_cannot_be_accepted(bench: Bench) -> None:
    bench.pseudo_label("held")
    answer = bench.client.post("/samstudent/review/held/accept", json={"digest": "x"})
    assert answer.status_code == 409 and "hold-out" in answer.json()["detail"]
    assert not bench.datastore.get_labeled_images()


@pytest.mark.parametrize(
    ("method", "path", "status", "text"),
    [
        ("get", "review/nosuch", 404, "nosuch"),
        ("get", "review/nosuch/image", 404, "nosuch"),
        ("get", "review/nosuch/masks", 404, "nosuch"),
        ("get", "review/plain", 404, "no pseudo label"),
        ("get", "review/good/image?axis=z&index=0", 400, "single image"),
        ("get", "review/good/image?size=9", 400, "size"),
        ("get", "review/good/masks?size=99999", 400, "size"),
        ("get", "review?state=nosuch", 400, "waiting"),
        ("get", "review?structure=nosuch", 404, "disk"),
        ("get", "review?count=0", 400, "count"),
        ("get", "review?order=nosuch", 400, "quality, bound"),
        ("get", "review?bound=90", 400, "from 0 to 1"),
        ("get", "promised?dice=nan", 400, "from 0 to 1"),
        ("delete", "promised/nosuch", 404, "nosuch"),
        ("post", "review/nosuch/accept", 404, "nosuch"),
        ("post", "review/nosuch/reject", 404, "nosuch"),
        ("delete", "review/nosuch/decision", 404, "nosuch"),
        ("get", "page/nosuch.js", 404, "nosuch"),
        ("get", "page/..%2f..%2fapp.py", 404, ""),
    ],
)
def test_refused_requests_name_the_reason(bench: Bench, method: str, path: str, status: int, text: str) -> None:
    more = {"json": {"digest": "x"}} if method == "post" else {}
    answer = getattr(bench.client, method)(f"/samstudent/{path}", **more)
    assert answer.status_code == status, answer.text
    assert text in answer.text


def test_refused_bodies_name_the_reason(bench: Bench) -> None:
    client = bench.client
    wrong = client.post("/samstudent/review/good/accept", json={"digest": "x", "structure": {}})
    assert wrong.status_code == 422
    assert client.post("/samstudent/review/good/praise", json={"digest": "x"}).status_code == 404
    assert decide(client, "good", "accept", structures={"hand": "absent"}).status_code == 400


def test_decisions_from_other_sites_are_refused(bench: Bench) -> None:
    foreign = TestClient(bench.app)
    for verb in ("accept", "reject", "send"):
        answer = foreign.post(f"/samstudent/review/good/{verb}", json={"digest": "x"})
        assert answer.status_code == 403 and "X-Samstudent" in answer.json()["detail"]
    assert foreign.delete("/samstudent/review/good/decision").status_code == 403
    assert foreign.post("/samstudent/promised", json={"digest": "x"}).status_code == 403
    assert foreign.delete("/samstudent/promised/x").status_code == 403
    assert queue(TestClient(bench.app, headers=HEADER))[-1] == "good"


def test_page_loads_no_external_resources(bench: Bench) -> None:
    client = bench.client
    page = client.get("/samstudent")
    assert page.headers["content-type"].startswith("text/html")
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy and "http" not in policy
    assert client.get("/samstudent/page/app.js").headers["content-type"].startswith("text/javascript")
    assert client.get("/samstudent/page/style.css").headers["content-type"].startswith("text/css")


def test_overview_has_counts(bench: Bench) -> None:
    bench.datastore.save_label("held", bench.datastore.get_label_uri("good", "pseudo"), "final", {})
    overview = bench.client.get("/samstudent/overview").json()
    assert overview["counts"] == {
        "images": 7, "labelled": 1, "held_out": 1, "held_out_labelled": 1, "excluded": 1, "flagged": 0, "approved": 0,
        "pseudo_labelled": 4,
        "unlabelled": 2, "waiting": 4, "accepted": 0, "rejected": 0, "sent": 0,
        "structures_accepted": 5, "structures_rejected": 1, "structures_absent": 2,
    }  # fmt: skip
    assert overview["problems"] == bench.datastore.problems
    assert overview["served"] is None and overview["rounds"] == []
    assert overview["study"]["structures"] == ["disk", "square"]


def test_overview_has_rounds(bench: Bench) -> None:
    ledger = bench.study.ledger
    for dice in (0.7, 0.8):
        id = ledger.new_round("manual", labels_used=["low"])
        ledger.model_path(id).write_bytes(id.encode())
        ledger.update(id, status="done", dice={"challenger": {"disk": dice, "mean": dice}, "champion": None})
        ledger.promote(id, who="training")
    overview = bench.client.get("/samstudent/overview").json()
    served = overview["served"]
    assert (served["id"], served["before"], served["by"], served["how"]) == ("r0002", "r0001", "training", "promote")
    assert [r["dice"]["challenger"]["mean"] for r in overview["rounds"]] == [0.7, 0.8]
    assert bench.client.post("/samstudent/rollback").json() == {"champion": "r0001"}
    assert bench.client.get("/samstudent/overview").json()["served"]["before"] is None


def test_current_user_is_reported(bench: Bench) -> None:
    me = bench.client.get("/samstudent/me").json()
    assert me["user"] == "anonymous" and me["login"] is False
    assert me["may"] == {"annotate": True, "review": True, "administer": True}


def test_decisions_are_audited(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit, "_log", bench.study.audit)
    decide(bench.client, "good", "accept")
    decide(bench.client, "low", "send")
    bench.client.delete("/samstudent/review/low/decision")
    bench.client.put("/samstudent/schedule", json={"paused": True})
    lines = [json.loads(line) for line in bench.study.audit.path.read_text().splitlines()]
    assert [(line["action"], line["user"], line.get("case")) for line in lines] == [
        ("accept", "anonymous", "good"), ("send", "anonymous", "low"), ("undo", "anonymous", "low"),
        ("schedule paused", "anonymous", None),
    ]  # fmt: skip
    assert lines[0]["structures"] == dict.fromkeys(QUALITIES["good"], "refined")


def test_volume_is_returned_by_slices(tmp_path: Path) -> None:
    bench = volume_bench(tmp_path)
    client = bench.client
    case = client.get("/samstudent/review/v0").json()
    assert case["axes"] == {"z": 12, "y": 40, "x": 32} and case["structures"][0]["slices"]["z"] == 5
    masks = client.get("/samstudent/review/v0/masks", params={"axis": "z", "index": 5}).json()
    values = np.concatenate([np.full(n, i % 2, bool) for i, n in enumerate(masks["refined"]["ball"])])
    assert np.array_equal(values.reshape(40, 32), bench.truths["v0"][0, 5, ::-1, ::-1])
    image = client.get("/samstudent/review/v0/image", params={"axis": "x", "index": 10})
    assert Image.open(io.BytesIO(image.content)).size == (40, 36)
    assert client.get("/samstudent/review/v0/image", params={"axis": "z", "index": 12}).status_code == 400
    assert client.get("/samstudent/review/v0/masks", params={"axis": "w", "index": 1}).status_code == 400
    assert decide(client, "v0", "accept", structures={"block": "refined"}).status_code == 200
    grid = read_image(bench.datastore.get_image_uri("v0")).grid
    label = read_masks(bench.datastore.get_label_uri("v0", "final"), bench.study.task, grid)
    # The task lets nothing overlap; these two do not meet.
    assert np.array_equal(label, bench.truths["v0"])


def test_names_with_special_characters_are_valid(bench: Bench) -> None:
    name = "Ärztin's 50% #1 & co"
    source = Path(bench.datastore.get_image_uri("good"))
    bench.datastore.add_image(name, str(source), {})
    bench.truths[name] = bench.truths["good"]
    bench.study.holdout.extend(bench.datastore.list_images(), [])
    bench.pseudo_label(name)
    client, path = bench.client, f"/samstudent/review/{quote(name)}"
    assert name in queue(client)
    case = client.get(path).json()
    assert case["case"] == name and client.get(f"{path}/image").status_code == 200
    assert client.post(f"{path}/reject", json={"digest": case["digest"]}).json()["case"] == name
