"""The refinement of a volume; the pieces are in ``sam.volumes``, the single slice in ``sam.slices``."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from samstudent.sam.decode import Drawn, decode_structures
from samstudent.sam.embedding import DecodedMask, Embedding, Size
from samstudent.sam.model import SamBackend
from samstudent.sam.prompts import Mask, coarse_masks, contested
from samstudent.sam.results import Refinement, merge_slices
from samstudent.sam.slices import Probabilities, recipes_of, refine_image
from samstudent.sam.volumes import (
    coarse_volume,
    interpolated,
    neighbour_weight,
    outliers,
    parts_of,
    slice_axis,
    smoothed,
    steps_of,
)
from samstudent.sam.working import reduced, working_size
from samstudent.task import Recipe


@dataclass(frozen=True)
class Way:
    """How a volume is walked: keys of the task's recipe, one for all structures, and the voxels' size.

    Attributes:
        recipe: ``axis``, ``slice_step`` and ``neighbours`` are used.
        spacing: mm along z, y, x; None: taken as equal.
    """

    recipe: Recipe
    spacing: Sequence[float] | None = None


@dataclass(frozen=True)
class _Answer(Drawn):
    """SAM's work on one structure of one slice, put together from that on its parts or from other slices."""

    told_jitter: float | None = None

    @property
    def jitter(self) -> float | None:
        return self.told_jitter


