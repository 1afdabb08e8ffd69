"""From the models of one fold, on which a calibrator learnt, to all of them together, which label the unlabelled cases.

The models of a fold are the only honest ones on its labelled cases, so quality is calibrated on their predictions. All
folds' models together are better than those of one, and no labelled case can tell by how much: each has trained most of
them. But on unlabelled cases all are honest, and there the difference can be seen without the truth: the calibrator
says how good each fold's answer is, and the mean of all probabilities, the best guess of the truth that there is, says
by how much the common answer is better. That tells a part of it, as each fold's own errors are in that mean, too.
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

#: Logits; a larger shift than this nobody should believe.
LARGEST = 2.0
_LEAST = 1e-3


@dataclass(frozen=True)
class Answer:
    """What models say of one unlabelled case.

    Attributes:
        masks: bool (S, *spatial).
        estimates: float (S,), the calibrator's Dice of each; nan where a structure is absent.
    """

    masks: Mask
    estimates: Float


def expected_dice(masks: Mask, probabilities: NDArray[np.floating[Any]]) -> Float:
    """Dice that probabilities promise a mask, 2 sum(p m) / (sum(p) + sum(m)), float (S,); both (S, *spatial)."""
    values = []
    for mask, p in zip(masks, probabilities, strict=True):
        both = float(p.sum(dtype=np.float64)) + float(mask.sum())
        values.append(2 * float(p[mask].sum(dtype=np.float64)) / both if both else 0.0)
    return np.array(values)


def expected_of_all(common: Answer, folds: Sequence[Answer], probabilities: NDArray[np.floating[Any]]) -> Float:
    """The Dice to expect of the common answer, float (S,); nan where it shows no structure.

    The mean of what the calibrator expects of each fold's answer (0 where it misses the structure), and what the common
    probabilities promise the common masks beyond that mean.

    Args:
        common: of all models.
        folds: of the models of each fold.
        probabilities: of all models, (S, *spatial).
    """
    each = np.mean([np.nan_to_num(fold.estimates) for fold in folds], axis=0)
    promised = np.mean([expected_dice(fold.masks, probabilities) for fold in folds], axis=0)
    found = np.clip(each + expected_dice(common.masks, probabilities) - promised, 0, 1)
    return np.where(np.isnan(common.estimates), np.nan, found)


def shift_of(estimates: Float, expected: Float) -> float:
    """What to add to the logits of estimates so that their mean is that of the expected values; 0 without any.

    Args:
        estimates, expected: (N,), 0 to 1; pairs with a nan are left out.
    """
    known = np.isfinite(estimates) & np.isfinite(expected)
    if not known.any():
        return 0.0
    logits, goal = logit(np.clip(estimates[known], _LEAST, 1 - _LEAST)), float(expected[known].mean())

    def away(shift: float) -> float:
        return float(expit(logits + shift).mean()) - goal

    if away(-LARGEST) >= 0 or away(LARGEST) <= 0:
        return float(np.sign(goal - expit(logits).mean()) * LARGEST)
    return float(brentq(away, -LARGEST, LARGEST, xtol=1e-4))
