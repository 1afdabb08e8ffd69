"""Refinement of a volume; the pieces are in ``sam.volumes``, the single slice in ``sam.slice_refinement``."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from samstudent.sam.decode import DecodedStructure, decode_structures
from samstudent.sam.embedding import DecodedMask, Embedding
from samstudent.sam.prompts import Mask, coarse_masks, one_vs_rival
from samstudent.sam.results import Refinement, merge_slices
from samstudent.sam.slice_refinement import Probabilities, SliceRefiner, check_shapes
from samstudent.sam.volumes import (
    Axis,
    coarse_volume,
    interpolated,
    neighbour_weight,
    outliers,
    parts_of,
    slice_axis,
    smoothed,
    steps_of,
)
from samstudent.sam.working_grid import reduced, working_size
from samstudent.task import Recipe


@dataclass(frozen=True)
class SliceOptions:
    """Slicing of a volume.

    Attributes:
        axis: axis of the slices; ``auto``: see ``volumes.slice_axis``.
        step: SAM is run on every n-th slice of a structure; logits in between are interpolated.
        compare: drop masks that disagree with neighbouring slices and the student, and smooth the others across slices.
        spacing: voxel size in mm along z, y, x; None: taken as equal.
    """

    axis: Axis = "auto"
    step: int = 1
    compare: bool = True
    spacing: Sequence[float] | None = None

    @classmethod
    def of(cls, recipe: Recipe) -> SliceOptions:
        """Slicing of a recipe."""
        return cls(recipe.axis, recipe.slice_step)


def refine_volume(
    probabilities: Probabilities,
    image: NDArray[np.uint8],
    refiner: SliceRefiner,
    options: SliceOptions,
    progress: Callable[[int, int], None] | None = None,
) -> Refinement:
    """Refine a volume.

    Args:
        probabilities: the student's (S, z, y, x), 0 to 1.
        image: uint8 (z, y, x, 3).
        refiner: of the slices.
        options: slicing.
        progress: called with the number of embedded slices and the number of all slices to embed.

    Returns:
        Masks on the volume's own axes. ``coarse`` includes the bridged slices. Prompts have their ``slice``, and its
        ``axis`` where that is not z.
    """
    check_shapes(probabilities, refiner.names, image.shape[:-1])
    recipes = refiner.recipe_list
    rivals = one_vs_rival(probabilities, refiner.overlap)
    axis = slice_axis(coarse_masks(rivals, recipes), options.spacing, options.axis)
    p, slices = np.moveaxis(probabilities, axis + 1, 1), np.moveaxis(image, axis, 0)
    rivals = np.moveaxis(rivals, axis + 1, 1)
    coarse = np.stack([coarse_volume(own, r) for own, r in zip(rivals, recipes, strict=True)])
    del rivals
    size = (coarse.shape[2], coarse.shape[3])
    small = working_size(size)
    work = coarse
    if small != size:
        work = np.stack([reduced(coarse[:, z], small) >= 0.5 for z in range(coarse.shape[1])], axis=1)
    by_slice = _decode_slices(work, slices, refiner, options, progress)
    weight = neighbour_weight(options.spacing, axis)
    compared = {i: _compared(by_slice[i], work[i], options, weight) for i in by_slice}

    masks, soft = np.zeros_like(coarse), np.zeros(coarse.shape, dtype=np.float16)
    results = []
    for z in _occupied(coarse.any(axis=0)):
        decoded = [compared[i].get(z) if i in compared else None for i in range(len(recipes))]
        own = one_vs_rival(reduced(p[:, z], small) if small != size else p[:, z], refiner.overlap)
        part = refiner.fuse(own, work[:, z], decoded)
        if small != size:
            part = refiner.on_image(part, coarse[:, z])
        masks[:, z], soft[:, z] = part.masks, part.soft
        results.append((z, part.structures, part.tallies))
    structures = merge_slices(refiner.names, results)
    if axis:
        along = {"axis": "zyx"[axis]}
        structures = [replace(s, prompts=[{**along, **entry} for entry in s.prompts]) for s in structures]
    return Refinement(_back(masks, axis), _back(coarse, axis), structures, _back(soft, axis))


def _decode_slices(
    coarse: Mask,
    slices: NDArray[np.uint8],
    refiner: SliceRefiner,
    options: SliceOptions,
    progress: Callable[[int, int], None] | None,
) -> dict[int, dict[int, DecodedStructure]]:
    """SAM's masks: structure -> slice -> mask, for coarse masks (S, n, y, x) on the working grid.

    Slices without any structure to decode are not embedded: on a CPU one takes seconds.
    """
    prompted = [own for own, plan in zip(coarse, refiner.plans(), strict=True) if plan is not None]
    chosen = sorted({z for own in prompted for z in steps_of(_occupied(own), options.step)})
    decoded: dict[int, dict[int, DecodedStructure]] = defaultdict(dict)
    for done, z in enumerate(chosen, 1):
        embedding = refiner.embed(np.ascontiguousarray(slices[z])).on_grid((coarse.shape[2], coarse.shape[3]))
        for i, structure in _decode_parts(coarse[:, z], embedding, refiner).items():
            decoded[i][z] = structure
        if progress:
            progress(done, len(chosen))
    return decoded


def _decode_parts(coarse: Mask, embedding: Embedding, refiner: SliceRefiner) -> dict[int, DecodedStructure]:
    """SAM's masks on one slice: structure -> mask. Each connected part of a structure is decoded separately."""
    plans = refiner.plans()
    owners, parts = [], []
    for i in map(int, np.flatnonzero(coarse.any(axis=(1, 2)))):
        for part in parts_of(coarse[i], refiner.recipe_list[i]):
            owners.append(i)
            parts.append(part)
    if not parts:
        return {}
    decoded = decode_structures(np.stack(parts), embedding, [plans[i] for i in owners], owners)
    together: dict[int, list[tuple[DecodedStructure, int]]] = defaultdict(list)
    for i, structure, part in zip(owners, decoded, parts, strict=True):
        if structure is not None:
            together[i].append((structure, int(part.sum())))
    return {i: _merged(structures) for i, structures in together.items()}


