"""``samstudent import`` without a task, and its options."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from samstudent.task import Task
from support.cvat_files import image, polygon, write_cvat
from support.exchange_study import drawn_study, export, run_command


@pytest.mark.parametrize("format", ["nnunet", "coco", "experiment"])
def test_without_a_task_the_names_and_a_task_file_are_printed(tmp_path: Path, format: str) -> None:
    data = drawn_study(tmp_path / "study", overlap=True)
    export(data, tmp_path / "out", "--format", format)
    source = next((tmp_path / "out").glob("Dataset*"), tmp_path / "out")
    code, text = run_command("import", source)
    assert code == 0
    assert "4 cases, 3 with a label" in text
    assert "disk: in 3 labels" in text
    task = Task.model_validate(yaml.safe_load(text[text.index("name: ") :]))
    assert task.names == ["disk", "square"]
    assert task.overlap


def test_names_in_an_attribute_are_printed(tmp_path: Path) -> None:
    path = write_cvat(tmp_path / "a.xml", image("a.png", (12, 16), [polygon(Anatomie="Radius")]))
    code, text = run_command("import", path, "--attribute", "Anatomie")
    assert code == 0
    assert "Radius: in 1 labels" in text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--task", "wrist"), "--studies: missing"),
        (("--format", "voc"), "--format voc: expected auto, nnunet, coco, cvat, labels"),
        (("--values", "x.csv"), "--values: format cvat does not have this option"),
        (("--channel", "0"), "--channel: format cvat does not have this option"),
        (("--images", "nowhere"), "--images nowhere: no such folder"),
        (("--format", "nnunet"), "dataset.json: no such file"),
        (("--format", "coco"), "not valid JSON"),
    ],
)
def test_options_that_do_not_fit(tmp_path: Path, options: tuple[str, ...], message: str) -> None:
    path = write_cvat(tmp_path / "a.xml", image("a.png", (12, 16), [polygon()]))
    code, text = run_command("import", path, *options)
    assert code == 2
    assert message in " ".join(text.split())
    assert "Traceback" not in text


def test_a_folder_of_no_known_format(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    code, text = run_command("import", tmp_path)
    assert code == 2
    assert "format not recognised; expected a data set of nnU-Net" in " ".join(text.split())


def test_mistakes_leave_no_folder_behind(tmp_path: Path) -> None:
    data = drawn_study(tmp_path / "study", overlap=True)
    export(data, tmp_path / "out", "--format", "coco")
    for options, message in (
        (
            ("import", tmp_path / "out", "--studies", tmp_path / "new", "--task", "wrists"),
            "'wrists': no such file",
        ),
        (
            ("import", tmp_path / "out", "--studies", tmp_path / "a" / "b", "--task", "wrist"),
            "a/b: no such folder, and none in which it could be made",
        ),
        (
            ("export", "data", "-s", tmp_path / "gone", "-t", "wrist", "--format", "coco", "--output", tmp_path / "x"),
            "gone: no such folder",
        ),
    ):
        code, text = run_command(*options)
        assert code == 2
        assert message in " ".join(text.split())
    assert not {"new", "a", "x"} & {path.name for path in tmp_path.iterdir()}
