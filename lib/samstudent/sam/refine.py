"""From a student's probabilities to the masks that SAM draws: coarse masks, stages of prompts, overlaps resolved.

What becomes of a structure (docs/reference/recipe.md):

- absent in the coarse masks: absent in the refined ones, and never asked about;
- SAM draws nothing, or loses every pixel to other structures: the coarse mask is shown instead (where overlap is
  forbidden less the pixels that others have), marked ``refined=False`` and with agreement 0, so that no one takes it
  for SAM's work and the quality gate drops it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from samstudent.errors import UserError
from samstudent.sam.backends import Decoded, Embedding, SamBackend, mask_input
from samstudent.sam.cache import EmbeddingCache
from samstudent.sam.prompts import Mask, Prompt, box_of, coarse_masks, inner_point, negative_points, reshape
from samstudent.task import Recipe, Stage, Task

Probabilities = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class StructureResult:
    """What happened to one structure.

    Attributes:
        name: of the structure.
        present: whether the coarse mask has it.
        prompts: one per stage (and slice): ``Prompt.as_json`` with ``stage`` from 1, ``mask_input`` "logits" or "mask"
            where one was given, and ``slice`` (z) in volumes.
        predicted_iou: SAM's guess of its last mask's overlap with the truth; in volumes the mean over the slices,
            weighted by the coarse mask's area. None where absent.
        agreement: Dice of the coarse mask and what SAM drew, over all slices. None where absent.
        refined: whether the mask is SAM's, in at least one slice.
    """

    name: str
    present: bool
    prompts: list[dict[str, Any]]
    predicted_iou: float | None
    agreement: float | None
    refined: bool = False

    def as_json(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Refinement:
    """Masks before and after SAM, bool (S, *spatial), and one result per structure in the same order."""

    masks: Mask
    coarse: Mask
    structures: list[StructureResult]

    def as_json(self) -> list[dict[str, Any]]:
        """One entry per structure."""
        return [structure.as_json() for structure in self.structures]


@dataclass(frozen=True)
class _Drawn:
    """SAM's work on one present structure of one slice."""

    prompts: list[dict[str, Any]]
    predicted_iou: float
    refined: bool


def refine_slice(
    probabilities: Probabilities,
    embedding: Embedding,
    backend: SamBackend,
    recipe: Recipe,
    names: Sequence[str],
    overlap: bool,
) -> Refinement:
    """Refine one 2D image.

    Args:
        probabilities: (S, y, x), 0 to 1, on the image's grid.
        embedding: of the image, by ``backend``.
        backend: decodes the prompts.
        recipe: from the task file.
        names: of the S structures.
        overlap: whether structures may share pixels. If not, a pixel goes to the structure of the highest logit.

    Raises:
        UserError: shapes do not fit each other.
    """
    _check(probabilities, names, embedding.image_size)
    coarse = coarse_masks(probabilities, recipe)
    masks, drawn = _draw(coarse, embedding, backend, recipe, overlap)
    slices = [(None, coarse, masks, drawn)]
    return Refinement(masks, coarse, [_result(i, name, slices) for i, name in enumerate(names)])


