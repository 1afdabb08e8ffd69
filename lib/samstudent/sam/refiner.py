"""Refinement of a student's probabilities by SAM, for an image or a volume."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from samstudent.errors import UserError
from samstudent.sam.cache import EmbeddingCache
from samstudent.sam.model import SamBackend
from samstudent.sam.results import Refinement
from samstudent.sam.slice_refinement import Probabilities, SliceRefiner
from samstudent.sam.volume_refinement import SliceOptions, refine_volume
from samstudent.task import Recipe, Task


@dataclass(frozen=True)
class RefinerOptions:
    """Options of a refinement.

    Attributes:
        prompt_all: run SAM also on structures whose result is the student's mask, for their figures.
        slices: slicing of volumes.
    """

    prompt_all: bool = True
    slices: SliceOptions = field(default_factory=SliceOptions)


def adapted_decoders(recipes: Mapping[str, Recipe], adapted: SamBackend | None) -> dict[str, SamBackend]:
    """``Refiner.adapted``: the adapted SAM for each structure whose recipe uses its decoder."""
    return {} if adapted is None else {name: adapted for name, r in recipes.items() if r.source != "plain_sam"}


class Refiner:
    """Refiner of the masks of images and volumes: SAM with the recipe of each structure.

    Args:
        backend: encoder, and decoder of structures without one in ``adapted``.
        cache: stores the embeddings; None: they are computed at every call.
        recipes: of each structure by name, in the order of the first axis of probabilities and masks.
        overlap: whether structures may share pixels. If not, a pixel goes to the structure of the highest soft mask.
        adapted: SAM for the decoding of a structure, by name, with the same image encoder; None: ``backend`` decodes
            all.
        options: further options.
    """

    def __init__(
        self,
        backend: SamBackend,
        cache: EmbeddingCache | None,
        recipes: Mapping[str, Recipe],
        overlap: bool,
        adapted: Mapping[str, SamBackend] | None = None,
        options: RefinerOptions = RefinerOptions(),
    ) -> None:
        self.backend = backend
        self.adapted = dict(adapted or {})
        self._slice_options = options.slices
        self._slices = SliceRefiner(backend, cache, dict(recipes), overlap, self.adapted, options.prompt_all)

    @classmethod
    def for_task(
        cls,
        task: Task,
        backend: SamBackend,
        cache: EmbeddingCache | None = None,
        recipes: Mapping[str, Recipe] | None = None,
        adapted: Mapping[str, SamBackend] | None = None,
        options: RefinerOptions | None = None,
    ) -> Refiner:
        """Refiner of a task's structures.

        Args:
            task: its structures, recipe, and whether they may overlap.
            backend, cache, adapted: as of ``Refiner``.
            recipes: of structures by name; the others have the task's.
            options: as of ``Refiner``; None: with the slicing of the task's recipe.

        Raises:
            UserError: ``recipes`` names unknown structures.
        """
        if unknown := set(recipes or {}) - set(task.names):
            raise UserError(f"recipes for unknown structures {sorted(unknown)}; there are {task.names}")
        chosen = {name: (recipes or {}).get(name, task.recipe) for name in task.names}
        options = options or RefinerOptions(slices=SliceOptions.of(task.recipe))
        return cls(backend, cache, chosen, task.overlap, adapted, options)

    def refine(
        self,
        probabilities: Probabilities,
        image: NDArray[np.uint8],
        spacing: Sequence[float] | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> Refinement:
        """Refine an image or a volume.

        Args:
            probabilities: (S, *spatial), 0 to 1, on the image's grid; of a 2D image also on its working grid
                (``working_grid.working_size``).
            image: uint8 (*spatial, 3), as of ``imaging.case.for_sam``.
            spacing: of a volume, mm along z, y, x, as ``Grid.spacing``; None: taken as equal. Decides the axis of
                slices.
            progress: called with the number of slices done and the number of all slices.

        Returns:
            Masks on the grid of ``probabilities``.

        Raises:
            UserError: shapes do not fit each other.
        """
        if image.ndim != 3:
            options = replace(self._slice_options, spacing=spacing)
            return refine_volume(probabilities, image, self._slices, options, progress)
        result = self._slices.refine(probabilities, image)
        if progress:
            progress(1, 1)
        return result

    def provenance(self) -> dict[str, Any]:
        """Name and digest of the SAM, and the digests of adapted decoders by structure."""
        adapted = sorted({sam.digest for sam in self.adapted.values()})
        return {"backend": self.backend.name, "digest": self.backend.digest, "adapted": adapted[0] if adapted else None}
