"""SAM's answers to the prompts that coarse masks give, through the stages of each structure's recipe."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from samstudent.sam.embedding import DecodedMask, Embedding, Float, mask_input
from samstudent.sam.model import SamBackend
from samstudent.sam.prompts import Box, Mask, Point, Prompt, box_of, inner_point, negative_points, reshape
from samstudent.task import Recipe, Stage

#: SAM was trained with boxes of which each side was shifted by noise with a standard deviation of 10 % of the box's
#: width or height, at most 20 pixels of 1024 (Segment Anything, arXiv 2304.02643, appendix A, "Training algorithm").
_JITTER = 0.1
_JITTER_LIMIT = 20 / 1024
#: Offset of SAM's stability score, in logits (segment-anything, ``SamAutomaticMaskGenerator``).
_STABILITY_OFFSET = 1.0


@dataclass(frozen=True)
class Drawn:
    """SAM's work on one present structure of one image.

    Attributes:
        prompts: one per stage: ``Prompt.as_json`` with ``stage`` from 1, and ``mask_input`` "logits" or "mask" where
            one was given; pixels of the coarse mask's grid.
        answer: to the last stage.
        jittered: answers to the last stage when boxes were jittered; empty where none were, or the stages have no box.
    """

    prompts: list[dict[str, Any]]
    answer: DecodedMask
    jittered: tuple[DecodedMask, ...] = ()

    @property
    def logits(self) -> Float:
        """float32 (y, x) at the embedding's ``image_size``; computed at every access."""
        return self.answer.logits

    @property
    def predicted_iou(self) -> float:
        """SAM's own guess of its mask's overlap with the truth."""
        return self.answer.predicted_iou

    @property
    def jitter(self) -> float | None:
        """Mean Dice of SAM's mask with those from jittered boxes; None without any."""
        if not self.jittered:
            return None
        mask = self.logits > 0
        return float(np.mean([dice(mask, other.logits > 0) for other in self.jittered]))


def decode_structures(
    coarse: Mask,
    embedding: Embedding,
    backend: SamBackend,
    recipe: Recipe | Sequence[Recipe],
    *,
    adapted: SamBackend | None = None,
    wanted: Sequence[bool] | None = None,
    owners: Sequence[int] | None = None,
    jitters: int = 0,
    seed: int = 0,
) -> list[Drawn | None]:
    """Ask SAM about the present structures of one image. Those of equal decoder and stages are asked together.

    Args:
        coarse: bool (S, y, x) on the grid of ``embedding.image_size``. Negative points come from all of them.
        embedding: of the image.
        backend: whose encoder made it; the plain decoder.
        recipe: one for all, or one for each of the S.
        adapted: the decoder for recipes that say ``adapted``; None: the plain one.
        wanted: S flags, which structures to ask about; None: all.
        owners: S numbers, equal for parts of one structure: no part is told to keep off another; None: all differ.
        jitters: how many more times to ask, with boxes jittered as in SAM's own training.
        seed: of the jitter. What a structure's boxes become does not depend on the other structures.

    Returns:
        S answers, None for structures that are absent or not wanted.
    """
    recipes = [recipe] * len(coarse) if isinstance(recipe, Recipe) else recipe
    present = [int(i) for i in np.flatnonzero(coarse.any(axis=(1, 2)))]
    asked = [i for i in present if wanted is None or wanted[i]]
    sources = sources_of(coarse, present, asked, recipes, backend.name, owners)
    groups: dict[tuple[bool, tuple[Stage, ...]], list[int]] = defaultdict(list)
    for i in asked:
        use_adapted = adapted is not None and recipes[i].decoder == "adapted"
        groups[use_adapted, recipes[i].stages_for(backend.name)].append(i)
    drawn: list[Drawn | None] = [None] * len(coarse)
    for (use_adapted, stages), members in groups.items():
        decoder = adapted if use_adapted and adapted is not None else backend
        own = [sources[i] for i in members]
        answers, log = _run(own, stages, embedding, decoder)
        jittered: list[list[DecodedMask]] = [[] for _ in members]
        if jitters and any("box" in stage.prompts for stage in stages):
            rngs = [np.random.default_rng([seed, i]) for i in members]
            shaken = [
                replace(source, box=_jittered(source.box, embedding, rng))
                for source, rng in zip(own, rngs, strict=True)
                for _ in range(jitters)
            ]
            again, _ = _run(shaken, stages, embedding, decoder)
            jittered = [again[start : start + jitters] for start in range(0, len(again), jitters)]
        for i, answer, entries, others in zip(members, answers, log, jittered, strict=True):
            drawn[i] = Drawn(entries, answer, tuple(others))
    return drawn


