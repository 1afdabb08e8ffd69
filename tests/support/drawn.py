"""Synthetic cases with known masks: a bright disk and a dim square on noise."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from samstudent.imaging.annotations import LabelledMasks
from samstudent.imaging.case import CaseImage
from samstudent.imaging.grid import Grid
from samstudent.pseudolabels.ablations import Ablations
from samstudent.pseudolabels.out_of_fold import LearningCases
from samstudent.pseudolabels.policy_fit import FitOptions, fit_policy
from samstudent.sam.cached_sam import CachedSam
from samstudent.sam.embedding import DecodedMask, Embedding
from samstudent.sam.prompts import Prompt
from samstudent.student.training_case import CaseLabel, TrainingCase, prepare_case
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
        cases.append(prepare_case(f"case{seed}", case_image(pixels), CaseLabel(masks), task))
    return cases


def write_png(path: Path, pixels: NDArray[Any]) -> Path:
    Image.fromarray(pixels).save(path)
    return path


def dice(a: NDArray[Any], b: NDArray[Any]) -> float:
    return float(2 * (a & b).sum() / (a.sum() + b.sum()))


class FakeSam:
    """SAM that segments pixels brighter than ``level`` in the box, with predicted IoU ``iou``."""

    name, digest, embedding_digest, preprocessing = "lite_medsam", "f" * 64, "f" * 64, "none"

    def __init__(self, level: int = 75, iou: float = 0.9) -> None:
        self.level, self.iou = level, iou
        self.embedded = 0

    def embed(self, image: NDArray[Any]) -> Embedding:
        self.embedded += 1
        assert image.dtype == np.uint8 and image.ndim == 3
        size, side = image.shape[:2], max(image.shape[:2])
        features = np.zeros((1, 256, side, side), np.float32)
        features[0, 0, : size[0], : size[1]] = image[..., 0]
        return Embedding(features, size, size, side)

    def decode(self, embedding: Embedding, prompt: Prompt) -> DecodedMask:
        return self.decode_many(embedding, [prompt])[0]

    def decode_many(self, embedding: Embedding, prompts: Sequence[Prompt]) -> list[DecodedMask]:
        answers = []
        for prompt in prompts:
            assert prompt.box is not None
            x0, y0, x1, y1 = (round(v) for v in prompt.box)
            logits = np.full(embedding.features.shape[2:], -5.0, np.float32)
            window = embedding.features[0, 0, y0 : y1 + 1, x0 : x1 + 1]
            logits[y0 : y1 + 1, x0 : x1 + 1] = np.where(window > self.level, 5.0, -5.0)
            answers.append(DecodedMask(logits, self.iou, embedding.frame))
        return answers


class FakeTeacher:
    """Answers of ``shapes(seed)``, called ``case<seed>``, with their truth's probabilities; three folds."""

    def __init__(self, count: int = 4, version: str = "t" * 64) -> None:
        self.folds = {f"case{seed}": seed % 3 for seed in range(count)}
        self.version = version
        self.is_single_model = False

    def predict_oof(self, case_id: str, image: CaseImage, size: Any = None) -> NDArray[Any]:
        return np.where(self.read(case_id)[1].masks, 0.9, 0.05).astype(np.float32)[None]

    def predict_members(self, image: CaseImage, size: Any = None, *, heads: bool = True) -> NDArray[Any]:
        raise AssertionError("only asked about labelled cases")

    def predict_fold(self, fold: int, image: CaseImage, size: Any = None, *, heads: bool = True) -> NDArray[Any]:
        raise AssertionError("only asked about labelled cases")

    @staticmethod
    def read(case_id: str) -> tuple[CaseImage, LabelledMasks]:
        pixels, masks = shapes(int(case_id.removeprefix("case")))
        return case_image(pixels), LabelledMasks(masks)


def learn_recipes(folder: Path, task: Task, **recipes: dict[str, Any]) -> None:
    """What ``fit_policy`` leaves in a folder, as if it had found changes of the task's recipe for some structures."""
    teacher = FakeTeacher()
    sam: Any = CachedSam(FakeSam())  # type: ignore[arg-type]
    fit_policy(
        teacher, LearningCases(teacher.read), task, sam, folder, FitOptions(ablations=Ablations(adapt_sam=False))
    )
    content = json.loads((folder / "policy.json").read_text())
    for name, changes in recipes.items():
        content["choice"]["structures"][name]["recipe"] |= changes
    (folder / "policy.json").write_text(json.dumps(content))


class FakeStudent:
    """Student with the true probabilities, by the name of the image file."""

    def __init__(self, truths: dict[str, NDArray[Any]], version: str = "a" * 64) -> None:
        self.truths, self.version = truths, version
        self.asked: list[str] = []

    def predict(self, image: CaseImage) -> NDArray[Any]:
        assert image.path is not None
        name = image.path.name.split(".")[0]
        self.asked.append(name)
        return np.where(self.truths[name], 0.9, 0.05).astype(np.float32)
