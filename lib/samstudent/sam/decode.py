"""Decoding of SAM's masks from coarse masks, through the stages of each structure's recipe."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from samstudent.sam.embedding import DecodedMask, Embedding, Float, mask_input
from samstudent.sam.model import SamBackend
from samstudent.sam.prompts import Box, Mask, Point, Prompt, apply_morphology, box_of, inner_point, negative_points
from samstudent.task import Recipe, Stage

#: Offset of SAM's stability score, in logits (segment-anything, ``SamAutomaticMaskGenerator``).
_STABILITY_OFFSET = 1.0


@dataclass(frozen=True)
class DecodePlan:
    """Recipe and decoder of one structure.

    Attributes:
        recipe: prompts from the coarse mask, and stages.
        decoder: backend with the mask decoder; all structures have the same image encoder.
    """

    recipe: Recipe
    decoder: SamBackend


@dataclass(frozen=True)
class DecodedStructure:
    """SAM's mask of one present structure of one image.

    Attributes:
        prompts: one per stage: ``Prompt.as_json`` with ``stage`` from 1, and ``mask_input`` "logits" or "mask" where
            the stage has one; pixels of the coarse mask's grid.
        mask: of the last stage.
    """

    prompts: list[dict[str, Any]]
    mask: DecodedMask

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
) -> list[DecodedStructure | None]:
    """SAM's masks of the present structures of one image; those with equal decoder and stages are decoded together.

    Args:
        coarse: bool (S, y, x) on the grid of ``embedding.image_size``. Negative points come from all of them.
        embedding: of the image.
        plans: S; None for a structure that is not decoded.
        owners: S numbers, equal for parts of one structure, which are not negative points of each other; None: all
            differ.

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
        masks, prompts = _decode_stages([sources[i] for i in members], stages, embedding, decoder)
        for i, mask, entries in zip(members, masks, prompts, strict=True):
            decoded[i] = DecodedStructure(entries, mask)
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
    """Geometry of one structure's prompts; points only where a stage of the recipes uses them.

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
        """Prompt of a stage; ``low_res``: logits of the previous stage."""
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
