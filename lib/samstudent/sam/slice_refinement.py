"""Refinement of one 2D image or slice: coarse masks, SAM's masks, fusion, overlaps resolved.

The result of a structure (docs/reference/recipe.md):

- absent in the coarse masks: absent in the refined ones, and never decoded;
- SAM's mask is empty, or the structure loses every pixel to others: the coarse mask is shown instead (where overlap is
  forbidden less the pixels that others have), marked ``refined=False`` and with agreement 0, so that no one takes it
  for SAM's work: the quality filter's formula rejects it, a quality model judges it by that and all else;
- its recipe says ``student``: the coarse mask is the result, ``refined=False``, with SAM's figures all the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from samstudent.errors import UserError
from samstudent.sam.cache import EmbeddingCache
from samstudent.sam.decode import DecodedStructure, DecodePlan, Jitter, decode_structures, stability
from samstudent.sam.embedding import Embedding, Size
from samstudent.sam.fusion import fuse, student_soft
from samstudent.sam.model import SamBackend
from samstudent.sam.prompts import Mask, coarse_masks, one_vs_rival
from samstudent.sam.results import Refinement, StructureResult, Tally
from samstudent.sam.working_grid import as_half, enlarged_masks, enlarged_soft, prompts_on_image, reduced, working_size
from samstudent.task import Recipe

Probabilities = NDArray[np.floating[Any]]
#: Results of ``decode_structures``, in the order of the structures.
DecodedMask = Sequence[DecodedStructure | None]


@dataclass(frozen=True)
class SliceRefiner:
    """Refinement of images and slices with one SAM and one set of recipes.

    Attributes:
        backend: embeds; decodes where ``adapted`` has no other.
        cache: keeps the embeddings; None: computed and dropped.
        recipes: of each structure by name, in the order of the first axis of all masks.
        overlap: whether structures may share pixels. If not, a pixel goes to the structure of the highest soft mask.
        adapted: by structure, the backend whose decoder it is decoded with: one of the same image encoder.
        prompt_all: also run SAM on structures whose mask the student keeps, for the figures.
        jitters: repetitions with jittered boxes, for the figure ``jitter``.
    """

    backend: SamBackend
    cache: EmbeddingCache | None
    recipes: Mapping[str, Recipe]
    overlap: bool
    adapted: Mapping[str, SamBackend]
    prompt_all: bool = True
    jitters: int = 0

    @property
    def names(self) -> list[str]:
        """Of the S structures."""
        return list(self.recipes)

    @property
    def recipe_list(self) -> list[Recipe]:
        """Of the S structures."""
        return list(self.recipes.values())

    def plans(self) -> list[DecodePlan | None]:
        """How each structure is decoded; None for those on which SAM is not run."""
        return [
            DecodePlan(recipe, self.adapted.get(name, self.backend))
            if self.prompt_all or recipe.source != "student"
            else None
            for name, recipe in self.recipes.items()
        ]

    def embed(self, image: NDArray[np.uint8]) -> Embedding:
        """The embedding of an image or slice, uint8 (y, x, 3), from the cache where it is there."""
        return self.backend.embed(image) if self.cache is None else self.cache.embed(self.backend, image)

    def refine(self, probabilities: Probabilities, image: NDArray[np.uint8], seed: int = 0) -> Refinement:
        """Refine one 2D image.

        Args:
            probabilities: the student's (S, y, x), 0 to 1, on the image's grid or on its working grid.
            image: uint8 (y, x, 3).
            seed: of jittered boxes.

        Returns:
            Masks on the grid of ``probabilities``.
        """
        small = working_size(image.shape[:2])
        check_shapes(probabilities, self.names, small if probabilities.shape[1:] == small else image.shape[:2])
        size = _size(probabilities)
        rivals = one_vs_rival(probabilities if size == small else reduced(probabilities, small), self.overlap)
        coarse = coarse_masks(rivals, self.recipe_list)
        embedding = self.embed(image).on_grid(small)
        decoded = decode_structures(coarse, embedding, self.plans(), jitter=Jitter(self.jitters, seed))
        work = self.fuse(rivals, coarse, decoded)
        if size == small:
            return work
        own = np.zeros(coarse.shape, np.float32)
        for i, recipe in enumerate(self.recipe_list):
            if coarse[i].any():
                own[i] = student_soft(rivals[i], coarse[i], recipe)
        return self.on_image(work, enlarged_masks(own, size, overlap=True))

    def fuse(self, rivals: Probabilities, coarse: Mask, decoded: DecodedMask) -> Refinement:
        """Fuse SAM's masks with the student's on one grid.

        Args:
            rivals: ``one_vs_rival`` of the student's probabilities (S, y, x).
            coarse: bool (S, y, x).
            decoded: SAM's masks, on the same grid.
        """
        logits = [None if structure is None else structure.logits for structure in decoded]
        soft, masks, refined = fuse(rivals, logits, coarse, self.recipe_list, self.overlap)
        owners = masks.sum(axis=0)
        tallies: list[Tally | None] = []
        results = []
        for i, (name, recipe) in enumerate(self.recipes.items()):
            present, structure, values = bool(coarse[i].any()), decoded[i], logits[i]
            source = recipe.source if refined[i] else "student" if present else None
            if structure is None or values is None:
                tallies.append(None)
                results.append(StructureResult(name, present, [], None, None, source=source))
                continue
            # Pixels that other structures have in the end do not count as SAM's.
            mine = values > 0 if self.overlap else (values > 0) & (owners == masks[i])
            tally = Tally(*(int(np.count_nonzero(m)) for m in (coarse[i], mine, coarse[i] & mine)))
            tallies.append(tally)
            results.append(
                StructureResult(
                    name,
                    present=True,
                    prompts=structure.prompts,
                    predicted_iou=structure.predicted_iou,
                    agreement=2 * tally.common / (tally.coarse + tally.sam),
                    refined=refined[i],
                    source=source,
                    stability=stability(values),
                    jitter=structure.jitter,
                )
            )
        return Refinement(masks, coarse, results, as_half(soft, masks), tallies)

    def on_image(self, work: Refinement, coarse: Mask) -> Refinement:
        """A refinement on the working grid brought to the image's.

        Args:
            work: ``fuse`` on the working grid.
            coarse: bool (S, y, x) on the image's grid.
        """
        size, small = _size(coarse), _size(work.masks)
        soft, masks = enlarged_soft(work.soft, size, self.overlap)
        structures = [replace(s, prompts=prompts_on_image(s.prompts, small, size)) for s in work.structures]
        return Refinement(masks, coarse, structures, soft, work.tallies)


def check_shapes(probabilities: Probabilities, names: Sequence[str], spatial: Sequence[int]) -> None:
    """Raises UserError unless probabilities are (len(names), *spatial) of an image or a volume."""
    expected = (len(names), *spatial)
    if len(spatial) not in (2, 3) or probabilities.shape != expected:
        raise UserError(
            f"probabilities of shape {probabilities.shape} do not fit: {len(names)} structures on an image of shape "
            f"{tuple(spatial)} need {expected}"
        )


def _size(stack: NDArray[Any]) -> Size:
    return stack.shape[1], stack.shape[2]
