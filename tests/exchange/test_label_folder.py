"""Import of folders of label files with a table of values."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from samstudent.errors import UserError
from samstudent.exchange.folder_source import read_label_folder
from samstudent.imaging.case import read_image
from samstudent.imaging.label_writing import write_masks
from samstudent.imaging.value_names import ValueNames, write_sidecar
from samstudent.util.files import sha256_file
from support.drawn import shapes, small_task, write_png
from support.drawn_folder import labelled_folder
from support.exchange_study import assert_same, drawn_study, empty_study, import_into, run_command


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """``images/`` and ``labels/``: value 7 is the disk, value 200 the square; without a table."""
    source = labelled_folder(tmp_path / "source", train=2, test=1)
    (source / "split.csv").unlink()
    for path in (source / "labels").iterdir():
        masks = shapes(int(path.stem.removeprefix("case")))[1]
        write_png(path, (7 * masks[0] + 200 * masks[1]).astype(np.uint8))
    return source


def test_a_table_names_the_values(tmp_path: Path, folder: Path) -> None:
    (tmp_path / "table.csv").write_text("value,structure\n0,background\n7,Disk\n200,square\n")
    data = empty_study(tmp_path / "study", small_task())
    report = import_into(data, folder, "--values", tmp_path / "table.csv")
    assert report["counts"] == {"images added": 3, "labels saved": 3}
    assert report["structures"] == {"disk": 3, "square": 3}
    assert all((label.masks == shapes(int(case[4:]))[1]).all() for case, label in data.labels().items())


def test_a_table_beside_the_labels_is_found(tmp_path: Path, folder: Path) -> None:
    (folder / "labels.json").write_text(json.dumps({"7": "disk", "200": "square"}))
    data = empty_study(tmp_path / "study", small_task())
    assert import_into(data, folder / "labels")["counts"] == {"images added": 3, "labels saved": 3}


def test_two_values_of_one_structure(tmp_path: Path, folder: Path) -> None:
    (folder / "labels.json").write_text(json.dumps({"7": "disk", "200": "disk"}))
    data = empty_study(tmp_path / "study", small_task(unmentioned="unknown"))
    import_into(data, folder)
    label = data.labels()["case0"]
    assert (label.masks[0] == shapes(0)[1].any(0)).all()
    # The table does not mention the square.
    assert label.annotated.tolist() == [True, False]


def test_values_without_names_are_not_guessed(tmp_path: Path, folder: Path) -> None:
    data = empty_study(tmp_path / "study", small_task())
    report = import_into(data, folder, code=1)
    assert report["counts"] == {"images not taken": 3}
    assert "its values have no names; give a table by --values" in report["text"]
    assert data.images() == []


def test_a_value_that_is_not_in_the_table(tmp_path: Path, folder: Path) -> None:
    (folder / "labels.json").write_text(json.dumps({"7": "disk"}))
    data = empty_study(tmp_path / "study", small_task())
    report = import_into(data, folder, code=1)
    assert "case0.png: value 200 is not in " in report["text"]


def test_names_in_files_and_beside_them_need_no_table(tmp_path: Path, folder: Path) -> None:
    task = small_task()
    for number in range(2):
        (folder / "labels" / f"case{number}.png").unlink()
        grid = read_image(folder / "images" / f"case{number}.png").grid
        name = "case0.seg.nrrd" if number == 0 else "case1.png"
        write_masks(folder / "labels" / name, shapes(number)[1], task, grid)
    path = folder / "labels" / "case1.png"
    write_sidecar(path, sha256_file(path), ValueNames(("square", "disk"), "user"))
    (folder / "labels" / "case2.png").unlink()
    data = empty_study(tmp_path / "study", task)
    assert import_into(data, folder)["counts"] == {"images added": 3, "labels saved": 2}
    labels = data.labels()
    assert (labels["case0"].masks == shapes(0)[1]).all()
    assert (labels["case1"].masks == shapes(1)[1][::-1]).all()


def test_another_study_is_a_source(tmp_path: Path) -> None:
    first = drawn_study(tmp_path / "first")
    data = empty_study(tmp_path / "study", first.task)
    assert import_into(data, first.folder)["counts"] == {"images added": 4, "labels saved": 3}
    assert_same(data.labels(), first.labels())


def test_bits_keep_overlap_and_test_rows_stay_test_cases(tmp_path: Path) -> None:
    source = labelled_folder(tmp_path / "source", train=2, test=1, kind="labels_overlap")
    (source / "structures.txt").write_text("disk\nsquare\n")
    data = empty_study(tmp_path / "study", small_task(overlap=True))
    import_into(data, source)
    for case, label in data.labels().items():
        assert (label.masks == shapes(int(case[4:]), overlap=True)[1]).all()
        assert label.masks.all(0).any()
    assert data.opened()[0].holdout.excluded == {"case2"}
    (source / "structures.txt").write_text("disk\n")
    other = empty_study(tmp_path / "other", small_task(overlap=True))
    assert "structure 2 (bit 1) is not in" in import_into(other, source, code=1)["text"]


def test_a_test_case_that_trains_in_the_study_is_not_taken(tmp_path: Path) -> None:
    source = labelled_folder(tmp_path / "source", train=1, test=1)
    (source / "structures.txt").write_text("disk\nsquare\n")
    data = empty_study(tmp_path / "study", small_task())
    (data.folder / "split.csv").write_text("id,split,train_order\ncase1,train,1")
    report = import_into(data, source, code=1)
    assert "case1: a test case of the source, but train in" in report["text"]
    assert sorted(data.labels()) == ["case0"]
    (data.folder / "split.csv").write_text("id,split\ncase1.png,val\n")
    assert "but val in" in import_into(data, source, code=1)["text"]
    (data.folder / "split.csv").write_text("id,split,train_order\nx,train,1")
    import_into(data, source)
    assert (data.folder / "split.csv").read_text() == "id,split,train_order\nx,train,1\ncase1,test,\n"


def test_a_folder_without_labels(tmp_path: Path) -> None:
    (tmp_path / "labels").mkdir()
    with pytest.raises(UserError, match="no label in this folder"):
        read_label_folder(tmp_path)
    code, text = run_command("import", tmp_path / "nowhere")
    assert (code, "nowhere: no such file or folder" in text) == (2, True)
