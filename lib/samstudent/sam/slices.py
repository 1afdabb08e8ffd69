"""The refinement of one 2D image or slice: coarse masks, SAM's answers, fusion, overlaps resolved.

What becomes of a structure (docs/reference/recipe.md):

- absent in the coarse masks: absent in the refined ones, and never asked about;
- SAM draws nothing, or the structure loses every pixel to others: the coarse mask is shown instead (where overlap is
  forbidden less the pixels that others have), marked ``refined=False`` and with agreement 0, so that no one takes it
  for SAM's work: the gate's formula rejects it, a calibrator judges it by that and all else;
- its recipe says ``student``: the coarse mask is the result, ``refined=False``, and SAM's figures are still told.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from samstudent.errors import UserError
from samstudent.sam.decode import Drawn, decode_structures, stability
from samstudent.sam.embedding import Embedding
from samstudent.sam.fusion import as_half, fuse, student_soft
from samstudent.sam.model import SamBackend
from samstudent.sam.prompts import Mask, coarse_masks, contested
from samstudent.sam.results import Refinement, StructureResult, Tally
from samstudent.sam.working import enlarged, image_prompts, reduced, working_size
from samstudent.task import Recipe

Probabilities = NDArray[np.floating[Any]]


def refine_slice(
    probabilities: Probabilities,
    embedding: Embedding,
    backend: SamBackend,
    recipe: Recipe | Mapping[str, Recipe],
    names: Sequence[str],
    overlap: bool,
    *,
    adapted: SamBackend | None = None,
    coarse: Mask | None = None,
    drawn: Sequence[Drawn | None] | None = None,
    signals: bool = True,
    jitters: int = 0,
    seed: int = 0,
) -> Refinement:
    """Refine one 2D image, on the grid of its arguments.

    Args:
        probabilities: (S, y, x), 0 to 1.
        embedding: of the image, by ``backend``, with ``image_size`` (y, x).
        backend: decodes the prompts.
        recipe: one for all structures, or a recipe by the name of each.
        names: of the S structures.
        overlap: whether structures may share pixels. If not, a pixel goes to the structure of the highest soft mask.
        adapted: the decoder that recipes with ``decoder: adapted`` mean; None: ``backend``'s.
        coarse: bool (S, y, x), coarse masks that were made elsewhere, e.g. cleaned in 3D; None: made here.
        drawn: S answers that were got elsewhere, e.g. smoothed across slices; None: SAM is asked here.
        signals: also ask SAM about structures whose mask the student keeps, for the figures.
        jitters: how many jittered boxes the figure ``jitter`` is from; each costs as much as the answer itself.
        seed: of the jitter.

    Raises:
        UserError: shapes do not fit each other, or a structure has no recipe.
    """
    check_shapes(probabilities, names, embedding.image_size)
    recipes = recipes_of(names, recipe)
    if coarse is None:
        coarse = coarse_masks(probabilities, recipes)
    wanted = [signals or r.source != "student" for r in recipes]
    if drawn is None:
        drawn = decode_structures(
            coarse, embedding, backend, recipes, adapted=adapted, wanted=wanted, jitters=jitters, seed=seed
        )
    logits = [None if work is None else work.logits for work in drawn]
    soft, masks, refined = fuse(probabilities, logits, coarse, recipes, overlap)
    owners = masks.sum(axis=0)
    tallies: list[Tally | None] = []
    results = []
    for i, (name, work) in enumerate(zip(names, drawn, strict=True)):
        present = bool(coarse[i].any())
        source = recipes[i].source if refined[i] else "student" if present else None
        values = logits[i]
        if work is None or values is None:
            tallies.append(None)
            results.append(StructureResult(name, present, [], None, None, source=source))
            continue
        # What others have in the end was not SAM's to draw.
        mine = values > 0 if overlap else (values > 0) & (owners == masks[i])
        tally = Tally(*(int(np.count_nonzero(m)) for m in (coarse[i], mine, coarse[i] & mine)))
        tallies.append(tally)
        agreement = 2 * tally.common / (tally.coarse + tally.sam)
        figures = {"stability": stability(values), "jitter": work.jitter}
        results.append(
            StructureResult(name, True, work.prompts, work.predicted_iou, agreement, refined[i], source, **figures)
        )
    return Refinement(masks, coarse, results, as_half(soft, masks), drawn, tallies)


def refine_image(
    probabilities: Probabilities,
    embedding: Embedding,
    backend: SamBackend,
    recipe: Recipe | Mapping[str, Recipe],
    names: Sequence[str],
    overlap: bool,
    *,
    coarse: Mask | None = None,
    **options: Any,
) -> Refinement:
    """``refine_slice`` of an image of any size: done on the working grid, with masks and soft masks brought back.

    Arguments are those of ``refine_slice``, on the image's grid, but probabilities are the student's own
    (``prompts.contested`` is done here). ``drawn`` and ``tallies`` stay on the working grid.
    """
    size, small = embedding.image_size, working_size(embedding.image_size)
    if small == size:
        probabilities = contested(probabilities, overlap)
        return refine_slice(probabilities, embedding, backend, recipe, names, overlap, coarse=coarse, **options)
    check_shapes(probabilities, names, size)
    embedding = replace(embedding, image_size=small)
    less = contested(reduced(probabilities, small), overlap)
    given = None if coarse is None else reduced(coarse, small) >= 0.5
    work = refine_slice(less, embedding, backend, recipe, names, overlap, coarse=given, **options)
    masks, soft = np.zeros(probabilities.shape, np.bool_), np.zeros(probabilities.shape, np.float16)
    own = np.zeros(probabilities.shape, np.bool_)
    taken = np.zeros(size, np.bool_)
    for i, r in enumerate(recipes_of(names, recipe)):
        if work.structures[i].present:
            plane, masks[i] = enlarged(work.soft[i], size)
            if not overlap:
                # On the working grid soft masks add up to 1 at most: only two of exactly 0.5 can meet.
                masks[i] &= ~taken
                taken |= masks[i]
            soft[i] = as_half(plane, masks[i])
            if coarse is None:
                own[i] = enlarged(student_soft(less[i], work.coarse[i], r), size)[1]
    structures = [replace(s, prompts=image_prompts(s.prompts, small, size)) for s in work.structures]
    return Refinement(masks, own if coarse is None else coarse, structures, soft, work.drawn, work.tallies)


def recipes_of(names: Sequence[str], recipe: Recipe | Mapping[str, Recipe]) -> list[Recipe]:
    """The recipe of each structure, in order.

    Raises:
        UserError: a structure has none.
    """
    if isinstance(recipe, Recipe):
        return [recipe] * len(names)
    if missing := [name for name in names if name not in recipe]:
        raise UserError(f"no recipe for structures {missing}")
    return [recipe[name] for name in names]


def check_shapes(probabilities: Probabilities, names: Sequence[str], spatial: Sequence[int]) -> None:
    """Raises UserError unless probabilities are (len(names), *spatial) of an image or a volume."""
    expected = (len(names), *spatial)
    if len(spatial) not in (2, 3) or probabilities.shape != expected:
        raise UserError(
            f"probabilities of shape {probabilities.shape} do not fit: {len(names)} structures on an image of shape "
            f"{tuple(spatial)} need {expected}"
        )
