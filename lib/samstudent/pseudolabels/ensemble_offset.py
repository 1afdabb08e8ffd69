"""Ensemble logit offset: correction of quality estimates from one fold's models to the ensemble of all models.

Only the models of a fold are out of fold on its labelled cases, so the quality model is fitted to their predictions.
The ensemble is better than the models of one fold. Labelled cases cannot show by how much, as most models trained on
each of them; unlabelled cases can, without the truth: the quality model estimates the Dice of each fold's masks, and
the mean of all probabilities, the best available estimate of the truth, shows how much better the ensemble's masks are.
The difference is underestimated, as the errors of each fold are part of that mean.
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

#: Largest offset, in logits.
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
    """Expected Dice of the ensemble's masks of one case, float (S,); nan where they show no structure.

    The mean estimate of the folds' masks (0 where one misses the structure), plus the difference of the soft Dice of
    the ensemble's masks and of the folds' masks, both against the probabilities.

    Args:
        ensemble: masks of all models.
        folds: masks of the models of each fold.
        probabilities: mean of all models, (S, *spatial).
    """
    each = np.mean([np.nan_to_num(fold.estimates) for fold in folds], axis=0)
    soft = np.mean([_soft_dice(fold.masks, probabilities) for fold in folds], axis=0)
    found = np.clip(each + _soft_dice(ensemble.masks, probabilities) - soft, 0, 1)
    return np.where(np.isnan(ensemble.estimates), np.nan, found)


def ensemble_offset(estimates: Float, expected: Float) -> float:
    """Offset of the logits of estimates with which their mean equals that of the expected Dice; 0 without any.

    Args:
        estimates: by the quality model, of the ensemble's masks, float (N,), 0 to 1.
        expected: ``expected_ensemble_dice`` of the same, float (N,); pairs with a nan are left out.
    """
    known = np.isfinite(estimates) & np.isfinite(expected)
    if not known.any():
        return 0.0
    logits, goal = logit(np.clip(estimates[known], _LEAST, 1 - _LEAST)), float(expected[known].mean())

    def difference(offset: float) -> float:
        return float(expit(logits + offset).mean()) - goal

    if difference(-LARGEST) >= 0 or difference(LARGEST) <= 0:
        return float(np.sign(goal - expit(logits).mean()) * LARGEST)
    return float(brentq(difference, -LARGEST, LARGEST, xtol=1e-4))


def _soft_dice(masks: Mask, probabilities: NDArray[np.floating[Any]]) -> Float:
    """Soft Dice of masks against probabilities, 2 sum(p m) / (sum(p) + sum(m)), float (S,); both (S, *spatial)."""
    values = []
    for mask, p in zip(masks, probabilities, strict=True):
        both = float(p.sum(dtype=np.float64)) + float(mask.sum())
        values.append(2 * float(p[mask].sum(dtype=np.float64)) / both if both else 0.0)
    return np.array(values)
