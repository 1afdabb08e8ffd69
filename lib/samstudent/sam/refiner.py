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
    """Work of a refinement beside its masks, and how volumes are cut.

    Attributes:
        prompt_all: also run SAM on structures whose mask the student keeps, for their figures.
        jitters: repetitions with jittered boxes, for the figure ``jitter``; each costs as much as the mask itself.
        slices: how volumes are cut.
    """

    prompt_all: bool = True
    jitters: int = 0
    slices: SliceOptions = field(default_factory=SliceOptions)


class Refiner:
    """SAM with recipes, as it refines the masks of any number of images.

    Args:
        backend: embeds, and decodes structures that ``adapted`` does not name.
        cache: keeps the embeddings; None: computed and dropped.
        recipes: of each structure by name, in the order of the first axis of probabilities and masks.
        overlap: whether structures may share pixels. If not, a pixel goes to the structure of the highest soft mask.
        adapted: by structure, the SAM whose decoder it is decoded with, of the same image encoder; None: ``backend``
            decodes all.
        options: work beside the masks.
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
        self._slices = SliceRefiner(
            backend, cache, dict(recipes), overlap, self.adapted, options.prompt_all, options.jitters
        )

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
        """A refiner of a task's structures.

        Args:
            task: its structures, recipe, and whether they may overlap.
            backend, cache, adapted: as of ``Refiner``.
            recipes: of structures by name; the others take the task's.
            options: as of ``Refiner``; None: volumes are cut as the task's recipe says.

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
        seed: int = 0,
        progress: Callable[[int, int], None] | None = None,
    ) -> Refinement:
        """Refine an image or a volume.

        Args:
            probabilities: (S, *spatial), 0 to 1, on the image's grid; of a 2D image also on its working grid
                (``working_grid.working_size``).
            image: uint8 (*spatial, 3), as ``imaging.case.for_sam`` makes it.
            spacing: of a volume, mm along z, y, x, as ``Grid.spacing``; None: taken as equal. Decides the axis of
                slices.
            seed: of jittered boxes.
            progress: called with slices done and slices in all.

        Returns:
            Masks on the grid of ``probabilities``.

        Raises:
            UserError: shapes do not fit each other.
        """
        if image.ndim != 3:
            options = replace(self._slice_options, spacing=spacing)
            return refine_volume(probabilities, image, self._slices, options, seed, progress)
        result = self._slices.refine(probabilities, image, seed)
        if progress:
            progress(1, 1)
        return result

    def provenance(self) -> dict[str, Any]:
        """Name and digest of the SAM, and the digests of adapted decoders by structure."""
        adapted = sorted({sam.digest for sam in self.adapted.values()})
        return {"backend": self.backend.name, "digest": self.backend.digest, "adapted": adapted[0] if adapted else None}
