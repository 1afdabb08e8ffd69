"""How little sure a student is of a case. Pure functions; higher: a human's label would teach more."""

from __future__ import annotations

from collections.abc import Iterable
from statistics import fmean

import numpy as np
from numpy.typing import NDArray


def entropy_score(probabilities: NDArray[np.float32], overlap: bool) -> float:
    """Entropy of the student's pixels, averaged with the probability of foreground as weight.

    Without the weight, the sure background that fills most of an image hides everything else, and images score by the
    size of their structures. A blank prediction is therefore no sign of uncertainty: it scores low, and diversity has
    to find such a case.

    Args:
        probabilities: float32 (S, *spatial) in [0, 1].
        overlap: True: each structure is a yes-or-no of its own (sigmoid); False: structures exclude each other
            (softmax) and what is missing to 1 is the background.

    Returns:
        Share of the largest possible entropy, in [0, 1].
    """
    p = np.clip(probabilities.reshape(len(probabilities), -1).astype(np.float64), 0, 1)
    if overlap:
        entropy = (_surprise(p) + _surprise(1 - p)) / np.log(2)
        weight = p
    else:
        foreground = p.sum(axis=0)
        entropy = (_surprise(p).sum(axis=0) + _surprise(np.clip(1 - foreground, 0, 1))) / np.log(len(p) + 1)
        weight = foreground
    total = float(weight.sum())
    return float(np.clip((weight * entropy).sum() / total, 0, 1)) if total > 0 else 0.0


def disagreement_score(agreements: Iterable[float | None]) -> float | None:
    """1 - mean agreement of the student's masks and SAM's.

    Args:
        agreements: of each structure the Dice of the student's cleaned mask and what SAM drew, 0 where it drew nothing
            (``StructureResult.agreement``, not what came out: there the student's mask stands in for SAM's); None where
            SAM was not asked.

    Returns:
        In [0, 1]; None when SAM was asked nothing, so that there is nothing to disagree about.
    """
    known = [value for value in agreements if value is not None]
    return 1 - fmean(known) if known else None


def _surprise(p: NDArray[np.float64]) -> NDArray[np.float64]:
    """-p log p, 0 at 0."""
    surprise: NDArray[np.float64] = -p * np.log(np.where(p > 0, p, 1))
    return surprise
