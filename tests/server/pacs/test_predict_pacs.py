"""Prediction of the cases of a PACS, from the command line and from Python."""

from __future__ import annotations

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
from samstudent.imaging.labels import read_masks
from samstudent.rounds.study import Study
from samstudent.server.pacs.orthanc import Orthanc
from samstudent.server.pacs.state_folder import pacs_folder
from support.drawn import shapes
from support.infer_requests import serve
from support.student_study import TASK, trained

__all__ = ["trained"]
pytestmark = pytest.mark.server


def test_cases_of_a_pacs_as_dicom_seg(
    orthanc: Orthanc, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("COLUMNS", "200")
    films = [dx_image(shapes(seed)[0].astype(np.uint16), f"film{seed}") for seed in (300, 301)]
    orthanc.store(films)
    study = Study(orthanc.url, str(pacs_folder(orthanc.url)), TASK)
    serve(SimpleNamespace(study=study), trained)
    (tmp_path / "task.yaml").write_text(TASK.model_dump_json())

    given = ["--studies", orthanc.url, "--task", str(tmp_path / "task.yaml"), "--output", str(tmp_path / "out")]
    monkeypatch.setattr(sys, "argv", ["samstudent", "predict", *given, "--format", "dicom"])
    with pytest.raises(SystemExit) as end:
        main()
    text = capsys.readouterr()
    assert end.value.code in (None, 0), text.out + text.err
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