def stability(logits: Float) -> float:
    """SAM's stability score: IoU of the masks at logits above +1 and above -1; 0 where both are empty."""
    wide = int(np.count_nonzero(logits > -_STABILITY_OFFSET))
    return int(np.count_nonzero(logits > _STABILITY_OFFSET)) / max(wide, 1)


def dice(a: Mask, b: Mask) -> float:
    """Dice of two masks; 0 where both are empty."""
    return 2 * int(np.count_nonzero(a & b)) / max(int(np.count_nonzero(a)) + int(np.count_nonzero(b)), 1)


@dataclass(frozen=True)
class Source:
    """What one structure's prompts are drawn from; points only where a stage of the recipes uses them."""

    shaped: Mask
    box: Box
    inner: Point | None
    negative: tuple[Point, ...]


def sources_of(
    coarse: Mask, present: list[int], asked: list[int], recipes: Sequence[Recipe], backend: str,
    owners: Sequence[int] | None = None,
) -> dict[int, Source]:  # fmt: skip
    kinds = {kind for i in asked for stage in recipes[i].stages_for(backend) for kind in stage.prompts}
    inner: dict[int, Point] = {}
    negative: dict[int, tuple[Point, ...]] = {}
    if kinds & {"positive", "negative"}:
        inner = {i: inner_point(coarse[i]) for i in present}
    if "negative" in kinds:
        owned = present if owners is None else [owners[i] for i in present]
        points = negative_points([coarse[i] for i in present], list(inner.values()), owned)
        negative = dict(zip(present, points, strict=True))
    sources = {}
    for i in asked:
        shaped = reshape(coarse[i], recipes[i])
        sources[i] = Source(shaped, box_of(shaped, recipes[i].box_margin), inner.get(i), negative.get(i, ()))
    return sources


def _run(
    sources: Sequence[Source], stages: tuple[Stage, ...], embedding: Embedding, decoder: SamBackend
) -> tuple[list[DecodedMask], list[list[dict[str, Any]]]]:
    """The last stage's answers, and each structure's prompts as JSON."""
    answers: list[DecodedMask] = []
    log: list[list[dict[str, Any]]] = [[] for _ in sources]
    for number, stage in enumerate(stages, 1):
        prompts = [
            prompt_of(source, stage, embedding, answers[k].low_res if answers else None)
            for k, source in enumerate(sources)
        ]
        for entries, prompt in zip(log, prompts, strict=True):
            entry = {"stage": number, **prompt.as_json()}
            if prompt.mask_input is not None:
                entry["mask_input"] = "logits" if "logits" in stage.prompts else "mask"
            entries.append(entry)
        answers = decoder.decode_many(embedding, prompts)
    return answers, log


def prompt_of(source: Source, stage: Stage, embedding: Embedding, low_res: Float | None) -> Prompt:
    given = None
    if "logits" in stage.prompts:
        given = low_res
    elif "mask" in stage.prompts:
        given = mask_input(source.shaped, embedding)
    return Prompt(
        box=source.box if "box" in stage.prompts else None,
        positive=(source.inner,) if "positive" in stage.prompts and source.inner else (),
        negative=source.negative if "negative" in stage.prompts else (),
        mask_input=given,
    )


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
