"""Prompt samples for adaptation: made from labelled examples, and drawn in balanced batches."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from samstudent.sam.decode import PromptSource, sources_of
from samstudent.sam.embedding import Embedding
from samstudent.sam.prompts import Box, Mask, box_of
from samstudent.task import Recipe

#: IoU of the boxes of coarse mask and truth above which a prompt is a positive.
_POSITIVE_IOU = 0.3
#: Fraction of negatives in a batch, where there are any.
_NEGATIVES = 1 / 6


@dataclass(frozen=True, eq=False)
class Example:
    """A labelled image, or a slice of a labelled volume. An embedding takes 4 MB of memory.

    Attributes:
        id: of the case; the same for all slices of a volume.
        fold: of the case; students and decoder of the fold are trained without the case.
        embedding: of the image; ``image_size`` is the grid of the masks.
        truth: bool (S, y, x), human masks.
        coarse: bool (S, y, x), out-of-fold coarse masks; may be empty or wrong.
        known: bool (S,), structures that the label annotates everywhere; others have no samples. None: all.
    """

    id: str
    fold: int
    embedding: Embedding
    truth: Mask
    coarse: Mask
    known: NDArray[np.bool_] | None = None

    def knows(self, structure: int) -> bool:
        """Whether the label annotates this structure (an index) everywhere."""
        return self.known is None or bool(self.known[structure])


@dataclass(frozen=True, eq=False)
class PromptSample:
    """One structure's prompt on one example, and whether it is a positive.

    Attributes:
        example, structure: indices.
        source: of the prompt; its box is not jittered yet.
        is_positive: whether the prompt is on the structure. A negative comes from a coarse mask of a structure that
            the truth lacks or has elsewhere. Its mask is no target, because it may be right for another structure;
            only the predicted IoU is, which should be low.
    """

    example: int
    structure: int
    source: PromptSource
    is_positive: bool


def prompt_samples(index: int, example: Example, recipe: Recipe, backend: str) -> list[PromptSample]:
    """All prompt samples of an example: from its coarse masks, and from the truth of structures that these miss.

    Args:
        index: of the example.
        example: the example itself.
        recipe: prompts from a mask.
        backend: name of the SAM.
    """
    coarse, labelled = (list(map(int, np.flatnonzero(m.any(axis=(1, 2))))) for m in (example.coarse, example.truth))
    known, labelled = ([s for s in structures if example.knows(s)] for structures in (coarse, labelled))
    from_coarse = sources_of(example.coarse, coarse, dict.fromkeys(known, recipe), backend)
    near = {
        s
        for s in set(known) & set(labelled)
        if _box_iou(box_of(example.coarse[s]), box_of(example.truth[s])) > _POSITIVE_IOU
    }
    missed = [s for s in labelled if s not in near]
    from_truth = sources_of(example.truth, labelled, dict.fromkeys(missed, recipe), backend)
    return [
        *(PromptSample(index, s, from_coarse[s], s in near) for s in known),
        *(PromptSample(index, s, from_truth[s], True) for s in missed),
    ]


def batches(
    examples: Sequence[Example], samples: Sequence[PromptSample], size: int, rng: np.random.Generator
) -> Iterator[list[PromptSample]]:
    """Endless batches of ``size`` samples.

    All structures are equally frequent, each with its cases in turn; a sixth of the samples are negatives, where there
    are any.
    """
    positives: dict[int, dict[str, list[PromptSample]]] = defaultdict(lambda: defaultdict(list))
    for found in samples:
        if found.is_positive:
            positives[found.structure][examples[found.example].id].append(found)
    negatives = _shuffled_cycle([sample for sample in samples if not sample.is_positive], rng)
    cases = {structure: _shuffled_cycle(list(of_case.values()), rng) for structure, of_case in positives.items()}
    structures = _shuffled_cycle(sorted(positives), rng)
    while True:
        batch = []
        for _ in range(size):
            sample: PromptSample | None = next(negatives, None) if rng.random() < _NEGATIVES else None
            if sample is None:
                of_case = next(cases[next(structures)])
                sample = of_case[int(rng.integers(len(of_case)))]
            batch.append(sample)
        yield batch


def decodable_together(batch: Sequence[PromptSample]) -> list[list[PromptSample]]:
    """Groups of a batch that one call of the decoder can process: of one example, with equal numbers of points."""
    groups: dict[tuple[int, int], list[PromptSample]] = defaultdict(list)
    for sample in batch:
        groups[sample.example, len(sample.source.negative)].append(sample)
    return list(groups.values())


def _shuffled_cycle(items: Sequence[Any], rng: np.random.Generator) -> Iterator[Any]:
    """The items in random order, endlessly; without items it ends at once."""
    while items:
        for index in rng.permutation(len(items)):
            yield items[index]


def _box_iou(a: Box, b: Box) -> float:
    """IoU of two boxes of inclusive pixels."""

    def area(x0: float, y0: float, x1: float, y1: float) -> float:
        return max(0.0, x1 - x0 + 1) * max(0.0, y1 - y0 + 1)

    common = area(max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3]))
    return common / (area(*a) + area(*b) - common)
