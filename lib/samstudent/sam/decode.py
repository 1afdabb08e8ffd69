"""SAM's masks for the prompts that coarse masks give, through the stages of each structure's recipe."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from samstudent.sam.embedding import DecodedMask, Embedding, Float, mask_input
from samstudent.sam.model import SamBackend
from samstudent.sam.prompts import Box, Mask, Point, Prompt, apply_morphology, box_of, inner_point, negative_points
from samstudent.task import Recipe, Stage

#: SAM was trained with boxes of which each side was shifted by noise with a standard deviation of 10 % of the box's
#: width or height, at most 20 pixels of 1024 (Segment Anything, arXiv 2304.02643, appendix A, "Training algorithm").
_JITTER = 0.1
_JITTER_LIMIT = 20 / 1024
#: Offset of SAM's stability score, in logits (segment-anything, ``SamAutomaticMaskGenerator``).
_STABILITY_OFFSET = 1.0


@dataclass(frozen=True)
class DecodePlan:
    """How one structure is decoded.

    Attributes:
        recipe: how its coarse mask becomes prompts, through which stages.
        decoder: the backend whose mask decoder is run; of one image encoder for all structures.
    """

    recipe: Recipe
    decoder: SamBackend


@dataclass(frozen=True)
class Jitter:
    """Repetitions with jittered boxes, as in SAM's own training, for the figure ``jitter``.

    Attributes:
        count: how many; each costs as much as the mask itself. 0: none.
        seed: what a structure's boxes become does not depend on the other structures.
    """

    count: int = 0
    seed: int = 0


@dataclass(frozen=True)
class DecodedStructure:
    """SAM's mask of one present structure of one image.

    Attributes:
        prompts: one per stage: ``Prompt.as_json`` with ``stage`` from 1, and ``mask_input`` "logits" or "mask" where
            there was one; pixels of the coarse mask's grid.
        mask: of the last stage.
        jitter: mean Dice of the mask with those of jittered boxes; None where none were, or the stages have no box.
    """

    prompts: list[dict[str, Any]]
    mask: DecodedMask
    jitter: float | None = None

    @property
    def logits(self) -> Float:
        """float32 (y, x) on the coarse mask's grid; computed at every access."""
        return self.mask.logits

    @property
    def predicted_iou(self) -> float:
        """SAM's own estimate of its mask's overlap with the truth."""
        return self.mask.predicted_iou


def decode_structures(
    coarse: Mask,
    embedding: Embedding,
    plans: Sequence[DecodePlan | None],
    owners: Sequence[int] | None = None,
    jitter: Jitter = Jitter(),
) -> list[DecodedStructure | None]:
    """SAM's masks of the present structures of one image. Those of equal decoder and stages are decoded together.

    Args:
        coarse: bool (S, y, x) on the grid of ``embedding.image_size``. Negative points come from all of them.
        embedding: of the image.
        plans: S; None for a structure that is not decoded.
        owners: S numbers, equal for parts of one structure: no part is a negative point of another; None: all differ.
        jitter: repetitions with jittered boxes.

    Returns:
        S results, None for structures that are absent or have no plan.
    """
    present = [int(i) for i in np.flatnonzero(coarse.any(axis=(1, 2)))]
    chosen = {i: plan for i in present if (plan := plans[i]) is not None}
    recipes = {i: plan.recipe for i, plan in chosen.items()}
    name = next((plan.decoder.name for plan in chosen.values()), "")
    sources = sources_of(coarse, present, recipes, name, owners)
    groups: dict[tuple[int, tuple[Stage, ...]], list[int]] = defaultdict(list)
    for i, plan in chosen.items():
        groups[id(plan.decoder), plan.recipe.stages_for(plan.decoder.name)].append(i)
    decoded: list[DecodedStructure | None] = [None] * len(coarse)
    for (_, stages), members in groups.items():
        decoder = chosen[members[0]].decoder
        own = [sources[i] for i in members]
        masks, log = _decode_stages(own, stages, embedding, decoder)
        figures: list[float | None] = [None] * len(members)
        if jitter.count and any("box" in stage.prompts for stage in stages):
            rngs = [np.random.default_rng([jitter.seed, i]) for i in members]
            shifted = [
                replace(source, box=_jittered(source.box, embedding, rng))
                for source, rng in zip(own, rngs, strict=True)
                for _ in range(jitter.count)
            ]
            again, _ = _decode_stages(shifted, stages, embedding, decoder)
            figures = [
                _mean_dice(mask, again[k * jitter.count : (k + 1) * jitter.count]) for k, mask in enumerate(masks)
            ]
        for i, mask, entries, figure in zip(members, masks, log, figures, strict=True):
            decoded[i] = DecodedStructure(entries, mask, figure)
    return decoded


