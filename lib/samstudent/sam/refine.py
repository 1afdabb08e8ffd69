"""From a student's probabilities to refined masks, for an image or a volume."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from samstudent.errors import UserError
from samstudent.sam.backends import SamBackend
from samstudent.sam.cache import EmbeddingCache
from samstudent.sam.prompts import coarse_masks
from samstudent.sam.results import Refinement, StructureResult, merge_slices
from samstudent.sam.slices import Probabilities, check_shapes, recipes_of, refine_image, refine_slice
from samstudent.task import Recipe, Task

__all__ = ["Refinement", "StructureResult", "refine", "refine_image", "refine_slice"]


def refine(
    probabilities: Probabilities,
    image: NDArray[np.uint8],
    backend: SamBackend,
    task: Task,
    cache: EmbeddingCache | None = None,
    progress: Callable[[int, int], None] | None = None,
    *,
    adapted: SamBackend | None = None,
    recipes: Mapping[str, Recipe] | None = None,
    signals: bool = True,
    jitters: int = 0,
    seed: int = 0,
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
        adapted: a backend of the same encoder whose decoder recipes with ``decoder: adapted`` mean.
        recipes: recipes of structures by name; the others take the task's.
        signals, jitters, seed: as in ``refine_slice``.

    Raises:
        UserError: shapes do not fit each other or the task, or ``recipes`` names unknown structures.
    """
    check_shapes(probabilities, task.names, image.shape[:-1])
    if unknown := set(recipes or {}) - set(task.names):
        raise UserError(f"recipes for unknown structures {sorted(unknown)}; there are {task.names}")
    chosen = {name: (recipes or {}).get(name, task.recipe) for name in task.names}
    embed = backend.embed if cache is None else lambda part: cache.embed(backend, part)
    options: dict[str, Any] = {"adapted": adapted, "signals": signals, "jitters": jitters}
    if image.ndim == 3:
        embedding = embed(image)
        result = refine_image(probabilities, embedding, backend, chosen, task.names, task.overlap, seed=seed, **options)
        if progress:
            progress(1, 1)
        return result
    coarse = coarse_masks(probabilities, recipes_of(task.names, chosen))
    masks, soft = np.zeros_like(coarse), np.zeros(coarse.shape, dtype=np.float16)
    slices = []
    occupied = np.flatnonzero(coarse.any(axis=(0, 2, 3)))
    for done, z in enumerate(map(int, occupied), 1):
        part = refine_image(
            probabilities[:, z],
            embed(image[z]),
            backend,
            chosen,
            task.names,
            task.overlap,
            coarse=coarse[:, z],
            seed=seed + z,
            **options,
        )
        masks[:, z], soft[:, z] = part.masks, part.soft
        slices.append((z, part.structures, part.tallies))
        if progress:
            progress(done, len(occupied))
    return Refinement(masks, coarse, merge_slices(task.names, slices), soft)
