"""Label files that tests write."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nrrd
import numpy as np
from numpy.typing import NDArray

from samstudent.imaging.grid import LPS_TO_RAS, Grid
from samstudent.task import Task

NAMES = ["radius", "ulna", "lunate"]


FLAT = Task(name="flat", dimension=2, structures=NAMES, overlap=True)


SOLID = Task(name="solid", dimension=3, structures=NAMES, student={"size": (16, 16, 16)})


PLAIN_GRID = Grid.of((6, 8), LPS_TO_RAS)


def disjoint(shape: tuple[int, ...], seed: int = 0) -> NDArray[Any]:
    values = np.random.default_rng(seed).integers(0, 4, shape)
    return np.stack([values == value for value in (1, 2, 3)])


def save_segments(path: Path, array: NDArray[Any], fields: dict[str, str]) -> Path:
    """A .seg.nrrd of array (k, j, i) or (k, j, i, layers), as written by another program."""
    nrrd.write(str(path), array, {"space": "left-posterior-superior", "space directions": np.vstack(
        [np.full((array.ndim - 3, 3), np.nan), np.eye(3)]), "kinds": ["list"] * (array.ndim - 3) + ["domain"] * 3,
        "space origin": [0, 0, 0], **fields}, index_order="C")  # fmt: skip
    return path
