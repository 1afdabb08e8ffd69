"""Structure names and values from clients, by the host's client with the real server."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
from monailabel.client import MONAILabelClient
from PIL import Image

from samstudent.server.datastore.label_folder import label_folder
from samstudent.server.datastore.label_rules import LabelRules
from samstudent.server.datastore.study_folder import StudyFolderDatastore
from support.human_labels import read_human_label
from support.live_server import CASES, RunningServer, TinyStudy, detail

pytestmark = pytest.mark.server


def label_map(study: TinyStudy, case: str, folder: Path, values: dict[str, int]) -> Path:
    """The truth as a PNG by Pillow, each structure with the value given; of others nothing."""
    pixels = np.zeros((64, 64), np.uint8)
    for name, mask in zip(study.task.names, study.truth[case], strict=True):
        if name in values:
            pixels[mask] = values[name]
    path = folder / f"{case}.png"
    Image.fromarray(pixels).save(path)
    return path


def listed(**values: int) -> list[dict[str, Any]]:
    return [{"name": name, "idx": idx} for name, idx in values.items()]


def put(server: RunningServer, case: str, file: Path, label_info: Any) -> requests.Response:
    params = {"params": json.dumps({"label_info": label_info, "client_id": "me"})}
    with file.open("rb") as label:
        url = f"{server.url}/datastore/label?image={case}"
        return requests.put(url, data=params, files={"label": (file.name, label)}, timeout=60)


def trained_on(study: TinyStudy, case: str) -> dict[str, np.ndarray]:
    datastore = StudyFolderDatastore(study.folder, read_only=True)
    return dict(zip(study.task.names, read_human_label(datastore, case, study.task)[1].masks, strict=True))


def test_structure_names_of_clients_are_matched(
    server: RunningServer, client: MONAILabelClient, study: TinyStudy, tmp_path: Path
) -> None:
    """Other case and spaces; idx 2 and 3; a name that is not in the task is left out and reported."""
    case = CASES[0]
    file = label_map(study, case, tmp_path, {"ulna": 2, "lunate": 3})
    drawn = np.array(Image.open(file))
    drawn[:3] = 5
    Image.fromarray(drawn).save(file)
    answer = client.save_label(case, str(file), params={"label_info": listed(ULNA=2, **{"lunate ": 3, "phalanx": 5})})
    assert (answer["structures"], answer["left_out"]) == (["ulna", "lunate"], ["phalanx"])
    masks = trained_on(study, case)
    assert (masks["ulna"] == (drawn == 2)).all() and (masks["lunate"] == (drawn == 3)).all()
    assert not masks["radius"].any() and (drawn == 2).any()
    # Slicer's: a background in front was skipped in the voxels and counted in idx.
    file = label_map(study, case, tmp_path, {"lunate": 1, "radius": 2})
    drawn = np.asarray(Image.open(file))
    client.save_label(case, str(file), params={"label_info": listed(lunate=2, radius=3)})
    assert (trained_on(study, case)["lunate"] == (drawn == 1)).all()
    info = requests.get(f"{server.url}/datastore/label/info?label={case}&tag=final", timeout=60).json()
    assert info["value_names"]["values"] == {"1": "lunate", "2": "radius"} and info["value_names"]["source"] == "client"


@pytest.mark.parametrize(
    ("label_info", "said"),
    [
        (listed(ulna=2, lunate=3), "two ways: value 2"),
        (listed(phalanx=1, cyst=2), "none of its names ['phalanx', 'cyst'] is a structure of the task"),
        (listed(ulna=1), "label_info names 1 = ulna, but the label map has the values 2"),
        ([], "names no segment"),
        (listed(ulna=2, Ulna=3), "one structure twice"),
        ([{"name": "", "idx": 2}], "not empty"),
        ([{"name": 7, "idx": 2}], "not 7"),
        ([{"name": "ulna", "idx": "2"}], "whole number"),
        ("ulna", "expected a list"),
    ],
)
def test_refused_label_info_changes_nothing(
    server: RunningServer, study: TinyStudy, tmp_path: Path, label_info: Any, said: str
) -> None:
    case = CASES[1]
    kept = put(server, case, label_map(study, case, tmp_path, {"radius": 1, "ulna": 2}), listed(radius=1, ulna=2))
    assert kept.ok, kept.text
    before = sorted((study.folder / "labels").rglob("*"))
    answer = put(server, case, label_map(study, case, tmp_path, {"ulna": 2}), label_info)
    assert answer.status_code == 400 and said in detail(answer), answer.text
    given = {"info": json.dumps({"label_info": label_info})}
    if label_info not in ([], listed(ulna=2, lunate=3)):
        answer = requests.put(f"{server.url}/datastore/label/info?label={case}&tag=final", data=given, timeout=60)
        assert answer.status_code == 400, answer.text
    assert sorted((study.folder / "labels").rglob("*")) == before
    assert trained_on(study, case)["radius"].any()


def test_response_names_structures_of_changed_label_info(
    server: RunningServer, study: TinyStudy, tmp_path: Path
) -> None:
    case = CASES[2]
    file = label_map(study, case, tmp_path, {"radius": 1, "ulna": 2})
    assert put(server, case, file, listed(ulna=1, radius=2)).json()["structures"] == ["radius", "ulna"]
    given = {"info": json.dumps({"label_info": listed(Radius=1, cyst=2)})}
    answer = requests.put(f"{server.url}/datastore/label/info?label={case}&tag=final", data=given, timeout=60)
    assert answer.json() == {"structures": ["radius"], "left_out": ["cyst"]}
    drawn = np.asarray(Image.open(file))
    masks = trained_on(study, case)
    assert (masks["radius"] == (drawn == 1)).all() and not masks["ulna"].any()


def test_labels_of_a_second_server_are_separate(server: RunningServer, study: TinyStudy, tmp_path: Path) -> None:
    """A second server on the same images: neither reads nor replaces labels of the other."""
    case = CASES[3]
    assert put(server, case, label_map(study, case, tmp_path, {"ulna": 1}), listed(ulna=1)).ok
    before = {p: p.read_bytes() for p in (study.folder / "labels" / "final").iterdir()}
    content = study.task_file.read_text().replace("name: tiny", "name: joints")
    task_file = tmp_path / "joints.yaml"
    task_file.write_text(content.replace("[radius, ulna, lunate]", "[joint]"))
    home = tmp_path / "home"
    home.mkdir()
    second = RunningServer(TinyStudy(study.folder, task_file, study.task, study.truth), home)
    try:
        second.wait_until_up()
        assert requests.get(f"{second.url}/info/", timeout=60).json()["datastore"]["completed"] == 0
        assert "labels/ has labels of task tiny (radius, ulna, lunate)" in second.log.read_text()
        assert put(second, case, label_map(study, case, tmp_path, {"lunate": 1}), listed(joint=1)).ok
    finally:
        second.stop()
    assert {p: p.read_bytes() for p in (study.folder / "labels" / "final").iterdir()} == before
    assert (study.folder / "labels-joints" / "final" / f"{case}.png").is_file()
    assert label_folder(study.folder, study.task).labels == "labels"


def test_copied_images_and_labels_keep_their_value_names(
    server: RunningServer, study: TinyStudy, tmp_path: Path
) -> None:
    case = CASES[4]
    assert put(server, case, label_map(study, case, tmp_path, {"ulna": 1, "radius": 2}), listed(ulna=1, radius=2)).ok
    copy = tmp_path / "copy"
    shutil.copytree(study.folder / "labels" / "final", copy / "labels" / "final")
    shutil.copy(study.image(case), copy)
    store = StudyFolderDatastore(copy, labels=LabelRules(study.task))
    drawn = np.asarray(Image.open(copy / "labels" / "final" / f"{case}.png"))
    masks = read_human_label(store, case, study.task)[1].masks
    assert (masks[0] == (drawn == 2)).all() and (masks[1] == (drawn == 1)).all()
