"""A replacement of SAM for whole experiments in this process."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from samstudent.research.experiment import work
from samstudent.research.experiment.methods import METHODS, Planner
from samstudent.research.experiment.plan import Job
from samstudent.sam.embedding import DecodedMask, Embedding
from samstudent.sam.prompts import Prompt
from support.drawn import FakeSam


class PointSam(FakeSam):
    """SAM that returns the input logits for points: the paper's second stage."""

    def decode_many(self, embedding: Embedding, prompts: Sequence[Prompt]) -> list[DecodedMask]:
        return [
            super(PointSam, self).decode_many(embedding, [prompt])[0]
            if prompt.mask_input is None
            else DecodedMask(prompt.mask_input, self.iou, embedding.frame)
            for prompt in prompts
        ]


@pytest.fixture
def sam(monkeypatch: pytest.MonkeyPatch) -> FakeSam:
    """Replacement of SAM in this process; it has no weights to adapt."""
    fake = PointSam()
    monkeypatch.setattr(work, "sam_of", lambda section, random_seed=None: fake)
    untrained = {"embedding_head": False, "adapt_sam": False}

    def once(planner: Planner, n: int, seed: int) -> Job:
        return planner.round(n, seed, ablations=untrained)

    def twice(planner: Planner, n: int, seed: int) -> Job:
        return planner.round(n, seed, champion=once(planner, n, seed), ablations=untrained)

    monkeypatch.setitem(METHODS, "ours", replace(METHODS["ours"], build=once))
    monkeypatch.setitem(METHODS, "ours-twice", replace(METHODS["ours-twice"], build=twice))
    return fake
