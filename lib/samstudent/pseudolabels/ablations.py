"""Ablations: parts of a round that experiments switch off; the server always runs all of them."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

#: Training targets of pseudo labels; ``auto``: see ``quality_filter.uses_probabilities``.
Targets = Literal["auto", "masks", "probabilities"]


@dataclass(frozen=True)
class Ablations:
    """Parts of a round that experiments disable; the defaults are those of the server.

    Attributes:
        embedding_head: train convolutions on SAM's embeddings beside the students (``embedding_head``).
        adapt_sam: train SAM's mask decoder on the labels; used where it is better than the plain one on left-out cases.
        choose_recipe: choose each structure's recipe on out-of-fold predictions; False: the task's for all.
        fusion: whether SAM's mask fused with the student's is among the candidates.
        estimate_quality: estimate each pseudo label's Dice by a model fitted to the labelled cases; False: by the
            formula of ``quality_filter.sam_quality``.
        weight_by_quality: weight pseudo labels by their quality; False: like human labels.
        targets: training targets, masks or probabilities.
    """

    embedding_head: bool = True
    adapt_sam: bool = True
    choose_recipe: bool = True
    fusion: bool = True
    estimate_quality: bool = True
    weight_by_quality: bool = True
    targets: Targets = "auto"

    def as_json(self) -> dict[str, Any]:
        """Plain values, for digests and for an experiment's parameters."""
        return asdict(self)


#: All parts on.
FULL = Ablations()