def _merged(parts: Sequence[tuple[DecodedStructure, int]]) -> DecodedStructure:
    """One structure from its parts and their areas: the highest logits; figures are means weighted by area."""
    areas = [area for _, area in parts]
    low_res = np.max([part.mask.low_res for part, _ in parts], axis=0)
    iou = float(np.average([part.predicted_iou for part, _ in parts], weights=areas))
    return DecodedStructure(
        [entry for part, _ in parts for entry in part.prompts],
        DecodedMask(low_res, iou, parts[0][0].mask.frame),
    )


def _compared(
    decoded: Mapping[int, DecodedStructure], coarse: Mask, options: SliceOptions, weight: float
) -> dict[int, DecodedStructure]:
    """Masks of one structure after the comparison of its slices, for every slice between the first and last decoded.

    Args:
        decoded: slice -> mask.
        coarse: bool (n, y, x) on the working grid.
        options: slicing.
        weight: of a neighbour in smoothing.
    """
    low_res = {z: structure.mask.low_res for z, structure in decoded.items()}
    dropped: set[int] = set()
    if options.compare:
        masks = {z: structure.logits > 0 for z, structure in decoded.items()}
        dropped = outliers(masks, coarse, options.step)
    remaining = {z: values for z, values in low_res.items() if z not in dropped}
    between = [z for z in _occupied(coarse) if z not in decoded] if options.step > 1 else []
    remaining = interpolated(remaining, between)
    if options.compare:
        remaining = smoothed(remaining, weight)
    order = sorted(decoded)
    compared = {}
    for z, values in remaining.items():
        nearest = decoded[min(order, key=lambda other: abs(other - z))]
        own = decoded.get(z, replace(nearest, prompts=[]))
        compared[z] = replace(own, mask=replace(own.mask, low_res=values))
    for z in dropped:
        # Nothing above 0: the coarse mask is the result, and does not count as SAM's.
        nothing = np.minimum(low_res[z], -1)
        compared[z] = replace(decoded[z], mask=replace(decoded[z].mask, low_res=nothing))
    return compared


def _occupied(mask: Mask) -> list[int]:
    """Slices of (n, y, x) that are not empty."""
    return [int(z) for z in np.flatnonzero(mask.any(axis=(1, 2)))]


def _back(stack: NDArray[Any], axis: int) -> NDArray[Any]:
    """(S, n, ...) with the slices on their own axis."""
    return np.ascontiguousarray(np.moveaxis(stack, 1, axis + 1))
