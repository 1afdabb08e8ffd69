"""Synthetic volumes and a fake SAM that knows the masks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from samstudent.sam.embedding import DecodedMask, Embedding
from samstudent.sam.prompts import Prompt
from samstudent.sam.refiner import Refiner, RefinerOptions
from samstudent.sam.results import Refinement
from samstudent.sam.volume_refinement import SliceOptions
from samstudent.task import Task

SHAPE = (12, 40, 40)


def task(**recipe: Any) -> Task:
    return Task.model_validate(
        {
            "name": "t",
            "dimension": 3,
            "structures": ["a", "b"],
            "student": {"size": [16, 16, 16]},
            "overlap": True,
            "recipe": {"axis": "z", **recipe},
        }
    )


def refine(
    p: Any, image: Any, sam: Any, task: Task, spacing: Any = None, progress: Any = None, **more: Any
) -> Refinement:
    """By a refiner of the task; ``more``: recipes, prompt_all, compare."""
    slices = replace(SliceOptions.of(task.recipe), compare=more.pop("compare", True))
    options = RefinerOptions(more.pop("prompt_all", True), slices)
    refiner = Refiner.for_task(task, sam, recipes=more.pop("recipes", None), options=options)
    return refiner.refine(p, image, spacing, progress=progress, **more)


class Knowing:
    """Backend that fills the bright pixels in the box; ``spoil`` may change the mask."""

    name, digest, embedding_digest, preprocessing = "lite_medsam", "0" * 64, "0" * 64, "none"

    def __init__(self, spoil: Callable[[int, Any], Any] = lambda z, logits: logits) -> None:
        self.spoil = spoil
        self.embedded: list[Any] = []
        self.asked: list[Prompt] = []

    def embed(self, image: Any) -> Embedding:
        self.embedded.append(image)
        features = image[None, None, ..., 0].astype(np.float32)
        return Embedding(features, image.shape[:2], image.shape[:2], max(image.shape[:2]))

    def decode(self, embedding: Embedding, prompt: Prompt) -> DecodedMask:
        return self.decode_many(embedding, [prompt])[0]

    def decode_many(self, embedding: Embedding, prompts: Sequence[Prompt]) -> list[DecodedMask]:
        answers = []
        for prompt in prompts:
            assert prompt.box
            self.asked.append(prompt)
            x0, y0, x1, y1 = (round(v) for v in prompt.box)
            logits = np.full((embedding.side, embedding.side), -5, np.float32)
            seen = embedding.features[0, 0] > 100
            logits[y0 : y1 + 1, x0 : x1 + 1] = np.where(seen[y0 : y1 + 1, x0 : x1 + 1], 5, -5)
            # The slice's number is written into its first pixel.
            logits = self.spoil(int(embedding.features[0, 0, 0, 0]), logits)
            answers.append(DecodedMask(logits, 0.75, embedding.frame))
        return answers


def ball(shape: Sequence[int] = SHAPE, radius: Sequence[float] = (4.5, 12, 10)) -> Any:
    grid = np.indices(shape)
    return sum(((g - (n - 1) / 2) / r) ** 2 for g, n, r in zip(grid, shape, radius, strict=True)) <= 1


def image_of(mask: Any, axis: int = 0) -> Any:
    pixels = np.where(mask, 200, 50).astype(np.uint8)
    for z in range(pixels.shape[axis]):
        np.moveaxis(pixels, axis, 0)[z, 0, 0] = z
    return np.repeat(pixels[..., None], 3, axis=-1)


def seen_by_student(*masks: Any) -> Any:
    return np.stack([np.where(m, 0.9, 0.05) for m in masks]).astype(np.float32)


NONE = np.zeros(SHAPE, bool)


def holds_together(result: Refinement) -> None:
    assert result.masks.shape == result.soft.shape == result.coarse.shape
    np.testing.assert_array_equal(result.soft >= 0.5, result.masks)
    assert all(array.flags.c_contiguous for array in (result.masks, result.soft, result.coarse))


def dice(a: Any, b: Any) -> float:
    return float(2 * (a & b).sum() / (a.sum() + b.sum()))


@pytest.mark.parametrize("axis", ["z", "y", "x"])
def test_perfect_sam_corrects_the_student_along_any_axis(axis: str) -> None:
    truth = ball((30, 32, 34), (9, 11, 10))
    student = truth & (np.indices(truth.shape).sum(axis=0) % 5 > 0)  # riddled
    sam = Knowing()
    result = refine(
        seen_by_student(student, np.zeros_like(truth)), image_of(truth, "zyx".index(axis)), sam, task(axis=axis)
    )
    holds_together(result)
    assert dice(result.masks[0], truth) > 0.99 > dice(student, truth)
    assert {entry.get("axis", "z") for entry in result.structures[0].prompts} == {axis}
    assert len(sam.embedded) == {"z": 18, "y": 22, "x": 20}[axis]
    assert {image.shape[:2] for image in sam.embedded} == {
        {"z": (32, 34), "y": (30, 34), "x": (30, 32)}[axis],
    }
    assert not result.masks[1].any() and not result.structures[1].present


def test_slices_follow_the_voxels_when_the_axis_is_automatic() -> None:
    truth = ball((30, 32, 34), (9, 11, 10))
    p = seen_by_student(truth, np.zeros_like(truth))
    for spacing, size in (((1, 1, 4), (30, 32)), ((1, 4, 1), (30, 34)), (None, (32, 34))):
        sam = Knowing()
        refine(p, image_of(truth), sam, task(axis="auto"), spacing=spacing)
        assert sam.embedded[0].shape[:2] == size


def test_missed_slice_is_prompted_with_an_interpolated_box() -> None:
    truth = ball()
    p = seen_by_student(truth, NONE)
    p[0, 5] = 0.05
    sam = Knowing()
    result = refine(p, image_of(truth), sam, task(component="largest"))
    holds_together(result)
    assert dice(result.masks[0, 5], truth[5]) > 0.95
    entry = next(entry for entry in result.structures[0].prompts if entry["slice"] == 5)
    assert entry["box"] == pytest.approx([10, 9, 29, 30], abs=2)


def test_outlier_mask_is_replaced_by_the_students() -> None:
    truth = ball()
    student = np.roll(truth, 1, axis=2)
    sam = Knowing(lambda z, logits: np.full_like(logits, 5) if z == 5 else logits)
    result = refine(seen_by_student(student, NONE), image_of(truth), sam, task())
    holds_together(result)
    np.testing.assert_array_equal(result.masks[0, 5], student[5])
    calm = refine(seen_by_student(student, NONE), image_of(truth), Knowing(), task())
    # And its neighbours are not smoothed with it.
    assert not result.masks[0, 4, :5].any() and result.structures[0].agreement < calm.structures[0].agreement
    alone = refine(seen_by_student(student, NONE), image_of(truth), sam, task(), compare=False)
    assert alone.masks[0, 5].all()


def test_flicker_between_slices_is_smoothed() -> None:
    truth = ball()

    def flicker(z: int, logits: Any) -> Any:
        return np.where(np.roll(logits > 0, 3 * (-1) ** z, axis=1), 2.0, -2.0).astype(np.float32)

    p = seen_by_student(truth, NONE)
    on, off = (refine(p, image_of(truth), Knowing(flicker), task(), compare=n).masks[0] for n in (True, False))
    steps = [sum(int((m[z] ^ m[z + 1]).sum()) for z in range(3, 8)) for m in (on, off)]
    assert steps[0] < 0.7 * steps[1]


def test_parts_in_a_slice_have_separate_boxes() -> None:
    arms = np.zeros(SHAPE, bool)
    arms[3:9, 10:30, 4:12] = arms[3:9, 10:30, 26:34] = True
    between = arms.copy()
    between[3:9, 10:30, 16:22] = True  # as bright, and no part of the structure
    sam = Knowing()
    result = refine(seen_by_student(arms, NONE), image_of(between), sam, task(component="all"))
    holds_together(result)
    assert len(sam.asked) == 12 and sam.asked[0].box == (4, 10, 11, 29)
    np.testing.assert_array_equal(result.masks[0], arms)
    assert result.structures[0].predicted_iou == pytest.approx(0.75) and result.structures[0].agreement == 1


def test_only_every_nth_slice_is_embedded_and_the_others_interpolated() -> None:
    truth = ball((24, 40, 40), (10.5, 14, 12))
    p = seen_by_student(truth, np.zeros_like(truth))
    sam, seen = Knowing(), []
    result = refine(p, image_of(truth), sam, task(slice_step=4), progress=lambda i, n: seen.append((i, n)))
    holds_together(result)
    occupied = np.flatnonzero(truth.any(axis=(1, 2)))
    asked = [int(image[0, 0, 0]) for image in sam.embedded]
    assert (
        asked == sorted({occupied[0], occupied[-1], 4, 8, 12, 16, 20} & {*occupied}) and len(asked) < len(occupied) / 2
    )
    assert seen[-1] == (len(asked), len(asked))
    assert dice(result.masks[0], truth) > 0.9
    assert {entry["slice"] for entry in result.structures[0].prompts} == {*asked}


def test_slices_are_not_embedded_if_the_source_is_the_student() -> None:
    truth = ball()
    p, sam = seen_by_student(truth, NONE), Knowing()
    kept = {"a": task(source="student").recipe}
    result = refine(p, image_of(truth), sam, task(), recipes=kept, prompt_all=False)
    assert not sam.embedded and not sam.asked
    np.testing.assert_array_equal(result.masks[0], truth)
    refine(p, image_of(truth), sam, task(), recipes=kept, prompt_all=True)
    assert len(sam.embedded) == int(truth.any(axis=(1, 2)).sum())


def test_structures_are_disjoint_if_overlap_is_forbidden() -> None:
    truth = ball()
    low, high = truth.copy(), truth.copy()
    low[:, 20:], high[:, :18] = False, False
    content = {**task().model_dump(), "overlap": False}
    result = refine(seen_by_student(low, high), image_of(truth), Knowing(), Task.model_validate(content))
    holds_together(result)
    assert not (result.masks[0] & result.masks[1]).any() and result.masks.any(axis=0)[truth].mean() > 0.99


def test_large_slices_are_refined_at_512_pixels() -> None:
    truth = np.zeros((4, 60, 1024), bool)
    truth[1:3, 10:50, 100:300] = True
    sam = Knowing()
    result = refine(seen_by_student(truth, np.zeros_like(truth)), image_of(truth), sam, task())
    holds_together(result)
    assert sam.asked[0].box == (50, 5, 149, 24)
    assert result.structures[0].prompts[0]["box"] == [100, 10, 299, 49]


def test_recipes_of_structures_apply_to_volumes() -> None:
    truth = ball()
    student = np.roll(truth, 2, axis=2)
    base = task()
    keep = base.recipe.model_copy(update={"source": "student"})
    sam = Knowing()
    result = refine(seen_by_student(student, student), image_of(truth), sam, base, recipes={"b": keep})
    holds_together(result)
    np.testing.assert_array_equal(result.masks[1], student)
    assert not np.array_equal(result.masks[0], student)
    a, b = result.structures
    assert (a.source, b.source) == ("sam", "student") and b.predicted_iou == pytest.approx(0.75)
    again = refine(seen_by_student(student, student), image_of(truth), sam, base, recipes={"b": keep})
    assert again.as_json() == result.as_json()
    asked = len(sam.asked)
    refine(seen_by_student(student, student), image_of(truth), sam, base, recipes={"b": keep}, prompt_all=False)
    assert len(sam.asked) - asked == truth.any(axis=(1, 2)).sum()
