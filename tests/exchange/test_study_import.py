"""Import into a study that has images and labels: nothing of it is lost, and a repetition changes nothing."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from samstudent.errors import UserError
from samstudent.exchange.source import Source, SourceCase
from samstudent.exchange.study_import import ImportOptions, StudyImport
from samstudent.imaging.label_tags import FINAL
from support.drawn import small_task, write_png
from support.exchange_study import DrawnData, assert_same, drawn_study, empty_study, export, import_into, run_command

#: Actions of an import in the audit log.
ACTIONS = ("image added", "label saved")


@pytest.fixture
def data(tmp_path: Path) -> DrawnData:
    return drawn_study(tmp_path / "study")


@pytest.fixture
def source(data: DrawnData, tmp_path: Path) -> Path:
    """Export of the study."""
    export(data, tmp_path / "out", "--format", "coco")
    return tmp_path / "out"


def test_a_label_of_the_study_stays_unless_it_is_to_be_replaced(data: DrawnData, source: Path) -> None:
    first = data.labels()["c1"].masks
    data.label("c1", first & False)
    report = import_into(data, source)
    assert report["counts"] == {"images present": 4, "labels kept": 1, "labels unchanged": 2}
    assert "c1: the study has another label; --replace" in report["text"]
    assert not data.labels()["c1"].masks.any()
    assert import_into(data, source, "--replace")["counts"]["labels replaced"] == 1
    assert (data.labels()["c1"].masks == first).all()
    store = data.opened()[1]
    # The drawn one, and the empty one that was replaced.
    assert len(store.labels.history.versions(FINAL, "c1")) == 2
    assert import_into(data, source, "--replace")["counts"] == {"images present": 4, "labels unchanged": 3}
    assert len(store.labels.history.versions(FINAL, "c1")) == 2


def test_an_unreadable_label_of_the_study_stays(data: DrawnData, source: Path) -> None:
    (data.folder / "labels" / "final" / "c1.seg.nrrd").write_bytes(b"broken")
    report = import_into(data, source)
    assert "c1: the study has a label that cannot be read" in report["text"]
    assert import_into(data, source, "--replace")["counts"]["labels replaced"] == 1


def test_labels_have_author_origin_and_a_line_of_the_audit_log(source: Path, tmp_path: Path) -> None:
    other = empty_study(tmp_path / "other", small_task())
    import_into(other, source, "--user", "Dr. Gauß")
    study, store = other.opened()
    info = store.get_label_info("c0", FINAL)
    assert info["user"] == "Dr. Gauß"
    assert info["imported_from"]["format"] == "coco"
    assert "instances_train.json" in info["imported_from"]["files"]
    lines = [json.loads(line) for line in study.audit.path.read_text().splitlines()]
    assert {line["user"] for line in lines} == {"Dr. Gauß"}
    done = {action: sorted(line["case"] for line in lines if line["action"] == action) for action in ACTIONS}
    assert done == {"image added": ["c0", "c1", "c2", "u"], "label saved": ["c0", "c1", "c2"]}


def test_another_image_of_the_same_name_is_not_taken(data: DrawnData, source: Path) -> None:
    write_png(data.folder / "c0.png", np.full((48, 64), 90, np.uint8))
    write_png(data.folder / "u.png", np.full((20, 20), 90, np.uint8))
    report = import_into(data, source, "--replace", code=1)
    assert report["counts"]["images not taken"] == 2
    assert "another image 'c0' is in the study, c0.png; rename one" in report["text"]


def test_a_copy_of_an_image_in_another_format_is_the_same_image(data: DrawnData, source: Path) -> None:
    """Its label is saved on the study's own image."""
    shutil.rmtree(data.folder / "labels")
    for path in data.folder.glob("*.png"):
        Image.open(path).save(path.with_suffix(".tif"))
        path.unlink()
    assert import_into(data, source)["counts"] == {"images present": 4, "labels saved": 3}


def test_broken_image_is_named_and_the_rest_is_taken(source: Path, tmp_path: Path) -> None:
    (source / "images" / "c0.png").write_bytes(b"\x89PNG\r\n\x1a\nbroken")
    other = empty_study(tmp_path / "other", small_task())
    report = import_into(other, source, code=1)
    assert "not taken c0: " in report["text"]
    assert other.images() == ["c1", "c2", "u"]


def test_a_source_with_no_structure_of_the_task(source: Path, tmp_path: Path) -> None:
    other = empty_study(tmp_path / "other", small_task(structures=["nerve"]))
    code, text = run_command("import", source, "--studies", other.folder, "--task", other.task_file)
    assert code == 2
    assert "none of its names (disk, square) is a structure of task drawn, which has nerve" in " ".join(text.split())
    assert other.images() == []


def test_labels_of_another_task_in_the_study_stay(data: DrawnData, source: Path, tmp_path: Path) -> None:
    """Another task has a folder of its own for its labels."""
    task = small_task(name="other", structures=["square", "nerve"])
    path = tmp_path / "other.yaml"
    path.write_text(json.dumps(task.model_dump(mode="json")))
    before = data.labels()
    second = DrawnData(data.folder, task, path)
    assert import_into(second, source)["counts"] == {"images present": 4, "labels saved": 3}
    assert_same(data.labels(), before)
    assert (second.labels()["c0"].masks[0] == before["c0"].masks[1]).all()


def test_a_running_server_sees_the_labels(source: Path, tmp_path: Path) -> None:
    other = empty_study(tmp_path / "other", small_task())
    _, store = other.opened()
    assert store.list_images() == []
    import_into(other, source)
    assert sorted(store.get_labeled_images()) == ["c0", "c1", "c2"]


def test_a_report_is_kept_in_the_study(source: Path, tmp_path: Path) -> None:
    other = empty_study(tmp_path / "other", small_task())
    code, text = run_command("import", source, "--studies", other.folder, "--task", other.task_file)
    assert code == 0
    (report,) = (other.folder / ".samstudent" / "drawn" / "imports").glob("*.json")
    assert report.name in text
    content = json.loads(report.read_text())
    assert content["cases"]["c0"]["structures"] == ["disk", "square"]
    assert content["cases"]["u"] == {"image": "added", "label": "none"}


def test_a_case_with_a_problem_does_not_stop_the_others(data: DrawnData) -> None:
    study, store = data.opened()
    cases = (SourceCase("x", problem="drawn by a cat"), SourceCase("u"), SourceCase("nowhere", image_name="n.png"))
    report = StudyImport(study, store, ImportOptions()).run(Source("coco", (Path("a"),), cases, True))
    assert [case.image for case in report.cases] == ["not taken", "present", "not taken"]
    assert [case.reason for case in report.cases] == [
        "drawn by a cat",
        "",
        "no image 'n.png' in the source, and no case 'nowhere' in the study",
    ]


def test_a_broken_split_csv_stops_the_import(data: DrawnData) -> None:
    (data.folder / "split.csv").write_text("nonsense")
    study, store = data.opened()
    source = Source("coco", (Path("a"),), (SourceCase("u", is_test=True),), True)
    with pytest.raises(UserError, match=r"split\.csv"):
        StudyImport(study, store, ImportOptions()).run(source)
