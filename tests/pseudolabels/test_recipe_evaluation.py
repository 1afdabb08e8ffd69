"""Evaluation of recipes with a fake SAM that knows the masks, or does not."""

from __future__ import annotations

from collections.abc import Sequence
from threading import Lock
from typing import Any
from zlib import crc32

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from samstudent.imaging.annotations import LabelledMasks
from samstudent.pseudolabels.out_of_fold import OutOfFoldCase
from samstudent.pseudolabels.quality_features import ShapeStatistics
from samstudent.pseudolabels.recipe_choice import RecipeChoice
from samstudent.pseudolabels.recipe_evaluation import RecipeEvaluator, choose_recipes
from samstudent.sam.cached_sam import CachedSam
from samstudent.sam.embedding import DecodedMask, Embedding
from samstudent.sam.prompts import Prompt
from support.drawn import FakeSam, case_image, dice, shapes, small_task

NAMES = ["disk", "square"]
CASES = 12


class Oracle(FakeSam):
    """SAM with the true mask of the structure that fits the box best; noise for the structures in ``spoils``."""

    def __init__(self, spoils: Sequence[int] = (), seed: int = 0) -> None:
        super().__init__()
        self.spoils, self.seed, self.decoded = spoils, seed, 0
        self.turn = Lock()

    def decode_many(self, embedding: Embedding, prompts: Sequence[Prompt]) -> list[DecodedMask]:
        with self.turn:
            self.decoded += len(prompts)
        return [self.draw(embedding, prompt) for prompt in prompts]

    def draw(self, embedding: Embedding, prompt: Prompt) -> DecodedMask:
        assert prompt.box is not None
        box = np.zeros(embedding.features.shape[2:], bool)
        x0, y0, x1, y1 = (round(v) for v in prompt.box)
        box[y0 : y1 + 1, x0 : x1 + 1] = True
        truths = TRUTHS[crc32(embedding.features[0, 0].astype(np.uint8).tobytes())]
        s = int(np.argmax([dice(truth, box) for truth in truths]))
        logits = self.noise(embedding, prompt) if s in self.spoils else np.where(truths[s], 6.0, -6.0)
        return DecodedMask(logits.astype(np.float32), 0.9, embedding.frame)

    def noise(self, embedding: Embedding, prompt: Prompt) -> NDArray[Any]:
        """Noise mask, equal for equal prompts."""
        prompted = crc32(embedding.features.tobytes() + repr(prompt.box).encode())
        rng = np.random.default_rng([self.seed, prompted])
        return np.asarray(ndimage.gaussian_filter(rng.normal(0, 20, embedding.features.shape[2:]), 3))


#: Checksum of an image's pixels -> its truth.
TRUTHS = {crc32(pixels.tobytes()): masks for pixels, masks in map(shapes, range(CASES))}


def case(seed: int, blunder: float = 3.0) -> OutOfFoldCase:
    """Case with predictions that are shifted by ``blunder`` pixels."""
    pixels, truth = shapes(seed)
    rng = np.random.default_rng(seed)
    moved = np.stack([ndimage.shift(m.astype(float), rng.normal(0, blunder, 2), order=1) for m in truth])
    probabilities = np.clip(ndimage.gaussian_filter(moved, (0, 1, 1)), 0.01, 0.98)
    members = probabilities.astype(np.float16)[None]
    return OutOfFoldCase(f"case{seed}", seed % 3, case_image(pixels), members, LabelledMasks(truth))


@pytest.fixture(scope="module")
def cases() -> list[OutOfFoldCase]:
    return [case(seed) for seed in range(CASES)]


def evaluator(cases: Sequence[OutOfFoldCase], sam: Any, adapted: Any = None, overlap: bool = False) -> RecipeEvaluator:
    return RecipeEvaluator(cases, small_task(overlap=overlap), 0.0, CachedSam(sam), adapted)


def sources(choice: RecipeChoice) -> list[str]:
    return [choice.recipes[name].source for name in NAMES]


@pytest.mark.parametrize("seed", range(3))
def test_random_sam_selects_the_student(cases: list[OutOfFoldCase], seed: int) -> None:
    choice = choose_recipes(evaluator(cases, Oracle(spoils=(0, 1), seed=seed)))
    assert sources(choice) == ["student", "student"]
    for found in choice.structures.values():
        assert found.dice["sam"] is not None and found.dice["sam"] < (found.dice["student"] or 0)


def test_perfect_sam_is_selected(cases: list[OutOfFoldCase]) -> None:
    choice = choose_recipes(evaluator(cases, Oracle(), overlap=True))
    assert sources(choice) == ["sam", "sam"] and choice.fallback is None
    for found in choice.structures.values():
        student = found.dice["student"]
        assert found.dice["sam"] == 1.0 and student is not None and student < 0.9 and found.cases == CASES
        assert found.gain == pytest.approx(1 - student, abs=0.05)
    assert choice.cross_validated_gain is not None and choice.cross_validated_gain > 0.1


def test_each_structure_has_its_best_source(cases: list[OutOfFoldCase]) -> None:
    assert sources(choose_recipes(evaluator(cases, Oracle(spoils=[1])))) == ["sam", "student"]


def test_plain_sam_is_selected_if_the_adapted_one_is_not_better(cases: list[OutOfFoldCase]) -> None:
    same = choose_recipes(evaluator(cases, Oracle(), dict.fromkeys(range(3), Oracle())))
    assert sources(same) == ["plain_sam", "plain_sam"]


def test_adapted_sam_is_used_only_for_its_fold(cases: list[OutOfFoldCase]) -> None:
    class Watched(Oracle):
        def __init__(self, fold: int) -> None:
            super().__init__()
            own = [c for c in cases if c.fold == fold]
            self.images = {crc32(c.image.pixels[0].astype(np.uint8).tobytes()) for c in own}

        def draw(self, embedding: Embedding, prompt: Prompt) -> DecodedMask:
            assert crc32(embedding.features[0, 0].astype(np.uint8).tobytes()) in self.images
            return super().draw(embedding, prompt)

    adapted = {fold: Watched(fold) for fold in range(3)}
    choice = choose_recipes(evaluator(cases, Oracle(spoils=(0, 1)), adapted))
    assert sources(choice) == ["sam", "sam"]
    assert all(sam.decoded for sam in adapted.values())


def test_quality_rows_contain_present_structures_with_oof_features(cases: list[OutOfFoldCase]) -> None:
    found = evaluator(cases, Oracle(spoils=[1]))
    statistics = ShapeStatistics.of(c.truth.masks for c in cases)
    recipes = dict.fromkeys(NAMES, found.task.recipe)
    rows = found.quality_rows(recipes, statistics, uses_sam=True)
    assert [(row.case, row.structure) for row in rows[:3]] == [
        ("case0", "disk"),
        ("case0", "square"),
        ("case1", "disk"),
    ]
    assert all(row.dice == 1.0 and row.features.predicted_iou == 0.9 for row in rows if row.structure == "disk")
    student = {name: recipe.model_copy(update={"source": "student"}) for name, recipe in recipes.items()}
    without = found.quality_rows(student, statistics, uses_sam=False)
    assert all(np.isnan(row.features.predicted_iou) for row in without) and len(without) == len(rows)