def stability(logits: Float) -> float:
    """SAM's stability score: IoU of the masks at logits above +1 and above -1; 0 where both are empty."""
    wide = int(np.count_nonzero(logits > -_STABILITY_OFFSET))
    return int(np.count_nonzero(logits > _STABILITY_OFFSET)) / max(wide, 1)


def dice(a: Mask, b: Mask) -> float:
    """Dice of two masks; 0 where both are empty."""
    return 2 * int(np.count_nonzero(a & b)) / max(int(np.count_nonzero(a)) + int(np.count_nonzero(b)), 1)


@dataclass(frozen=True)
class PromptSource:
    """Geometry that one structure's prompts are drawn from; points only where a stage of the recipes uses them.

    Attributes:
        shaped: bool (y, x), the coarse mask after morphology.
        box: around it, widened by the recipe's margin.
        inner: deepest point of the coarse mask.
        negative: inner points of other structures.
    """

    shaped: Mask
    box: Box
    inner: Point | None
    negative: tuple[Point, ...]

    def prompt(self, stage: Stage, embedding: Embedding, low_res: Float | None) -> Prompt:
        """The prompt of a stage; ``low_res`` are the logits of the stage before."""
        mask = None
        if "logits" in stage.prompts:
            mask = low_res
        elif "mask" in stage.prompts:
            mask = mask_input(self.shaped, embedding)
        return Prompt(
            box=self.box if "box" in stage.prompts else None,
            positive=(self.inner,) if "positive" in stage.prompts and self.inner else (),
            negative=self.negative if "negative" in stage.prompts else (),
            mask_input=mask,
        )


def sources_of(
    coarse: Mask,
    present: Sequence[int],
    recipes: dict[int, Recipe],
    backend: str,
    owners: Sequence[int] | None = None,
) -> dict[int, PromptSource]:
    """Prompt sources of some structures.

    Args:
        coarse: bool (S, y, x).
        present: indices of those that are not empty; each may be a negative point of the others.
        recipes: of the structures that are decoded, by index.
        backend: name of the SAM.
        owners: as of ``decode_structures``.
    """
    kinds = {kind for recipe in recipes.values() for stage in recipe.stages_for(backend) for kind in stage.prompts}
    inner: dict[int, Point] = {}
    negative: dict[int, tuple[Point, ...]] = {}
    if kinds & {"positive", "negative"}:
        inner = {i: inner_point(coarse[i]) for i in present}
    if "negative" in kinds:
        owned = present if owners is None else [owners[i] for i in present]
        points = negative_points([coarse[i] for i in present], list(inner.values()), owned)
        negative = dict(zip(present, points, strict=True))
    sources = {}
    for i, recipe in recipes.items():
        shaped = apply_morphology(coarse[i], recipe)
        sources[i] = PromptSource(shaped, box_of(shaped, recipe.box_margin), inner.get(i), negative.get(i, ()))
    return sources


def _decode_stages(
    sources: Sequence[PromptSource], stages: tuple[Stage, ...], embedding: Embedding, decoder: SamBackend
) -> tuple[list[DecodedMask], list[list[dict[str, Any]]]]:
    """The last stage's masks, and each structure's prompts as JSON."""
    masks: list[DecodedMask] = []
    log: list[list[dict[str, Any]]] = [[] for _ in sources]
    for number, stage in enumerate(stages, 1):
        prompts = [
            source.prompt(stage, embedding, masks[k].low_res if masks else None) for k, source in enumerate(sources)
        ]
        for entries, prompt in zip(log, prompts, strict=True):
            entry = {"stage": number, **prompt.as_json()}
            if prompt.mask_input is not None:
                entry["mask_input"] = "logits" if "logits" in stage.prompts else "mask"
            entries.append(entry)
        masks = decoder.decode_many(embedding, prompts)
    return masks, log


def _mean_dice(mask: DecodedMask, others: Sequence[DecodedMask]) -> float:
    own = mask.logits > 0
    return float(np.mean([dice(own, other.logits > 0) for other in others]))


def _jittered(box: Box, embedding: Embedding, rng: np.random.Generator) -> Box:
    """A box with noise as in SAM's training, inside the image; its corners never change places."""
    (height, width), (new_height, new_width) = embedding.image_size, embedding.input_size
    x0, y0, x1, y1 = box
    side = np.array([x1 - x0 + 1, y1 - y0 + 1] * 2)
    # 20 of 1024 pixels in the frame that the model sees, in pixels of the image.
    limit = _JITTER_LIMIT * embedding.side * np.array([width / new_width, height / new_height] * 2)
    shift = np.clip(rng.normal(0, _JITTER * side), -limit, limit)
    moved = np.clip(np.array(box) + shift, 0, np.array([width - 1, height - 1] * 2))
    # At 5 standard deviations the sides would cross.
    x0, y0, x1, y1 = (float(v) for v in (*np.minimum(moved[:2], moved[2:]), *np.maximum(moved[:2], moved[2:])))
    return x0, y0, x1, y1
