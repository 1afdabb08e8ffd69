"""Import into and export from a real PACS."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from dicomweb_client import DICOMwebClient

from samstudent.imaging.case import read_image
from samstudent.imaging.label_writing import write_masks
from support.ct_study import CtStudy
from support.exchange_study import DrawnData, empty_study, import_into, run_command
from support.film_study import FilmStudy, PacsStudy

pytestmark = pytest.mark.server


@pytest.fixture(autouse=True)
def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """State of the PACS in a folder of the test."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "home"))


def import_into_pacs(study: PacsStudy, source: Path, tmp_path: Path) -> dict[str, Any]:
    report = tmp_path / "pacs.json"
    code, text = run_command("import", source, "--studies", study.folder, "--task", study.task_file, "--report", report)
    assert code == 0, text
    content: dict[str, Any] = json.loads(report.read_text())
    return content


def export(study: PacsStudy, output: Path, format: str) -> Path:
    code, text = run_command(
        "export", "data", "--studies", study.folder, "--task", study.task_file, "--output", output, "--format", format
    )
    assert code == 0, text
    return next(output.glob("Dataset*"), output)


def labelled(data: DrawnData, study: PacsStudy, cases: list[str]) -> None:
    """The study folder has the PACS's cases with the true masks."""
    labels = data.labels()
    assert sorted(labels) == sorted(cases)
    assert sorted(data.images()) == sorted(study.cases)
    assert all((labels[case].masks == study.truth[case]).all() for case in cases)


def test_radiographs_of_a_pacs(films: FilmStudy, tmp_path: Path) -> None:
    cases = films.cases[:3]
    (tmp_path / "labels").mkdir()
    for case in cases:
        films.label(case, tmp_path / "labels")
    assert import_into_pacs(films, tmp_path / "labels", tmp_path)["counts"] == {"images present": 3, "labels saved": 3}
    assert import_into_pacs(films, tmp_path / "labels", tmp_path)["counts"]["labels unchanged"] == 3
    # The labels are in the PACS, too.
    assert len(DICOMwebClient(films.folder).search_for_series(search_filters={"Modality": "SEG"})) == 3
    for format in ("nnunet", "coco", "experiment"):
        source = export(films, tmp_path / format, format)
        data = empty_study(tmp_path / f"study-{format}", films.task)
        import_into(data, source)
        labelled(data, films, cases)


def test_volumes_of_a_pacs(ct: CtStudy, tmp_path: Path) -> None:
    case = ct.cases[0]
    (tmp_path / "labels").mkdir()
    write_masks(tmp_path / "labels" / f"{case}.seg.nrrd", ct.truth[case], ct.task, read_image(ct.files / case).grid)
    import_into_pacs(ct, tmp_path / "labels", tmp_path)
    for format in ("nnunet", "experiment"):
        source = export(ct, tmp_path / format, format)
        data = empty_study(tmp_path / f"study-{format}", ct.task)
        import_into(data, source)
        labelled(data, ct, [case])
