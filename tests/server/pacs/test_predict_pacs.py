"""Prediction and evaluation of the cases of a PACS, from the command line and from Python."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pydicom
import pytest

import samstudent
from samstudent.cli.main import main
from samstudent.imaging.case import read_image
from samstudent.imaging.dicom_dx_write import dx_image, save_film
from samstudent.imaging.label_writing import write_masks
from samstudent.imaging.labels import read_masks
from samstudent.rounds.study import Study
from samstudent.server.open_datastore import open_datastore
from samstudent.server.pacs.orthanc import Orthanc
from samstudent.server.pacs.state_folder import pacs_folder
from support.drawn import shapes
from support.infer_requests import serve
from support.student_study import TASK, trained

__all__ = ["trained"]
pytestmark = pytest.mark.server


def test_cases_of_a_pacs_are_predicted_as_dicom_seg_and_evaluated(
    orthanc: Orthanc, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("COLUMNS", "200")
    films = [dx_image(shapes(seed)[0].astype(np.uint16), f"film{seed}") for seed in (300, 301)]
    orthanc.store(films)
    study = Study(orthanc.url, str(pacs_folder(orthanc.url)), TASK)
    serve(SimpleNamespace(study=study), trained)
    (tmp_path / "task.yaml").write_text(TASK.model_dump_json())

    def run(command: str, output: str, *more: str) -> None:
        given = ["--studies", orthanc.url, "--task", str(tmp_path / "task.yaml"), "--output", str(tmp_path / output)]
        monkeypatch.setattr(sys, "argv", ["samstudent", command, *given, *more])
        with pytest.raises(SystemExit) as end:
            main()
        text = capsys.readouterr()
        assert end.value.code in (None, 0), text.out + text.err

    run("predict", "out", "--format", "dicom")
    opened = samstudent.open_study(orthanc.url, tmp_path / "task.yaml", device="cpu")
    for film in films:
        case = str(film.SeriesInstanceUID)
        assert case in opened.cases()
        image = read_image(save_film(film, tmp_path))
        expected = opened.predict(case).masks
        np.testing.assert_array_equal(expected, opened.predict(image).masks)
        seg = tmp_path / "out" / f"{case}.dcm"
        np.testing.assert_array_equal(read_masks(seg, TASK, image.grid), expected)
        assert pydicom.dcmread(seg).StudyInstanceUID == film.StudyInstanceUID

    label = tmp_path / "label.seg.nrrd"
    write_masks(label, shapes(300)[1], TASK, read_image(save_film(films[0], tmp_path)).grid)
    open_datastore(study, orthanc.url).save_label(str(films[0].SeriesInstanceUID), str(label), "final", {})
    run("evaluate", "figures", "--cases", "labelled")
    (case,) = json.loads((tmp_path / "figures" / "evaluation.json").read_text())["cases"]
    assert case["unit"] == "mm" and case["scores"]["r0001"]["dice"][0] > 0.85
