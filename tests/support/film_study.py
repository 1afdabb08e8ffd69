"""Real Orthanc with synthetic radiographs, and the real server on it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from samstudent.imaging.case import read_image
from samstudent.imaging.dicom_dx_write import dx_image, save_film
from samstudent.imaging.label_writing import write_masks
from samstudent.server.pacs.orthanc import Orthanc
from samstudent.task import Task, load_task
from support.live_server import NO_SCORES, TASK, RunningServer, draw_film
from support.needed import require_orthanc

FILMS = 6


@dataclass
class PacsStudy:
    """Cases in a PACS, with their truth. ``folder`` is what ``RunningServer`` calls its study: here an address."""

    orthanc: Orthanc
    files: Path
    task_file: Path
    task: Task
    truth: dict[str, np.ndarray]

    @property
    def folder(self) -> str:
        return self.orthanc.url

    @property
    def cases(self) -> list[str]:
        return list(self.truth)


class FilmStudy(PacsStudy):
    """Radiographs in a PACS."""

    def image(self, case: str) -> Path:
        return self.files / f"{case}.dcm"

    def label(self, case: str, folder: Path, masks: np.ndarray | None = None) -> Path:
        """File of an annotator: the true masks, or other ones."""
        path = folder / f"{case}.seg.nrrd"
        masks = self.truth[case] if masks is None else masks
        write_masks(path, masks, self.task, read_image(self.image(case)).grid)
        return path

    def add_film(self, seed: int) -> str:
        """Create a synthetic radiograph and send it to the PACS; returns its case id."""
        pixels, masks = draw_film(np.random.default_rng(seed))
        image = dx_image(pixels, f"film{seed}")
        save_film(image, self.files)
        self.orthanc.store([image])
        self.truth[str(image.SeriesInstanceUID)] = masks
        return str(image.SeriesInstanceUID)


@contextmanager
def running_orthanc(folder: Path) -> Iterator[Orthanc]:
    """An empty Orthanc."""
    require_orthanc()
    running = Orthanc(folder)
    try:
        running.start()
        yield running
    finally:
        running.kill()


@pytest.fixture(scope="module")
def orthanc(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    with running_orthanc(tmp_path_factory.mktemp("orthanc")) as running:
        yield running


@pytest.fixture(scope="module")
def films(orthanc: Orthanc, tmp_path_factory: pytest.TempPathFactory) -> FilmStudy:
    root = tmp_path_factory.mktemp("films")
    (root / "tiny.yaml").write_text(TASK + 'codes: {radius: {value: "62413002", meaning: Radius, color: "#ff8000"}}\n')
    study = FilmStudy(orthanc, root, root / "tiny.yaml", load_task(root / "tiny.yaml"), {})
    for seed in range(FILMS):
        study.add_film(seed)
    return study


@contextmanager
def server_on(study: PacsStudy, home: Path, *, scores: bool = True) -> Iterator[RunningServer]:
    """Server that polls the PACS often and with a short wait; ``scores``: it scores the cases for active learning."""
    often = {"SAMSTUDENT_PACS_POLL_SECONDS": "0.5", "SAMSTUDENT_PACS_TIMEOUT": "5"}
    running = RunningServer(study, home, environment=often | ({} if scores else NO_SCORES))  # type: ignore[arg-type]
    try:
        running.wait_until_up()
        yield running
    finally:
        running.stop()


@pytest.fixture(scope="module")
def film_server(films: FilmStudy, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    with server_on(films, tmp_path_factory.mktemp("home")) as running:
        yield running
