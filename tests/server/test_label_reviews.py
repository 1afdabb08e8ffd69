"""Requests of 3D Slicer's Reviewer extension: flags, versions, approval, and what the page shows of them.

``Reviewer`` sends the requests of the extension, including its repetitions.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from numpy.typing import NDArray

from samstudent.imaging.case import read_image
from samstudent.imaging.label_writing import write_masks
from samstudent.rounds.study import Study
from samstudent.server import http
from samstudent.server.annotation.drawn_label import DrawnStructure
from samstudent.server.context import ServerContext
from samstudent.server.datastore.study_folder import StudyFolderDatastore
from samstudent.server.label_reviews import LabelReviews
from samstudent.server.open_datastore import open_datastore
from samstudent.server.review_page.overview import overview
from samstudent.server.tasks.study_round import StudyRound
from support.http_server import RolesByToken, make_context
from support.review_bench import Bench
from support.review_bench import bench as review_bench

__all__ = ["review_bench"]

CASE = "plain"


class Reviewer:
    """The extension, connected to a server: it reads the list once, and sends decisions from its own copy."""

    def __init__(self, client: TestClient, name: str = "rita") -> None:
        self.client, self.name, self.now = client, name, 1_700_000_000
        assert client.get("/").status_code == 200
        self.connect()

    def connect(self) -> None:
        """Read the list, and parse all that the extension requires of it."""
        objects = self.client.get("/datastore/?output=all").json()["objects"]
        self.reviews: dict[str, dict[str, dict[str, Any]]] = {}
        self.names: dict[str, list[Any]] = {}
        for case, entry in objects.items():
            assert entry["image"]["info"]["name"]
            self.reviews[case] = {}
            self.names[case] = entry["labels"].get("final", {}).get("info", {}).get("label_info", [])
            for tag, label in entry["labels"].items():
                if review := label["info"].get("segmentationMeta"):
                    assert tag in ("final", "original") or int(tag.split("_")[1])
                    keys = ("status", "level", "approvedBy", "comment", "editTime")
                    self.reviews[case][tag] = {key: review[key] for key in keys}

    def decide(self, case: str, tag: str, status: str, level: str = "", comment: str = "") -> list[int]:
        """Press *Approve* or *Flag*, then *Next*; returns the status codes of the responses."""
        self.now += 60
        reviews = self.reviews[case]
        reviews[tag] = {"status": status, "level": level, "approvedBy": self.name, "comment": comment}
        reviews[tag]["editTime"] = self.now
        codes = [self._send(case, tag, reviews[tag])]
        for other, review in reviews.items():
            if other != tag:
                review |= {"status": "" if review["status"] == "approved" else review["status"], "level": level}
                codes.append(self._send(case, other, review))
        return codes

    def save_version(self, case: str, tag: str, file: Path) -> int:
        """Press *Save as new version*: the file of a segmentation under the name .nrrd."""
        self.now += 60
        review = {"status": "", "level": "", "approvedBy": self.name, "comment": "mended", "editTime": self.now}
        self.reviews[case][tag] = review
        params = {"label_info": self.names[case]} if self.names[case] else {}
        with file.open("rb") as content:
            return self.client.put(
                f"/datastore/label?image={case}&tag={tag}",
                data={"params": json.dumps(params | {"segmentationMeta": review})},
                files={"label": (f"{case}.nrrd", content)},
            ).status_code

    def _send(self, case: str, tag: str, review: Mapping[str, Any]) -> int:
        return self.client.put(
            f"/datastore/updatelabelinfo?label={case}&tag={tag}",
            headers={"Content-Type": "application/x-www-form-urlencoded", "accept": "application/json"},
            data={"params": json.dumps({"segmentationMeta": review})},
        ).status_code


@pytest.fixture
def bench(review_bench: Bench, tmp_path: Path) -> Bench:
    """With the datastore of a server, which checks labels."""
    study, truths = review_bench.study, review_bench.truths
    datastore = open_datastore(study, str(tmp_path), watch=False)
    return Bench(study, datastore, truths, http.build(context_of(study, datastore)))


def context_of(study: Study, datastore: StudyFolderDatastore, **changes: Any) -> ServerContext:
    folder = Path(datastore.get_image_uri(CASE)).parent
    return make_context(folder, study.task, study=study, datastore=datastore, **changes)


@pytest.fixture
def reviewer(bench: Bench, tmp_path: Path) -> Reviewer:
    """The extension on the bench, with a human label of one case."""
    save_final(bench, tmp_path, bench.truths[CASE])
    return Reviewer(bench.client)


def save_final(bench: Bench, folder: Path, masks: NDArray[Any]) -> None:
    names = [{"name": name, "idx": value} for value, name in enumerate(bench.study.task.names, 1)]
    params = {"label_info": names, "client_id": "anna"}
    with segmentation(bench, folder, masks).open("rb") as content:
        saved = bench.client.put(
            f"/datastore/label?image={CASE}",
            data={"params": json.dumps(params)},
            files={"label": ("label.seg.nrrd", content)},
        )
    assert saved.status_code == 200, saved.text


def segmentation(bench: Bench, folder: Path, masks: NDArray[Any]) -> Path:
    path = folder / "made.seg.nrrd"
    write_masks(path, masks, bench.study.task, read_image(bench.datastore.get_image_uri(CASE)).grid)
    return path


def version(bench: Bench, folder: Path, by: int) -> tuple[Path, NDArray[Any]]:
    """File and masks of an edited label: a segmentation in a file that ends with .nrrd."""
    masks = np.roll(bench.truths[CASE], by, axis=2)
    return Path(shutil.copy(segmentation(bench, folder, masks), folder / "version.nrrd")), masks


def final(bench: Bench) -> NDArray[Any]:
    """Masks that a round reads as the human label of the case."""
    cases = StudyRound(bench.study, bench.datastore).round_cases([CASE], [])
    found = cases.labelled[0].read(bench.study.task)[1]
    assert found is not None
    return found.masks


def annotate(bench: Bench) -> dict[str, Any]:
    return bench.client.get(f"/samstudent/annotate/{CASE}").json()  # type: ignore[no-any-return]


def counts(bench: Bench) -> dict[str, int]:
    return overview(bench.app.state.review)["counts"]  # type: ignore[no-any-return]


def test_flagged_case_leaves_training(bench: Bench, reviewer: Reviewer) -> None:
    assert CASE in bench.study.holdout.trainable([CASE])
    assert reviewer.decide(CASE, "final", "flagged", "hard", "wrong side") == [200]
    assert bench.study.holdout.trainable([CASE]) == []
    flag = annotate(bench)["flag"]
    assert (flag["reason"], flag["who"]) == ("wrong side", "rita")
    assert (counts(bench)["flagged"], counts(bench)["approved"]) == (1, 0)
    reviewer.connect()
    assert reviewer.reviews[CASE]["final"]["status"] == "flagged"

    assert reviewer.decide(CASE, "final", "approved", "hard") == [200]
    assert CASE in bench.study.holdout.trainable([CASE]) and annotate(bench)["flag"] is None
    assert annotate(bench)["review"] | {"edit_time": 0} == {
        "status": "approved", "level": "hard", "approved_by": "rita", "comment": "", "edit_time": 0,
    }  # fmt: skip
    assert (counts(bench)["flagged"], counts(bench)["approved"]) == (0, 1)


def test_flag_of_the_page_is_that_of_the_extension(bench: Bench, reviewer: Reviewer) -> None:
    assert bench.client.put(f"/samstudent/annotate/{CASE}/flag", json={"reason": "blurred"}).status_code == 200
    reviewer.connect()
    shown = reviewer.reviews[CASE]["final"]
    assert (shown["status"], shown["comment"], shown["approvedBy"]) == ("flagged", "blurred", "anonymous")
    assert bench.client.delete(f"/samstudent/annotate/{CASE}/flag").status_code == 200
    # The extension repeats what it has read before with the decision on another version.
    bench.datastore.save_label(CASE, bench.datastore.get_label_uri(CASE, "final"), "version_1", {})
    assert reviewer.decide(CASE, "version_1", "", "easy") == [200, 200]
    assert annotate(bench)["flag"] is None
    reviewer.connect()
    assert {tag: (r["status"], r["level"]) for tag, r in reviewer.reviews[CASE].items()} == {
        "final": ("", "easy"), "version_1": ("", "easy"),
    }  # fmt: skip


def test_approved_version_is_used(bench: Bench, reviewer: Reviewer, tmp_path: Path) -> None:
    assert reviewer.decide(CASE, "final", "flagged") == [200]
    file, first = version(bench, tmp_path, 3)
    assert reviewer.save_version(CASE, "version_1", file) == 200
    assert (final(bench) == bench.truths[CASE]).all()
    file, second = version(bench, tmp_path, 6)
    assert reviewer.save_version(CASE, "version_2", file) == 200

    assert reviewer.decide(CASE, "version_1", "approved", "medium") == [200, 200, 200]
    assert (final(bench) == first).all()
    assert CASE in bench.study.holdout.trainable([CASE])
    assert reviewer.decide(CASE, "version_2", "approved", "medium", "better") == [200, 200, 200]
    assert (final(bench) == second).all()
    reviewer.connect()
    assert {tag: r["status"] for tag, r in reviewer.reviews[CASE].items()} == {
        "final": "", "version_1": "", "version_2": "approved",
    }  # fmt: skip
    review = annotate(bench)["review"]
    assert (review["status"], review["level"], review["comment"]) == ("approved", "medium", "better")
    # Two earlier labels are in the history, with their authors.
    versions = bench.client.get(f"/samstudent/annotate/{CASE}/history").json()["versions"]
    assert [label["user"] for label in versions] == ["rita", "rita", "anna"]


def test_version_without_approval_is_in_the_history_of_the_page(
    bench: Bench, reviewer: Reviewer, tmp_path: Path
) -> None:
    def history() -> list[str | None]:
        answer = bench.client.get(f"/samstudent/annotate/{CASE}/history")
        return [label["id"] for label in answer.json()["versions"]]

    file, masks = version(bench, tmp_path, 3)
    reviewer.save_version(CASE, "version_1", file)
    reviewer.save_version(CASE, "version_2", version(bench, tmp_path, 6)[0])
    assert history()[:3] == [None, "version_2", "version_1"]
    label = bench.client.get(f"/samstudent/annotate/{CASE}/label", params={"version": "version_1"}).json()
    disk = DrawnStructure(**label["structures"]["disk"])
    assert np.array_equal(disk.mask(masks.shape[1:], "disk"), masks[0])
    # The label before it is kept once, under one name.
    reviewer.decide(CASE, "version_1", "approved")
    assert history()[:2] == [None, "version_2"] and "version_1" not in history()
    reviewer.decide(CASE, "version_2", "approved")
    assert not {"version_1", "version_2"} & set(history())


def test_later_label_replaces_the_approved_version(bench: Bench, reviewer: Reviewer, tmp_path: Path) -> None:
    file, masks = version(bench, tmp_path, 3)
    reviewer.save_version(CASE, "version_1", file)
    reviewer.decide(CASE, "version_1", "approved")
    assert (final(bench) == masks).all() and counts(bench)["approved"] == 1
    save_final(bench, tmp_path, bench.truths[CASE])
    assert (final(bench) == bench.truths[CASE]).all() and counts(bench)["approved"] == 0
    reviewer.connect()
    assert reviewer.reviews[CASE]["version_1"]["status"] == "" and annotate(bench)["review"] is None


def test_corrected_label_of_a_flagged_case(bench: Bench, reviewer: Reviewer, tmp_path: Path) -> None:
    """The extension repeats the flag that it read before the label was corrected; it is no new flag."""
    reviewer.decide(CASE, "final", "flagged", "hard", "mend the disk")
    save_final(bench, tmp_path, np.roll(bench.truths[CASE], 1, axis=2))
    assert annotate(bench)["flag"]["reason"] == "mend the disk"
    reviewer.save_version(CASE, "version_1", version(bench, tmp_path, 3)[0])
    assert reviewer.decide(CASE, "version_1", "approved", "hard") == [200, 200]
    assert annotate(bench)["flag"] is None
    save_final(bench, tmp_path, bench.truths[CASE])
    review = annotate(bench)["review"]
    assert (review["status"], review["level"], review["comment"]) == ("", "hard", "")


def test_annotators_are_listed(bench: Bench, reviewer: Reviewer) -> None:
    """Where the extension looks for them: at the strategy ``annotate``."""
    entry = bench.client.get("/datastore/?output=all").json()["objects"][CASE]
    assert entry["image"]["info"]["strategy"]["annotate"]["client_id"] == "anna"


def test_version_that_cannot_train_is_not_approved(bench: Bench, reviewer: Reviewer, tmp_path: Path) -> None:
    path = tmp_path / "other.nrrd"
    path.write_bytes(b"NRRD0004\ntype: uint8\ndimension: 2\nsizes: 2 2\nencoding: raw\n\n\1\1\1\1")
    assert reviewer.save_version(CASE, "version_1", path) == 200
    assert reviewer.decide(CASE, "version_1", "approved")[0] == 400
    assert (final(bench) == bench.truths[CASE]).all() and counts(bench)["approved"] == 0


def test_result_of_a_model_is_not_approved(bench: Bench, reviewer: Reviewer, tmp_path: Path) -> None:
    file, _ = version(bench, tmp_path, 3)
    bench.datastore.save_label("good", str(file), "original", {})
    assert reviewer.decide("good", "original", "approved") == [400]
    assert "good" not in bench.datastore.get_labeled_images()


def test_accepted_pseudo_label_is_approved_in_the_extension(bench: Bench) -> None:
    digest = bench.client.get("/samstudent/review/good").json()["digest"]
    accepted = bench.client.post("/samstudent/review/good/accept", json={"digest": digest, "structures": {}})
    assert accepted.status_code == 200
    shown = Reviewer(bench.client).reviews["good"]["final"]
    assert (shown["status"], shown["approvedBy"]) == ("approved", "anonymous")
    assert counts(bench)["approved"] == 1


def test_invalid_reviews_are_refused(bench: Bench, reviewer: Reviewer) -> None:
    def send(tag: str, review: Any) -> Any:
        data = {"params": json.dumps({"segmentationMeta": review})}
        return bench.client.put(f"/datastore/updatelabelinfo?label={CASE}&tag={tag}", data=data)

    assert "status" in send("final", {"status": "fine"}).json()["detail"]
    assert "colour" in send("final", {"status": "", "colour": "red"}).json()["detail"]
    assert send("final", "approved").status_code == 400
    bench.datastore.save_label(CASE, bench.datastore.get_label_uri(CASE, "final"), "second", {})
    assert "version_1" in send("second", {"status": "approved"}).json()["detail"]
    reviewer.connect()


def test_only_reviewers_approve(bench: Bench, reviewer: Reviewer) -> None:
    roles = ["monailabel-user", "monailabel-annotator", "monailabel-reviewer"]
    users = RolesByToken({"anna": roles[:2], "rita": roles})
    app = http.build(context_of(bench.study, bench.datastore, login=users))
    for name, status, codes in (("anna", "flagged", [200]), ("anna", "approved", [403]), ("rita", "approved", [200])):
        # Another name than that of the login, as anybody can type it.
        seen = Reviewer(TestClient(app, headers={"Authorization": f"Bearer {name}"}), "somebody")
        seen.now = reviewer.now = reviewer.now + 1000
        assert seen.decide(CASE, "final", status) == codes
        assert (bench.study.flags.all().get(CASE) is None) == (codes == [200] and status == "approved")
    review = annotate(bench)["review"]
    assert (review["status"], review["approved_by"]) == ("approved", "rita")


def test_study_of_another_server_is_adopted(bench: Bench, reviewer: Reviewer, tmp_path: Path) -> None:
    """``datastore_v2.json`` of MONAI Label: an approved version, and a flagged label."""
    file, masks = version(bench, tmp_path, 3)
    review = {"approvedBy": "rita", "level": "easy", "comment": "", "editTime": int(time.time()) + 60}
    approved = {"segmentationMeta": review | {"status": "approved"}}
    bench.datastore.save_label(CASE, str(file), "version_1", approved)
    bench.datastore.save_label("good", str(file), "final", {"segmentationMeta": review | {"status": "flagged"}})
    (tmp_path / "bad.png").write_bytes(b"no picture")
    bench.datastore.save_label("low", str(tmp_path / "bad.png"), "version_1", approved)
    LabelReviews(bench.study, bench.datastore).adopt()
    assert "low" not in bench.datastore.get_labeled_images()
    assert (final(bench) == masks).all()
    assert bench.study.flags.all()["good"].who == "rita"
