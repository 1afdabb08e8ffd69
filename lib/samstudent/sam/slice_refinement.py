"""Refinement of one 2D image or slice: coarse masks, SAM's masks, fusion, resolution of overlaps.

The result of a structure (docs/reference/recipe.md):

- absent in the coarse masks: absent in the refined ones, and not decoded;
- SAM's mask is empty, or the structure loses every pixel to others: the coarse mask is the result (where overlap is
  forbidden without the pixels that others have), with ``refined=False`` and agreement 0: the quality filter's formula
  rejects it, a quality model has the agreement as one of its features;
- its recipe has the source ``student``: the coarse mask is the result, ``refined=False``, with SAM's figures.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from samstudent.errors import UserError
from samstudent.sam.cache import EmbeddingCache, cached_embedding
from samstudent.sam.decode import DecodedStructure, DecodePlan, decode_structures, stability
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
        backend: encoder, and decoder of structures without one in ``adapted``.
        cache: stores the embeddings; None: they are computed at every call.
        recipes: of each structure by name, in the order of the first axis of all masks.
        overlap: whether structures may share pixels. If not, a pixel goes to the structure of the highest soft mask.
        adapted: backend for the decoding of a structure, by name: one with the same image encoder.
        prompt_all: run SAM also on structures whose result is the student's mask, for the figures.
    """

    backend: SamBackend
    cache: EmbeddingCache | None
    recipes: Mapping[str, Recipe]
    overlap: bool
    adapted: Mapping[str, SamBackend]
    prompt_all: bool = True

    @property
    def names(self) -> list[str]:
        """Names of the S structures."""
        return list(self.recipes)

    @property
    def recipe_list(self) -> list[Recipe]:
        """Recipes of the S structures."""
        return list(self.recipes.values())

    def plans(self) -> list[DecodePlan | None]:
        """Decoder and recipe of each structure; None for those on which SAM is not run."""
        return [
            DecodePlan(recipe, self.adapted.get(name, self.backend))
            if self.prompt_all or recipe.source != "student"
            else None
            for name, recipe in self.recipes.items()
        ]

    def embed(self, image: NDArray[np.uint8]) -> Embedding:
        """Embedding of an image or slice, uint8 (y, x, 3), from the cache where it is stored there."""
        return cached_embedding(self.backend, self.cache, image)

    def refine(self, probabilities: Probabilities, image: NDArray[np.uint8]) -> Refinement:
        """Refine one 2D image.

        Args:
            probabilities: the student's (S, y, x), 0 to 1, on the image's grid or on its working grid.
            image: uint8 (y, x, 3).

        Returns:
            Masks on the grid of ``probabilities``.
        """
        small = working_size(image.shape[:2])
        check_shapes(probabilities, self.names, small if probabilities.shape[1:] == small else image.shape[:2])
        size = _size(probabilities)
        rivals = one_vs_rival(probabilities if size == small else reduced(probabilities, small), self.overlap)
        coarse = coarse_masks(rivals, self.recipe_list)
        embedding = self.embed(image).on_grid(small)
        decoded = decode_structures(coarse, embedding, self.plans())
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
            # Pixels that belong to other structures in the result do not count as SAM's.
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
