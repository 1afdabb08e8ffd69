"""The ensemble logit offset: from one fold's models, to which the quality model is fitted, to all of them together.

Only the models of a fold are out of fold on its labelled cases, so the quality model is fitted to their predictions.
All models together are better than those of one fold, and no labelled case can tell by how much: each has trained most
of them. But unlabelled cases are new to all, and there the difference can be measured without the truth: the quality
model estimates the Dice of each fold's masks, and the mean of all probabilities, the best guess of the truth that there
is, tells by how much the ensemble's masks are better. That tells a part of it, as each fold's own errors are in that
mean, too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import expit, logit

from samstudent.sam.prompts import Mask

Float = NDArray[np.float64]

#: Logits; a larger offset than this nobody should believe.
LARGEST = 2.0
_LEAST = 1e-3


@dataclass(frozen=True)
class EstimatedMasks:
    """Refined masks of one unlabelled case.

    Attributes:
        masks: bool (S, *spatial).
        estimates: float (S,), estimated Dice of each; nan where a structure is absent.
    """

    masks: Mask
    estimates: Float


def expected_ensemble_dice(
    ensemble: EstimatedMasks, folds: Sequence[EstimatedMasks], probabilities: NDArray[np.floating[Any]]
) -> Float:
    """The Dice to expect of the ensemble's masks of one case, float (S,); nan where they show no structure.

    The mean estimate of the folds' masks (0 where one misses the structure), and what the probabilities promise the
    ensemble's masks beyond those of the folds.

    Args:
        ensemble: of all models.
        folds: of the models of each fold.
        probabilities: of all models, (S, *spatial).
    """
    each = np.mean([np.nan_to_num(fold.estimates) for fold in folds], axis=0)
    promised = np.mean([_promised_dice(fold.masks, probabilities) for fold in folds], axis=0)
    found = np.clip(each + _promised_dice(ensemble.masks, probabilities) - promised, 0, 1)
    return np.where(np.isnan(ensemble.estimates), np.nan, found)


def ensemble_offset(estimates: Float, expected: Float) -> float:
    """The number to add to the logits of estimates so that their mean is that of the expected Dice; 0 without any.

    Args:
        estimates: by the quality model, of the ensemble's masks, float (N,), 0 to 1.
        expected: ``expected_ensemble_dice`` of the same, float (N,); pairs with a nan are left out.
    """
    known = np.isfinite(estimates) & np.isfinite(expected)
    if not known.any():
        return 0.0
    logits, goal = logit(np.clip(estimates[known], _LEAST, 1 - _LEAST)), float(expected[known].mean())

    def away(offset: float) -> float:
        return float(expit(logits + offset).mean()) - goal

    if away(-LARGEST) >= 0 or away(LARGEST) <= 0:
        return float(np.sign(goal - expit(logits).mean()) * LARGEST)
    return float(brentq(away, -LARGEST, LARGEST, xtol=1e-4))


def _promised_dice(masks: Mask, probabilities: NDArray[np.floating[Any]]) -> Float:
    """Dice that probabilities promise masks, 2 sum(p m) / (sum(p) + sum(m)), float (S,); both (S, *spatial)."""
    values = []
    for mask, p in zip(masks, probabilities, strict=True):
        both = float(p.sum(dtype=np.float64)) + float(mask.sum())
        values.append(2 * float(p[mask].sum(dtype=np.float64)) / both if both else 0.0)
    return np.array(values)
