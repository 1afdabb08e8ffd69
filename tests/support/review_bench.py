"""Studies with pseudo labels of known masks and qualities, and the endpoints on them without the host's server."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from numpy.typing import NDArray

from samstudent.imaging.case import read_image
from samstudent.imaging.label_writing import write_masks
from samstudent.imaging.structure_names import IGNORE, REJECTED
from samstudent.pseudolabels.provenance import Provenance
from samstudent.rounds.study import Study
from samstudent.server import http
from samstudent.server.datastore.study_folder import StudyFolderDatastore
from samstudent.task import Task
from support.drawn import shapes, small_task, write_png
from support.http_server import make_context

MADE = Provenance("a" * 64, "lite_medsam", "b" * 64, "c" * 64, "d" * 64, 1.0)
RAW = Provenance("a" * 64, "", "", "", "e" * 64, 1.0)
THRESHOLD = 0.6


#: Which structures have which quality; ``low`` is the worst but one, after what has nothing.
QUALITIES: dict[str, dict[str, float | None]] = {
    "good": {"disk": 0.95, "square": 0.9},
    "low": {"disk": 0.9, "square": 0.3},
    "middle": {"disk": 0.7, "square": 0.8},
    "none": {"disk": None, "square": None},
}
HEADER = {"X-Samstudent": "test"}


def shifted(masks: NDArray[Any], by: int = 2) -> NDArray[Any]:
    """Masks of the student: ``masks`` (S, *spatial), shifted."""
    return np.roll(masks, by, axis=-1)


def write_pseudo_label(
    datastore: StudyFolderDatastore,
    task: Task,
    case: str,
    refined: NDArray[Any],
    qualities: Mapping[str, float | None],
    made: Provenance = MADE,
    raw: Provenance = RAW,
    bounds: Mapping[str, float] | None = None,
) -> None:
    """As ``produce`` writes it: refined masks gated at ``THRESHOLD``, the student's ``shifted`` beside it.

    Args:
        refined: bool (S, *spatial).
        qualities: by structure; None: absent.
        bounds: lower bound of Dice by structure; None: there are none.
    """
    grid = read_image(datastore.get_image_uri(case)).grid
    structures: dict[str, dict[str, Any]] = {}
    accepted = np.zeros((len(task.names), *(1,) * (refined.ndim - 1)), dtype=bool)
    there = accepted.copy()
    for index, name in enumerate(task.names):
        quality = qualities[name]
        there[index] = quality is not None
        accepted[index] = quality is not None and quality >= THRESHOLD
        status = "absent" if quality is None else "accepted" if accepted[index].all() else "rejected"
        structures[name] = {"status": status} | ({} if quality is None else {"quality": quality})
        if bounds is not None and quality is not None:
            structures[name] |= {"lower_bound": bounds[name], "certainty": 0.9}
    student = shifted(refined) & there
    rejected = refined & there & ~accepted
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "label.seg.nrrd"
        write_masks(
            path, refined & accepted, task, grid, marked={IGNORE: rejected | (student & ~accepted), REJECTED: rejected}
        )
        info: dict[str, Any] = {"provenance": made.as_json(), "structures": structures}
        datastore.save_label(case, str(path), "pseudo", info)
        write_masks(path, student, task, grid)
        datastore.save_label(case, str(path), "pseudo_raw", {"provenance": raw.as_json(), "structures": {}})


@dataclass
class Bench:
    study: Study
    datastore: StudyFolderDatastore
    truths: dict[str, NDArray[Any]]
    app: FastAPI

    @property
    def client(self) -> TestClient:
        return TestClient(self.app, headers=HEADER)

    def pseudo_label(self, case: str, **changes: Any) -> None:
        """Make the case's pseudo label, again."""
        options: dict[str, Any] = {"qualities": QUALITIES.get(case, QUALITIES["good"])} | changes
        write_pseudo_label(self.datastore, self.study.task, case, self.truths[case], **options)


def make_bench(folder: Path, task: Task, draw: Callable[[Path, int], NDArray[Any]], cases: list[str]) -> Bench:
    """``draw`` writes the image of a case, without its extension, and returns its truth."""
    folder.mkdir(exist_ok=True)
    truths = {case: draw(folder / case, number) for number, case in enumerate(cases)}
    context = make_context(folder, task)
    context.study.holdout.extend(context.datastore.list_images(), [])
    return Bench(context.study, context.datastore, truths, http.build(context))


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    """Seven films: four with pseudo labels (``QUALITIES``), one without, one of the hold-out, one of the test split."""

    def draw(path: Path, number: int) -> NDArray[Any]:
        pixels, truth = shapes(number)
        write_png(path.with_suffix(".png"), pixels)
        return truth

    (tmp_path / "split.csv").write_text("id,split\nheld,val\ntest,test\n")
    bench = make_bench(tmp_path, small_task(), draw, [*QUALITIES, "plain", "held", "test"])
    for case in QUALITIES:
        bench.pseudo_label(case)
    return bench


def volume_bench(folder: Path) -> Bench:
    """Three volumes of 12 x 40 x 32 voxels of 3 x 1 x 1 mm: a ball and a block, found with different quality."""

    def draw(path: Path, number: int) -> NDArray[Any]:
        z, y, x = np.mgrid[:12, :40, :32]
        ball = ((z - 5) * 3) ** 2 + (y - 14) ** 2 + (x - 10) ** 2 < (9 + number) ** 2
        block = (abs(z - 7) < 3) & (abs(y - 30) < 6) & (abs(x - 22) < 5)
        pixels = 30 + 120 * ball + 80 * block + np.random.default_rng(number).normal(0, 6, ball.shape)
        image = nibabel.Nifti1Image(pixels.astype(np.float32).transpose(2, 1, 0), np.diag([1.0, 1.0, 3.0, 1.0]))
        nibabel.save(image, f"{path}.nii.gz")
        return np.stack([ball, block])

    task = small_task(
        dimension=3,
        structures=["ball", "block"],
        student={"size": [16, 32, 32], "channels": [4, 8]},
        holdout={"fraction": 0},
    )
    bench = make_bench(folder, task, draw, ["v0", "v1", "v2"])
    for number, case in enumerate(bench.truths):
        bench.pseudo_label(case, qualities={"ball": 0.9, "block": 0.4 + 0.2 * number})
    return bench
