"""Uncertainty scores of a case, as pure functions; higher: less certain, so that a human label is more useful."""

from __future__ import annotations

from collections.abc import Iterable
from statistics import fmean

import numpy as np
from numpy.typing import NDArray


def entropy_score(probabilities: NDArray[np.float32], overlap: bool) -> float:
    """Entropy of the student's pixels, averaged with the probability of foreground as weight.

    Without the weight, the certain background of most pixels dominates, and the score depends on the size of the
    structures. An empty prediction therefore has a low score; such cases are selected by diversity only.

    Args:
        probabilities: float32 (S, *spatial) in [0, 1].
        overlap: True: structures are independent (sigmoid); False: structures exclude each other (softmax), and
            background is 1 minus their sum.

    Returns:
        Entropy relative to the largest possible, in [0, 1].
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
        agreements: of each structure the Dice of the student's coarse mask and SAM's mask, 0 where that is empty
            (``StructureResult.agreement``); None where SAM was not run.

    Returns:
        In [0, 1]; None where SAM was not run on any structure.
    """
    known = [value for value in agreements if value is not None]
    return 1 - fmean(known) if known else None


def _surprise(p: NDArray[np.float64]) -> NDArray[np.float64]:
    """-p log p, 0 at 0."""
    surprise: NDArray[np.float64] = -p * np.log(np.where(p > 0, p, 1))
    return surprise
