"""Drawn cases with known answers: a bright disk and a dim square on noise."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from samstudent.geometry import Grid
from samstudent.images import CaseImage
from samstudent.student.data import TrainingCase, prepare_case
from samstudent.task import Task


def small_task(**changes: Any) -> Task:
    """A task for a network small enough to learn the shapes in seconds on one core."""
    content: dict[str, Any] = {
        "name": "drawn",
        "dimension": 2,
        "structures": ["disk", "square"],
        "image": {"intensity": "window", "low": 0, "high": 255},
        "student": {"size": [64, 64], "channels": [8, 16, 32]},
        "training": {"steps": 60, "batch_size": 4, "learning_rate": 0.01},
    }
    return Task.model_validate(content | changes)


def shapes(seed: int, shape: tuple[int, int] = (64, 64), overlap: bool = False) -> tuple[NDArray[Any], NDArray[Any]]:
    """uint8 (y, x) and masks bool (2, y, x); the two shapes share pixels only with ``overlap``."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: shape[0], : shape[1]]
    height, width = shape
    cy, cx = rng.uniform(0.25, 0.4, 2) * (height, width)
    top, left = (rng.uniform(0.55, 0.65, 2) if not overlap else rng.uniform(0.3, 0.4, 2)) * (height, width)
    disk = (y - cy) ** 2 + (x - cx) ** 2 <= (min(shape) * 0.16) ** 2
    square = (y >= top) & (y < top + height * 0.28) & (x >= left) & (x < left + width * 0.28)
    image = 40 + 120 * disk + 60 * square + rng.normal(0, 8, shape)
    return np.clip(image, 0, 255).astype(np.uint8), np.stack([disk, square])


def case_image(pixels: NDArray[Any], spacing: float = 1.0) -> CaseImage:
    """A case in memory; ``pixels`` (y, x) or (z, y, x)."""
    affine = np.diag([spacing, spacing, spacing, 1.0])
    return CaseImage(pixels[None].astype(np.float32), Grid.of(pixels.shape, affine))


def training_cases(count: int, task: Task, first_seed: int = 0) -> list[TrainingCase]:
    cases = []
    for seed in range(first_seed, first_seed + count):
        pixels, masks = shapes(seed, overlap=task.overlap)
        cases.append(prepare_case(f"case{seed}", case_image(pixels), masks, task))
    return cases


def write_png(path: Path, pixels: NDArray[Any]) -> Path:
    Image.fromarray(pixels).save(path)
    return path


def dice(a: NDArray[Any], b: NDArray[Any]) -> float:
    return float(2 * (a & b).sum() / (a.sum() + b.sum()))
