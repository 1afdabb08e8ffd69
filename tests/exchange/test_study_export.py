"""Export of a study: pseudo labels, cases that cannot be written, and the experiment's folder."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from samstudent.imaging.case import read_image
from samstudent.imaging.label_tags import PSEUDO
from samstudent.imaging.label_writing import write_masks
from samstudent.imaging.structure_names import REJECTED
from samstudent.research.folder import open_folder
from samstudent.task import load_task
from support.drawn import shapes, small_task
from support.exchange_study import DrawnData, drawn_study, empty_study, export, import_into, run_command


def pseudo_label(data: DrawnData, case: str, masks: NDArray[np.bool_]) -> None:
    """Pseudo label of a case: the disk is accepted, the square was rejected."""
    _, datastore = data.opened()
    path = data.folder.parent / "pseudo.seg.nrrd"
    grid = read_image(datastore.get_image_uri(case)).grid
    kept = masks.copy()
    kept[1] = False
    write_masks(path, kept, data.task, grid, marked={REJECTED: masks ^ kept})
    structures = {"disk": {"status": "accepted", "quality": 0.9}, "square": {"status": "rejected", "quality": 0.2}}
    datastore.save_label(case, str(path), PSEUDO, {"structures": structures})


@pytest.mark.parametrize("format", ["nnunet", "coco", "experiment"])
def test_pseudo_labels_are_exported_on_request_and_never_imported_as_human_ones(tmp_path: Path, format: str) -> None:
    data = drawn_study(tmp_path / "study")
    pseudo_label(data, "u", shapes(3, (48, 64))[1])
    text = export(data, tmp_path / "without", "--format", format)
    assert "3 human labels, 1 images without a label" in " ".join(text.split())
    text = export(data, tmp_path / "with", "--format", format, "--pseudo-labels")
    assert "3 human labels, 1 pseudo labels" in " ".join(text.split())
    source = next((tmp_path / "with").glob("Dataset*"), tmp_path / "with")
    record = json.loads((source / "samstudent_export.json").read_text())
    assert record["cases"]["u"] == {"label": "pseudo_label", "split": "train"}
    other = empty_study(tmp_path / "other", data.task)
    report = import_into(other, source)
    assert report["counts"] == {"images added": 4, "labels saved": 3}
    assert "pseudo labels of an export" in report["text"]
    assert sorted(other.labels()) == ["c0", "c1", "c2"]


def test_a_rejected_structure_of_a_pseudo_label_is_unknown(tmp_path: Path) -> None:
    data = drawn_study(tmp_path / "study")
    masks = shapes(3, (48, 64))[1]
    pseudo_label(data, "u", masks)
    export(data, tmp_path / "out", "--format", "experiment", "--pseudo-labels")
    _, label = open_folder(tmp_path / "out").case("u").read(data.task)
    assert label is not None
    assert label.annotated.tolist() == [True, False]
    assert (label.masks[0] == masks[0]).all()


@pytest.mark.parametrize("overlap", [False, True])
@pytest.mark.parametrize("depth", [0, 4])
def test_an_experiment_reads_its_folder(tmp_path: Path, overlap: bool, depth: int) -> None:
    data = drawn_study(tmp_path / "study", overlap=overlap, depth=depth)
    (data.folder / "split.csv").write_text("id,split\nc2,test\n")
    text = export(data, tmp_path / "out", "--format", "experiment")
    assert f"samstudent experiment {tmp_path / 'out'} --task {tmp_path / 'out' / 'task.yaml'}" in "".join(
        text.split("\n")
    )
    folder = open_folder(tmp_path / "out")
    assert folder.bits == overlap
    # In the order in which they were labelled; the case without a label is last.
    assert folder.order == ["c0", "c1", "u"]
    assert folder.labelled("test") == ["c2"]
    task = load_task(tmp_path / "out" / "task.yaml")
    assert task == data.task
    for case, label in data.labels().items():
        _, found = folder.case(case).read(task)
        assert found is not None
        assert (found.masks == label.masks).all()
    assert json.loads((tmp_path / "out" / "labels.json").read_text()) == {"1": "disk", "2": "square"}


def test_a_case_that_cannot_be_read_is_named_and_the_rest_is_written(tmp_path: Path) -> None:
    data = drawn_study(tmp_path / "study")
    (data.folder / "c1.png").write_bytes(b"\x89PNG\r\n\x1a\nbroken")
    arguments = ("--studies", data.folder, "--task", data.task_file, "--output", tmp_path / "out")
    code, text = run_command("export", "data", *arguments, "--format", "coco")
    assert code == 1
    assert "left out c1: " in text
    assert sorted(path.name for path in (tmp_path / "out" / "images").iterdir()) == ["c0.png", "c2.png", "u.png"]


def test_flagged_cases_are_left_out(tmp_path: Path) -> None:
    data = drawn_study(tmp_path / "study")
    data.opened()[0].flags.put("c1", "blurred", "annotator")
    text = export(data, tmp_path / "out", "--format", "nnunet")
    assert "c1: flagged as unusable" in text
    files = [path.name for path in (tmp_path / "out" / "Dataset001_drawn").rglob("*.png")]
    assert sorted(files) == ["c0.png", "c0_0000.png", "c2.png", "c2_0000.png", "u_0000.png"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--format", "voc"), "--format voc: expected nnunet, coco, experiment"),
        (("--format", "coco", "--channel", "CT"), "--channel: format coco does not have this option; nnunet has it"),
        (("--format", "nnunet", "--polygons"), "--polygons: format nnunet does not have this option; coco has it"),
    ],
)
def test_options_that_do_not_fit(tmp_path: Path, options: tuple[str, ...], message: str) -> None:
    data = drawn_study(tmp_path / "study", count=1)
    arguments = ("--studies", data.folder, "--task", data.task_file, "--output", tmp_path / "out")
    code, text = run_command("export", "data", *arguments, *options)
    assert code == 2
    assert message in " ".join(text.split())


def test_a_folder_that_is_not_empty_or_a_study_without_labels(tmp_path: Path) -> None:
    data = drawn_study(tmp_path / "study", count=1)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").touch()
    arguments = ("--studies", data.folder, "--task", data.task_file, "--output", tmp_path / "out")
    code, text = run_command("export", "data", *arguments, "--format", "coco")
    assert (code, "out: is not empty" in text) == (2, True)
    other = empty_study(tmp_path / "other", small_task())
    arguments = ("--studies", other.folder, "--task", other.task_file, "--output", tmp_path / "out2")
    code, text = run_command("export", "data", *arguments, "--format", "coco")
    assert (code, "the study has no label to export" in text) == (2, True)
