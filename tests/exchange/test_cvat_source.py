"""Import of CVAT's annotations: several files, names in an attribute, faults of single images."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from samstudent.imaging.cvat import read_cvat
from samstudent.task import load_task
from support.cvat_files import image, mask, polygon, write_cvat
from support.drawn import small_task, write_png
from support.exchange_study import empty_study, import_into, run_command

SIZE = (12, 16)


def film(folder: Path, name: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    write_png(folder / name, np.random.default_rng(len(name)).integers(0, 255, SIZE, dtype=np.uint8))


def test_several_files_with_names_in_an_attribute(tmp_path: Path) -> None:
    for name in ("one.png", "second.png", "third.png"):
        film(tmp_path / "films", name)
    drawn = np.zeros(SIZE, dtype=bool)
    drawn[2:9, 3:11] = True
    first = write_cvat(
        tmp_path / "annotations_train.xml",
        image("hands/one.png", SIZE, [polygon(Anatomie="disk"), mask(drawn, Anatomie="square")]),
        image("third.png", SIZE),
    )
    second = write_cvat(
        tmp_path / "annotations_test.xml",
        image("second.png", SIZE, [polygon(Anatomie="square"), polygon(Anatomie="phalanx")]),
    )
    data = empty_study(tmp_path / "study", small_task(overlap=True))
    options = ("--images", tmp_path / "films", "--attribute", "Anatomie")
    report = import_into(data, first, second, *options)
    assert report["format"] == "cvat"
    assert report["counts"] == {"images added": 3, "labels saved": 2}
    assert report["left_out"] == {"phalanx": 1}
    labels = data.labels()
    square = np.zeros(SIZE, dtype=bool)
    square[3:7, 2:6] = True
    assert (labels["one"].masks == np.stack([square, drawn])).all()
    assert (labels["second"].masks == np.stack([square & False, square])).all()
    # The name of the second file states its part.
    assert data.opened()[0].holdout.excluded == {"second"}
    again = import_into(data, first, second, *options)
    assert again["counts"] == {"images present": 3, "labels unchanged": 2}


def test_annotations_of_images_that_the_study_has(tmp_path: Path) -> None:
    data = empty_study(tmp_path / "study", small_task())
    film(data.folder, "one.png")
    path = write_cvat(tmp_path / "a.xml", image("one.jpg", SIZE, [polygon(label="disk")]))
    assert import_into(data, path)["counts"] == {"images present": 1, "labels saved": 1}


def test_an_image_with_a_shape_that_is_not_supported_is_named_and_the_rest_is_taken(tmp_path: Path) -> None:
    data = empty_study(tmp_path / "study", small_task())
    for name in ("one.png", "second.png"):
        film(data.folder, name)
    box = '<box label="disk" xtl="1" ytl="1" xbr="4" ybr="4"/>'
    path = write_cvat(
        tmp_path / "a.xml", image("one.png", SIZE, [box]), image("second.png", SIZE, [polygon(label="disk")])
    )
    report = import_into(data, path, code=1)
    assert "image one.png: shape 1: <box> is not supported" in report["text"]
    assert sorted(data.labels()) == ["second"]


def test_names_that_are_in_an_attribute_are_hinted_at(tmp_path: Path) -> None:
    data = empty_study(tmp_path / "study", small_task())
    film(data.folder, "one.png")
    path = write_cvat(tmp_path / "a.xml", image("one.png", SIZE, [polygon(Anatomie="disk")]))
    arguments = ("import", path, "--studies", data.folder, "--task", data.task_file)
    code, text = run_command(*arguments)
    assert code == 2
    assert "none of its names (bone) is a structure of task drawn" in " ".join(text.split())
    assert "give --attribute" in text


def test_the_annotations_of_the_issue(shared_cases: Path, tmp_path: Path) -> None:
    """Two films after the paper's files: overlapping bones, and phalanges that the task does not have."""
    source = shared_cases / "cvat" / "annotations.xml"
    annotations = read_cvat([source], "Anatomie")
    task = load_task("wrist")
    data = empty_study(tmp_path / "study", task)
    for case, annotation in annotations.items():
        write_png(data.folder / f"{case}.png", np.zeros(annotation.size, dtype=np.uint8))
    report = import_into(data, source, "--attribute", "Anatomie")
    assert report["counts"] == {"images present": 2, "labels saved": 2}
    assert report["left_out"]
    labels = data.labels()
    assert all((labels[case].masks == found.masks(task.names)).all() for case, found in annotations.items())
    assert any((label.masks.sum(0) > 1).any() for label in labels.values())
