from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from samstudent.sam.adapt_samples import batches, prompt_samples
from support.adapt_examples import BOX, NOTHING, SHAPE, blank


def test_samples_are_positive_if_the_coarse_mask_overlaps_the_structure() -> None:
    moved, elsewhere = np.roll(SHAPE, 3, axis=1), np.roll(SHAPE, 25, axis=0)
    example = blank([SHAPE, SHAPE, SHAPE, NOTHING, NOTHING], [moved, elsewhere, NOTHING, SHAPE, NOTHING])
    asked = [(q.structure, q.source.box, q.is_positive) for q in prompt_samples(4, example, BOX, "vit_b")]
    truth = (20.0, 10.0, 39.0, 29.0)
    assert asked == [
        (0, (23.0, 10.0, 42.0, 29.0), True),
        (1, (20.0, 35.0, 39.0, 54.0), False),
        (3, truth, False),
        (1, truth, True),
        (2, truth, True),
    ]


def test_batches_are_balanced_over_structures_and_cases() -> None:
    # Structure 0 in six cases, structure 1 in one; a volume of three slices; one mistake.
    examples = [blank([SHAPE, NOTHING], [SHAPE, NOTHING], f"case{i}") for i in range(5)]
    examples += [blank([SHAPE, NOTHING], [SHAPE, NOTHING], "volume") for _ in range(3)]
    examples += [blank([NOTHING, SHAPE], [NOTHING, SHAPE], "other"), blank([NOTHING] * 2, [SHAPE, NOTHING], "wrong")]
    samples = [q for i, e in enumerate(examples) for q in prompt_samples(i, e, BOX, "vit_b")]
    rng = np.random.default_rng(0)
    stream = batches(examples, samples, 6, rng)
    drawn = [q for _ in range(100) for q in next(stream)]
    positive = [q for q in drawn if q.is_positive]
    assert len(drawn) - len(positive) == pytest.approx(100, abs=30)
    structures = Counter(q.structure for q in positive)
    assert abs(structures[0] - structures[1]) <= 1
    cases = Counter(examples[q.example].id for q in positive if q.structure == 0)
    assert max(cases.values()) - min(cases.values()) <= 1 and len(cases) == 6
    assert {q.example for q in positive} >= {5, 6, 7}
