"""Demo on a PACS: stored radiographs, environment of the server, and the message without Orthanc."""

from __future__ import annotations

import csv
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydicom.dataset import Dataset

from samstudent.demo.pacs import make_pacs_study
from samstudent.errors import NotFound
from samstudent.imaging.case import read_image
from samstudent.imaging.labels import read_masks
from samstudent.server.pacs import orthanc as orthanc_module
from samstudent.server.pacs.orthanc import find_orthanc
from samstudent.server.pacs.state_folder import pacs_folder
from samstudent.task import load_task
from support.needed import require_orthanc


class Shelf:
    """Receiver of the images for a PACS."""

    url = "http://127.0.0.1:8042/dicom-web"

    def __init__(self) -> None:
        self.images: list[Dataset] = []

    def store(self, images: Iterable[Dataset]) -> None:
        self.images += images


def test_phantoms_become_dx_images_with_their_truth(tmp_path: Path) -> None:
    shelf, task = Shelf(), load_task("phantom")
    study = make_pacs_study(tmp_path, shelf, cases=1, seed=0)  # type: ignore[arg-type]
    assert sorted(study.truth) == sorted([*study.train, *study.holdout])
    assert {str(image.SeriesInstanceUID) for image in shelf.images} == set(study.truth)
    assert {image.Modality for image in shelf.images} == {"DX"}
    assert not any("ImagePositionPatient" in image for image in shelf.images)
    drawn = {np.asarray(Image.open(path)).tobytes() for path in (tmp_path / "phantoms" / "images").iterdir()}
    for case, truth in study.truth.items():
        image = read_image(study.folder / f"{case}.dcm", 2)
        assert image.pixels[0].astype(np.uint16).tobytes() in drawn
        assert image.window is not None and image.grid.spacing == pytest.approx((118 / 384, 118 / 384), rel=1e-3)
        masks = read_masks(truth, task, image.grid)
        # Bone is bright: this truth is this film's.
        assert image.pixels[0][masks.any(axis=0)].mean() > image.pixels[0][~masks.any(axis=0)].mean()
    split = next((tmp_path / "data").rglob("split.csv"))
    assert split.parent.parent.parent == pacs_folder(shelf.url, tmp_path / "data")
    with split.open(newline="") as file:
        assert {row["id"]: row["split"] for row in csv.DictReader(file)} == {
            **dict.fromkeys(study.train, "train"),
            **dict.fromkeys(study.holdout, "val"),
        }


def test_missing_orthanc_is_reported_with_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(orthanc_module, "_PROGRAMS", ("no-such-program",))
    with pytest.raises(NotFound, match="apt-get install orthanc orthanc-dicomweb"):
        find_orthanc()


def test_state_folder_of_a_pacs_follows_from_its_url(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert (
        pacs_folder("https://pacs.example:8443/dicom-web/") == tmp_path / "samstudent" / "pacs-example-8443-dicom-web"
    )
    monkeypatch.delenv("XDG_DATA_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert pacs_folder("http://a/b") == tmp_path / ".local" / "share" / "samstudent" / "a-b"


@pytest.mark.slow
@pytest.mark.server
def test_demo_with_a_pacs_runs_completely(tmp_path: Path) -> None:
    require_orthanc()
    command = [sys.executable, "-m", "samstudent.cli.main", "demo", "--pacs", "--output", str(tmp_path / "out")]
    command += ["--steps", "10", "--limit", "4", "--labels", "2"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1500, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Dice on the hold-out" in done.stdout
    assert "series DX 'Wrist p.a.'" in done.stdout and "series SEG 'Label, task phantom'" in done.stdout
