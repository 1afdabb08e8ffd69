"""Study with unusual files on the real server: listed, selected, refused and reported ones."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
from monailabel.client import MONAILabelClient

from samstudent.imaging.case import read_image
from samstudent.imaging.labels import read_masks
from support.live_server import CASES, RunningServer, TinyStudy, detail, wait_until

pytestmark = pytest.mark.server

NFC, NFD = (unicodedata.normalize(form, "Müller") for form in ("NFC", "NFD"))
BROKEN, SAFE = CASES[0], CASES[1]


@pytest.fixture(scope="module")
def study(study: TinyStudy) -> TinyStudy:
    """Ten radiographs, a decomposed name, a name that is not a valid id, a broken image, a link, and other files."""
    folder, outside = study.folder, study.folder.parent / "outside"
    shutil.copyfile(study.image(CASES[2]), folder / f"{NFD}.png")
    os.rename(study.image(SAFE), folder / "a:b.png")
    content = study.image(BROKEN).read_bytes()
    study.image(BROKEN).write_bytes(content[: len(content) // 2])
    outside.mkdir()
    os.rename(study.image(CASES[3]), outside / "original.png")
    study.image(CASES[3]).symlink_to(outside / "original.png")
    (folder / f"._{CASES[4]}.png").write_bytes(b"\0\5\x16\7")
    (folder / "loop.png").symlink_to("loop.png")
    (folder / f"{CASES[5]}.seg.nrrd").write_bytes(b"NRRD0004")
    shutil.copyfile(study.image(CASES[6]), folder / f"{CASES[6]}.tif")
    (folder / "more").mkdir()
    shutil.copyfile(study.image(CASES[6]), folder / "more" / "x.png")
    return study


def problems(server: RunningServer) -> str:
    return "\n".join(requests.get(f"{server.url}/samstudent/overview", timeout=30).json()["problems"])


def save(server: RunningServer, case: str, file: Path, name: str) -> requests.Response:
    with file.open("rb") as content:
        return requests.put(f"{server.url}/datastore/label?image={case}", files={"label": (name, content)}, timeout=60)


def test_listed_cases_and_ignored_files_are_reported(
    client: MONAILabelClient, server: RunningServer, study: TinyStudy
) -> None:
    listed = set(requests.get(f"{server.url}/datastore/?output=all", timeout=30).json()["objects"])
    (safe,) = [case for case in listed if case.startswith("a_b-")]
    assert listed == {*CASES, NFC, safe} - {SAFE}
    assert client.info()["datastore"]["total"] == len(listed)
    said = problems(server)
    for name in ("loop.png", f"{CASES[5]}.seg.nrrd", f"{CASES[6]}.png", "more: subfolder with 1 images", "a:b.png"):
        assert name in said
        assert server.log.read_text().count(f"{name}") >= 1
    assert f"{CASES[2]}.png" in said and "the same content" in said
    assert "._" not in said


def test_broken_image_is_not_selected_and_is_a_problem(server: RunningServer, study: TinyStudy) -> None:
    wait_until(lambda: f"{BROKEN}.png: " in problems(server), 120)
    samples = [server.client(f"client {i}").next_sample("uniform", {}) for i in range(len(CASES) + 2)]
    offered = {sample["id"] for sample in samples if sample}
    listed = set(requests.get(f"{server.url}/datastore/?output=all", timeout=30).json()["objects"])
    assert offered == listed - {BROKEN}


def test_requests_accept_ids_in_either_unicode_form(server: RunningServer, study: TinyStudy, tmp_path: Path) -> None:
    file = study.label(CASES[2], tmp_path)
    for form in (NFD, NFC):
        assert requests.get(f"{server.url}/datastore/image?image={form}", timeout=30).ok
        answer = save(server, form, file, "x.seg.nrrd")
        assert answer.ok and answer.json()["image"] == NFC
    saved = study.folder / "labels" / "final" / f"{NFC}.seg.nrrd"
    masks = read_masks(saved, study.task, read_image(study.folder / f"{NFD}.png").grid)
    assert (masks == study.truth[CASES[2]]).all()
    infer = requests.post(f"{server.url}/infer/sam?image={NFD}&output=json", data={"params": "{}"}, timeout=60)
    assert infer.status_code != 404, infer.text
    audit = (study.folder / ".samstudent" / "tiny" / "audit.jsonl").read_text().splitlines()
    assert {json.loads(line)["case"] for line in audit if "label saved" in line} == {NFC}


def test_target_of_a_link_outside_the_study_is_unchanged(
    server: RunningServer, study: TinyStudy, tmp_path: Path
) -> None:
    original = study.folder.parent / "outside" / "original.png"
    before = original.read_bytes(), original.stat().st_ino
    assert save(server, CASES[3], study.label(CASES[4], tmp_path), "x.seg.nrrd").ok
    assert requests.delete(f"{server.url}/datastore/image?id={CASES[3]}", timeout=30).ok
    assert not study.image(CASES[3]).is_symlink()
    assert (original.read_bytes(), original.stat().st_ino) == before


def test_errors_contain_the_file_name_of_the_client(server: RunningServer, study: TinyStudy, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.png"
    wrong.write_bytes(study.image(BROKEN).read_bytes())

    def upload(method: str, path: str, field: str, name: str = "scan 7.png", **more: Any) -> str:
        with wrong.open("rb") as content:
            files = {field: (name, content)}
            response = requests.request(method, f"{server.url}/{path}", files=files, timeout=60, **more)
        assert response.status_code == 400, response.text
        text = detail(response)
        assert tempfile.gettempdir() not in text and str(server.temporary) not in text and "sessions/" not in text
        return text

    assert CASES[4] in upload("PUT", f"datastore/label?image={CASES[4]}", "label")
    assert "scan 7.png" in upload("POST", "infer/sam?output=json", "file", data={"params": "{}"})
    assert "scan 7.bmp" in upload("PUT", "datastore/image?image=new", "file", "scan 7.bmp")
    with wrong.open("rb") as content:
        session = requests.put(f"{server.url}/session/", files={"files": ("scan.png", content)}, timeout=60).json()
    path = f"{server.url}/infer/sam?session_id={session['session_id']}&output=json"
    answer = requests.post(path, data={"params": "{}"}, timeout=60)
    assert answer.status_code == 400 and "scan.png" in detail(answer) and "sessions/" not in detail(answer)


def test_repaired_image_is_selected_again(server: RunningServer, study: TinyStudy) -> None:
    shutil.copyfile(study.image(CASES[7]), study.image(BROKEN))
    assert f"{BROKEN}.png: " not in problems(server)
    assert server.client("a new client").next_sample("uniform", {})["id"] == BROKEN
    assert np.asarray(read_image(study.image(BROKEN)).pixels).any()