def refine(
    probabilities: Probabilities,
    image: NDArray[np.uint8],
    backend: SamBackend,
    task: Task,
    cache: EmbeddingCache | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Refinement:
    """Refine an image or a volume. A volume goes a slice at a time along z, slices without any structure left out.

    The coarse masks of a volume are cleaned in 3D, so that a component is chosen once and not anew in every slice.

    Args:
        probabilities: (S, *spatial), 0 to 1.
        image: uint8 (*spatial, 3), as ``images.for_sam`` makes it.
        backend: embeds and decodes.
        task: structures, recipe, and whether they may overlap.
        cache: keeps the embeddings; None: computed and dropped.
        progress: called with slices done and slices in all.

    Raises:
        UserError: shapes do not fit each other or the task.
    """
    _check(probabilities, task.names, image.shape[:-1])
    embed = backend.embed if cache is None else lambda part: cache.embed(backend, part)
    if image.ndim == 3:
        refinement = refine_slice(probabilities, embed(image), backend, task.recipe, task.names, task.overlap)
        if progress:
            progress(1, 1)
        return refinement
    coarse = coarse_masks(probabilities, task.recipe)
    masks = np.zeros_like(coarse)
    slices = []
    occupied = np.flatnonzero(coarse.any(axis=(0, 2, 3)))
    for done, z in enumerate(map(int, occupied), 1):
        masks[:, z], drawn = _draw(coarse[:, z], embed(image[z]), backend, task.recipe, task.overlap)
        slices.append((z, coarse[:, z], masks[:, z], drawn))
        if progress:
            progress(done, len(occupied))
    return Refinement(masks, coarse, [_result(i, name, slices) for i, name in enumerate(task.names)])


def resolve_overlap(masks: Mask, logits: Sequence[NDArray[np.float32]]) -> None:
    """Leave each pixel to the mask of the highest logit there; of equal ones to the first. Changes ``masks``.

    Args:
        masks: bool (N, y, x).
        logits: N arrays (y, x), read one after the other so that they may be computed on the way.
    """
    owner = np.full(masks.shape[1:], -1)
    highest = np.full(masks.shape[1:], -np.inf, dtype=np.float32)
    for index, (mask, values) in enumerate(zip(masks, logits, strict=True)):
        wins = mask & (values > highest)
        owner[wins], highest[wins] = index, values[wins]
    for index, mask in enumerate(masks):
        mask &= owner == index


def _draw(
    coarse: Mask, embedding: Embedding, backend: SamBackend, recipe: Recipe, overlap: bool
) -> tuple[Mask, dict[int, _Drawn]]:
    """SAM's masks bool (S, y, x) for the coarse ones, and what was asked and answered per present structure."""
    masks = np.zeros_like(coarse)
    present = [int(i) for i in np.flatnonzero(coarse.any(axis=(1, 2)))]
    if not present:
        return masks, {}
    decoded, log = _run_stages(coarse[present], embedding, backend, recipe)
    if overlap:
        for index, answer in zip(present, decoded, strict=True):
            masks[index] = answer.logits > 0
    else:
        logits = [answer.logits for answer in decoded]
        drawn_masks = np.stack([values > 0 for values in logits])
        resolve_overlap(drawn_masks, logits)
        masks[present] = drawn_masks
    refined = {index: bool(masks[index].any()) for index in present}
    for index in present:
        if not refined[index]:
            masks[index] = coarse[index] if overlap else coarse[index] & ~masks.any(axis=0)
    return masks, {
        index: _Drawn(entries, answer.predicted_iou, refined[index])
        for index, entries, answer in zip(present, log, decoded, strict=True)
    }


def _run_stages(
    coarse: Mask, embedding: Embedding, backend: SamBackend, recipe: Recipe
) -> tuple[list[Decoded], list[list[dict[str, Any]]]]:
    """The last stage's answers for N present structures, bool (N, y, x), and each structure's prompts as JSON."""
    stages = recipe.stages_for(backend.name)
    kinds = {kind for stage in stages for kind in stage.prompts}
    shaped = [reshape(mask, recipe) for mask in coarse]
    boxes = [box_of(mask, recipe.box_margin) for mask in shaped]
    inner = [inner_point(mask) for mask in coarse] if kinds & {"positive", "negative"} else []
    negative = negative_points(list(coarse), inner) if "negative" in kinds else []
    decoded: list[Decoded] = []
    log: list[list[dict[str, Any]]] = [[] for _ in coarse]

    def prompt(i: int, stage: Stage) -> Prompt:
        given = None
        if "logits" in stage.prompts:
            given = decoded[i].low_res
        elif "mask" in stage.prompts:
            given = mask_input(shaped[i], embedding)
        return Prompt(
            box=boxes[i] if "box" in stage.prompts else None,
            positive=(inner[i],) if "positive" in stage.prompts else (),
            negative=negative[i] if "negative" in stage.prompts else (),
            mask_input=given,
        )

    for number, stage in enumerate(stages, 1):
        prompts = [prompt(i, stage) for i in range(len(coarse))]
        for entries, asked in zip(log, prompts, strict=True):
            entry = {"stage": number, **asked.as_json()}
            if asked.mask_input is not None:
                entry["mask_input"] = "logits" if "logits" in stage.prompts else "mask"
            entries.append(entry)
        decoded = backend.decode_many(embedding, prompts)
    return decoded, log


def _result(
    index: int, name: str, slices: Sequence[tuple[int | None, Mask, Mask, dict[int, _Drawn]]]
) -> StructureResult:
    """One structure's result over (z, coarse, masks, drawn) of all its slices."""
    prompts: list[dict[str, Any]] = []
    area = common = size = 0
    quality, refined = 0.0, False
    for z, coarse, masks, drawn in slices:
        if index not in drawn:
            continue
        work = drawn[index]
        prompts += [entry if z is None else {"slice": z, **entry} for entry in work.prompts]
        here = int(np.count_nonzero(coarse[index]))
        area += here
        quality += here * work.predicted_iou
        if work.refined:
            refined = True
            common += int(np.count_nonzero(coarse[index] & masks[index]))
            size += int(np.count_nonzero(masks[index]))
    if not area:
        return StructureResult(name, False, [], None, None)
    return StructureResult(name, True, prompts, quality / area, 2 * common / (area + size), refined)


def _check(probabilities: Probabilities, names: Sequence[str], spatial: Sequence[int]) -> None:
    expected = (len(names), *spatial)
    if len(spatial) not in (2, 3) or probabilities.shape != expected:
        raise UserError(
            f"probabilities of shape {probabilities.shape} do not fit: {len(names)} structures on an image of shape "
            f"{tuple(spatial)} need {expected}"
        )