def refine_volume(
    probabilities: Probabilities,
    image: NDArray[np.uint8],
    backend: SamBackend,
    recipe: Recipe | Mapping[str, Recipe],
    names: Sequence[str],
    overlap: bool,
    way: Way,
    *,
    embed: Callable[[NDArray[np.uint8]], Embedding] | None = None,
    adapted: SamBackend | None = None,
    signals: bool = True,
    jitters: int = 0,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Refinement:
    """Refine a volume.

    Args:
        probabilities: (S, z, y, x), 0 to 1.
        image: uint8 (z, y, x, 3).
        backend: embeds and decodes slices.
        recipe: one for all structures, or a recipe by the name of each.
        names: of the S structures.
        overlap: whether structures may share voxels.
        way: how the volume is walked.
        embed: embeds a slice; None: ``backend``'s.
        adapted, signals, jitters, seed: as in ``slices.refine_slice``.
        progress: called with slices embedded and to be embedded in all.

    Returns:
        Masks on the volume's own axes. ``coarse`` includes the slices that were bridged. Prompts have their ``slice``,
        and the ``axis`` along which it counts where that is not z.
    """
    recipes = recipes_of(names, recipe)
    rivals = contested(probabilities, overlap)
    axis = slice_axis(coarse_masks(rivals, recipes), way.spacing, way.recipe.axis)
    p, slices = np.moveaxis(probabilities, axis + 1, 1), np.moveaxis(image, axis, 0)
    rivals = np.moveaxis(rivals, axis + 1, 1)
    coarse = np.stack([coarse_volume(own, r) for own, r in zip(rivals, recipes, strict=True)])
    del rivals
    size = (coarse.shape[2], coarse.shape[3])
    small = working_size(size)
    work = coarse
    if small != size:
        work = np.stack([reduced(coarse[:, z], small) >= 0.5 for z in range(coarse.shape[1])], axis=1)
    wanted = [signals or r.source != "student" for r in recipes]
    # Slices about which nothing is asked are not embedded: on a CPU one takes seconds.
    asked = [own for own, want in zip(work, wanted, strict=True) if want]
    known = sorted({z for own in asked for z in steps_of(_occupied(own), way.recipe.slice_step)})
    answers: dict[int, dict[int, _Answer]] = defaultdict(dict)
    for done, z in enumerate(known, 1):
        embedding = (embed or backend.embed)(np.ascontiguousarray(slices[z]))
        for i, answer in _asked(
            work[:, z], replace(embedding, image_size=small), backend, recipes, wanted, adapted, jitters, seed + z
        ).items():
            answers[i][z] = answer
        if progress:
            progress(done, len(known))
    weight = neighbour_weight(way.spacing, axis)
    settled = {i: _settled(answers[i], work[i], way.recipe, weight) for i in answers}

    masks, soft = np.zeros_like(coarse), np.zeros(coarse.shape, dtype=np.float16)
    results = []
    for z in _occupied(coarse.any(axis=0)):
        drawn = [settled[i].get(z) if i in settled else None for i in range(len(names))]
        part = refine_image(
            p[:, z], _frame(size), backend, dict(zip(names, recipes, strict=True)), names, overlap,
            coarse=coarse[:, z], drawn=drawn,
        )  # fmt: skip
        masks[:, z], soft[:, z] = part.masks, part.soft
        results.append((z, part.structures, part.tallies))
    structures = merge_slices(names, results)
    if axis:
        along = {"axis": "zyx"[axis]}
        structures = [replace(s, prompts=[{**along, **entry} for entry in s.prompts]) for s in structures]
    return Refinement(_back(masks, axis), _back(coarse, axis), structures, _back(soft, axis))


def _back(stack: NDArray[Any], axis: int) -> NDArray[Any]:
    """(S, n, ...) with the slices back on their axis."""
    return np.ascontiguousarray(np.moveaxis(stack, 1, axis + 1))


def _occupied(mask: Mask) -> list[int]:
    """Slices of (n, y, x) with anything in them."""
    return [int(z) for z in np.flatnonzero(mask.any(axis=(1, 2)))]


def _frame(embedding_size: Size) -> Embedding:
    """Stands for the embedding of a slice whose answers are there already."""
    return Embedding(np.empty((1, 0, 1, 1), np.float32), embedding_size, embedding_size, max(embedding_size))


def _asked(
    coarse: Mask,
    embedding: Embedding,
    backend: SamBackend,
    recipes: Sequence[Recipe],
    wanted: Sequence[bool],
    adapted: SamBackend | None,
    jitters: int,
    seed: int,
) -> dict[int, _Answer]:
    """SAM's answers about one slice: structure -> answer. Parts of a structure are asked about each on its own."""
    owners, parts = [], []
    for i in map(int, np.flatnonzero(coarse.any(axis=(1, 2)))):
        for part in parts_of(coarse[i], recipes[i]):
            owners.append(i)
            parts.append(part)
    if not parts:
        return {}
    drawn = decode_structures(
        np.stack(parts), embedding, backend, [recipes[i] for i in owners],
        adapted=adapted, wanted=[wanted[i] for i in owners], owners=owners, jitters=jitters, seed=seed,
    )  # fmt: skip
    together: dict[int, list[tuple[Drawn, int]]] = defaultdict(list)
    for i, work, part in zip(owners, drawn, parts, strict=True):
        if work is not None:
            together[i].append((work, int(part.sum())))
    light = replace(embedding, features=np.empty((1, 0, 1, 1), np.float32))
    return {i: _merged(works, light) for i, works in together.items()}


def _merged(works: Sequence[tuple[Drawn, int]], frame: Embedding) -> _Answer:
    """One answer out of those on a structure's parts: the highest logits; figures are means by the parts' areas."""
    areas = [area for _, area in works]
    low_res = np.max([work.answer.low_res for work, _ in works], axis=0)
    jitters = [work.jitter for work, _ in works]
    told = [jitter for jitter in jitters if jitter is not None]
    return _Answer(
        [entry for work, _ in works for entry in work.prompts],
        DecodedMask(low_res, float(np.average([work.predicted_iou for work, _ in works], weights=areas)), frame),
        told_jitter=float(np.average(told, weights=areas)) if len(told) == len(works) else None,
    )


def _settled(answers: Mapping[int, _Answer], coarse: Mask, recipe: Recipe, weight: float) -> dict[int, _Answer]:
    """One structure's answers after its slices were compared, for every slice between the first and last asked.

    Args:
        answers: slice -> answer.
        coarse: bool (n, y, x) on the working grid.
        recipe: ``slice_step`` and ``neighbours`` are used.
        weight: of a neighbour in smoothing.
    """
    low_res = {z: answer.answer.low_res for z, answer in answers.items()}
    dropped: set[int] = set()
    if recipe.neighbours:
        drawn = {z: answer.logits > 0 for z, answer in answers.items()}
        dropped = outliers(drawn, coarse, recipe.slice_step)
    kept = {z: values for z, values in low_res.items() if z not in dropped}
    between = [z for z in _occupied(coarse) if z not in answers] if recipe.slice_step > 1 else []
    kept = interpolated(kept, between)
    if recipe.neighbours:
        kept = smoothed(kept, weight)
    order = sorted(answers)
    settled = {}
    for z, values in kept.items():
        nearest = answers[min(order, key=lambda other: abs(other - z))]
        own = answers.get(z, replace(nearest, prompts=[]))
        settled[z] = replace(own, answer=replace(own.answer, low_res=values))
    for z in dropped:
        # Nothing above 0: the coarse mask is shown, and SAM gets no credit for it.
        nothing = np.minimum(low_res[z], -1)
        settled[z] = replace(answers[z], answer=replace(answers[z].answer, low_res=nothing))
    return settled
