"""Images and masks for tests of DICOM SEG."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from samstudent.imaging.case import read_image
from samstudent.imaging.dicom_dx_write import dx_image, save_film
from samstudent.task import Task
from support.dicom_files import SERIES, save_series


def make_task(dimension: int, **changes: Any) -> Task:
    content = {"name": "t", "dimension": dimension, "structures": ["left lung", "heart", "rib"], "overlap": True}
    return Task.model_validate({**content, "student": {"size": [32] * dimension}, **changes})


def a_film(folder: Path, **changes: Any) -> Path:
    pixels = np.random.default_rng(0).integers(0, 4096, (23, 31), dtype=np.uint16)
    return save_film(dx_image(pixels, "film", **changes), folder)


def a_series(folder: Path, **fields: Any) -> Path:
    uids = {"StudyInstanceUID": "1.2.3", "SeriesInstanceUID": SERIES}
    return save_series(folder / "series", [9, 0, 6, 3], FrameOfReferenceUID="1.2.4", SliceThickness=3, **uids, **fields)


def random_masks(path: Path, task: Task, share: float = 0.5) -> NDArray[Any]:
    """Overlapping noise, so that equality cannot be by chance."""
    shape = read_image(path).grid.spatial_shape
    return np.random.default_rng(1).random((len(task.names), *shape)) < share
