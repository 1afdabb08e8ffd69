"""``samstudent predict`` on a study folder."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest

from samstudent.cli.main import main
from samstudent.imaging.case import read_image
from samstudent.imaging.labels import read_masks
from samstudent.inference.round_model import RoundModel
from samstudent.rounds import study as study_module
from samstudent.student.predict import Student
from support.dicom_files import save
from support.drawn import FakeSam, shapes, write_png
from support.infer_requests import serve
from support.student_study import bench, trained

__all__ = ["bench", "trained"]
#: Models in the order of their loading.
LOADED: list[str] = []


@pytest.fixture
def command(bench: Any, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Function that runs the command on a study with a served round; returns exit code and output."""
    serve(bench, trained)
    (tmp_path / "task.yaml").write_text(bench.study.task.model_dump_json())
    monkeypatch.setattr(study_module, "load_backend", lambda section: LOADED.append("SAM") or FakeSam())
    load = Student.load
    monkeypatch.setattr(Student, "load", lambda *given: LOADED.append("student") or load(*given))
    LOADED.clear()
    monkeypatch.setenv("COLUMNS", "200")

    def run(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> tuple[int, str]:
        given = ["--studies", bench.folder, "--task", tmp_path / "task.yaml", "--output", tmp_path / "out"]
        monkeypatch.setattr(sys, "argv", ["samstudent", "predict", *map(str, [*arguments, *given])])
        with pytest.raises(SystemExit) as end:
            main()
        text = capsys.readouterr()
        return int(end.value.code or 0), text.out + text.err

    return run


def films(folder: Path) -> Path:
    folder.mkdir()
    for seed in (200, 201):
        write_png(folder / f"f{seed}.png", shapes(seed, (80, 90))[0])
    return folder


@pytest.mark.parametrize("file_format", ["seg.nrrd", "nii.gz", "png"])
def test_masks_of_a_folder(bench: Any, command: Any, capsys: Any, tmp_path: Path, file_format: str) -> None:
    code, text = command(capsys, films(tmp_path / "new"), "--format", file_format)
    assert code == 0, text
    model = RoundModel.load(bench.study, device="cpu")
    for name in ("f200", "f201"):
        image = read_image(tmp_path / "new" / f"{name}.png")
        found = read_masks(tmp_path / "out" / f"{name}.{file_format}", bench.study.task, image.grid)
        np.testing.assert_array_equal(found, model.predict(image).masks)
    assert "2 images by r0001: masks and quality.csv" in text and "--refine only" in text
    with (tmp_path / "out" / "quality.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["case"], row["structure"]) for row in rows] == [
        (case, name) for case in ("f200", "f201") for name in ("disk", "square")
    ]
    assert all(row["present"] == "True" and row["quality"] == "" for row in rows)
    record = json.loads((tmp_path / "out" / "prediction.json").read_text())
    assert (record["round"], record["model"], record["sam"]) == ("r0001", "student", None)
    assert not (bench.study.embeddings.folder).exists()


def test_refined_masks_have_a_quality(command: Any, capsys: Any, tmp_path: Path, bench: Any) -> None:
    code, text = command(capsys, films(tmp_path / "new"), "--refine")
    assert code == 0, text
    with (tmp_path / "out" / "quality.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert all(0 < float(row["quality"]) <= 1 and row["estimated_by"] == "formula" for row in rows)
    assert "2 of 2" in text and "r0001 and SAM" in text
    assert LOADED == ["student", "SAM"], "each once for all images"
    # Images of other folders do not displace the embeddings of the study.
    assert not bench.study.embeddings.folder.exists()


def test_failing_image_is_named_and_the_rest_is_written(command: Any, capsys: Any, tmp_path: Path) -> None:
    folder = films(tmp_path / "new")
    (folder / "f150.png").write_bytes(b"\x89PNG\r\n\x1a\n damaged")
    code, text = command(capsys, folder)
    assert code == 1
    assert "f150: " in text and str(folder / "f150.png") in text and "1 failed: f150" in text
    assert sorted(file.name for file in (tmp_path / "out").glob("*.seg.nrrd")) == ["f200.seg.nrrd", "f201.seg.nrrd"]
    assert list(json.loads((tmp_path / "out" / "prediction.json").read_text())["failed"]) == ["f150"]


def test_cases_of_the_study_by_id_and_all_of_them(command: Any, capsys: Any, tmp_path: Path) -> None:
    assert command(capsys, "c3")[0] == 0
    assert [file.name for file in (tmp_path / "out").glob("*.seg.nrrd")] == ["c3.seg.nrrd"]
    assert command(capsys, "--overwrite")[0] == 0
    assert len(list((tmp_path / "out").glob("*.seg.nrrd"))) == 8


def test_dicom_seg_refers_to_its_image(bench: Any, command: Any, capsys: Any, tmp_path: Path) -> None:
    folder = films(tmp_path / "new")
    source = save(folder / "slice.dcm", shapes(205)[0].astype(np.uint16))
    code, text = command(capsys, folder, "--format", "dicom")
    assert code == 1, "two images are no DICOM"
    assert "DICOM SEG needs a DICOM image" in text
    seg = pydicom.dcmread(tmp_path / "out" / "slice.dcm")
    referred = seg.ReferencedSeriesSequence[0].ReferencedInstanceSequence[0].ReferencedSOPInstanceUID
    assert (seg.Modality, referred) == ("SEG", pydicom.dcmread(source).SOPInstanceUID)
    image = read_image(source)
    expected = RoundModel.load(bench.study, device="cpu").predict(image).masks
    np.testing.assert_array_equal(read_masks(tmp_path / "out" / "slice.dcm", bench.study.task, image.grid), expected)


def test_another_round(bench: Any, command: Any, capsys: Any, tmp_path: Path) -> None:
    serve(bench, seed=3)
    assert command(capsys, "c0", "--round", "r0001")[0] == 0
    assert json.loads((tmp_path / "out" / "prediction.json").read_text())["round"] == "r0001"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["c0", "--round", "r0007"], "round 'r0007' does not exist"),
        (["c0", "--format", "bmp"], "format 'bmp': use one of seg.nrrd"),
        (["nothing"], "nothing: no such file or folder"),
    ],
)
def test_wrong_arguments_are_named_and_leave_nothing(
    command: Any, capsys: Any, tmp_path: Path, arguments: list[str], message: str
) -> None:
    code, text = command(capsys, *arguments)
    assert code == 2 and message in text and "Traceback" not in text
    assert not (tmp_path / "out").exists()


def test_results_are_not_mixed_with_other_files(command: Any, capsys: Any, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("")
    code, text = command(capsys, "c0")
    assert code == 2 and "exists and is not empty; choose another folder" in text
