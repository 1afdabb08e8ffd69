"""From a student's probabilities to refined masks, for an image or a volume."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from samstudent.errors import UserError
from samstudent.sam.cache import EmbeddingCache
from samstudent.sam.model import SamBackend
from samstudent.sam.refine_volume import Way, refine_volume
from samstudent.sam.results import Refinement, StructureResult
from samstudent.sam.slices import Probabilities, check_shapes, refine_image, refine_slice
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
    spacing: Sequence[float] | None = None,
) -> Refinement:
    """Refine an image or a volume (``refine_volume``).

    Args:
        probabilities: (S, *spatial), 0 to 1.
        image: uint8 (*spatial, 3), as ``imaging.case.for_sam`` makes it.
        backend: embeds and decodes.
        task: structures, recipe, and whether they may overlap.
        cache: keeps the embeddings; None: computed and dropped.
        progress: called with slices done and slices in all.
        adapted: a backend of the same encoder whose decoder recipes with ``decoder: adapted`` mean.
        recipes: recipes of structures by name; the others take the task's.
        signals, jitters, seed: as in ``refine_slice``.
        spacing: of a volume, mm along z, y, x, as ``Grid.spacing``; None: taken as equal. Decides the axis of slices.

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
    way = Way(task.recipe, spacing)
    return refine_volume(
        probabilities, image, backend, chosen, task.names, task.overlap, way,
        embed=embed, seed=seed, progress=progress, **options,
    )  # fmt: skip
