"""Study folder of synthetic cases with the host's datastore, and a fake SAM that segments bright pixels."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from samstudent.imaging.case import read_image
from samstudent.imaging.label_writing import write_masks
from samstudent.pseudolabels.ablations import Ablations
from samstudent.rounds.study import Study
from samstudent.server.datastore.study_folder import StudyFolderDatastore
from samstudent.student.training import TrainingOptions, train_student
from samstudent.student.training_case import CaseLabel, prepare_case
from samstudent.task import Task
from support.drawn import FakeSam, case_image, shapes, small_task, write_png
from support.made_once import made_once


class DrawnStudy(Study):
    """Study with a fake SAM that needs no weights."""

    def plain_sam(self) -> Any:
        return FakeSam()


@dataclass
class Bench:
    """Objects under test."""

    study: DrawnStudy
    datastore: StudyFolderDatastore
    truths: dict[str, NDArray[Any]]
    folder: Path

    def label(self, *ids: str) -> None:
        """Save human labels of these cases."""
        for case_id in ids:
            image = read_image(self.datastore.get_image_uri(case_id))
            path = self.folder.parent / f"{case_id}.label.png"
            write_masks(path, self.truths[case_id], self.study.task, image.grid)
            self.datastore.save_label(case_id, str(path), "final", {})


def make_bench(folder: Path, count: int, task: Task) -> Bench:
    folder.mkdir()
    truths = {}
    for seed in range(count):
        pixels, truths[f"c{seed}"] = shapes(seed)
        write_png(folder / f"c{seed}.png", pixels)
    study = DrawnStudy(str(folder), str(folder), task)
    study.ablations = ABLATIONS
    datastore = StudyFolderDatastore(str(folder), auto_reload=False)
    return Bench(study, datastore, truths, folder)


#: Students of a bench are many and need not be good: half of the usual batch.
TASK = small_task(holdout={"fraction": 0.25}, training={"steps": 60, "batch_size": 2, "learning_rate": 0.01})
#: ``FakeSam`` has nothing to train, and embedding heads take seconds to learn.
ABLATIONS = Ablations(adapt_sam=False, embedding_head=False)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    """Eight cases, none labelled."""
    return make_bench(tmp_path / "study", 8, TASK)


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that has learnt disks and squares, and that one may be missing."""

    def train(folder: Path) -> None:
        task, cases = small_task(holdout={"fraction": 0.25}), []
        for seed in range(50, 60):
            pixels, masks = shapes(seed)
            if seed % 3 == 0:
                pixels, masks = np.where(masks[1], 40, pixels), masks * np.array([True, False])[:, None, None]
            cases.append(prepare_case(f"case{seed}", case_image(pixels), CaseLabel(masks), task))
        train_student(cases, task, folder / "model.pt", TrainingOptions(seed=1, steps=100))

    return made_once(tmp_path_factory, "trained", train) / "model.pt"
