"""Lower bound of a mask's Dice with a stated certainty: hierarchical cross-conformal prediction.

The score of a structure of a labelled case is (1.1 - Dice) / (1.1 - estimated Dice), where neither the models that drew
the mask nor the regression that estimates its Dice know the case. The bound of a new mask is the quantile over the
labelled cases of 1.1 - score (1.1 - estimate), each with the estimate by the regression that did not know that case
(CV+, Barber, Candes, Ramdas and Tibshirani 2021, arXiv 1905.02928, one-sided).

Structures of one image are not independent: each *case* has the weight 1 / (n + 1), which its structures share, and the
remaining 1 / (n + 1) counts as a Dice of 0 (Lee, Barber and Willett 2023, arXiv 2306.06342, hierarchical conformal
prediction). If labelled and new cases are exchangeable, the bound is true for a structure of a new case, drawn at
random, with a probability of at least ``certainty`` where the regressions of all folds agree, and of at least
2 certainty - 1 in the worst case. With n < 1 / (1 - certainty) - 1 cases every bound would be 0, and there is none.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from samstudent.errors import UserError

Float = NDArray[np.float64]

#: Probability with which a bound is true.
CERTAINTY = 0.9
#: Dice for which ``check`` counts the structures with such a bound.
LEVELS = (0.7, 0.75, 0.8, 0.85, 0.9, 0.95)
#: Errors of estimates are proportional to their distance from this Dice. Bounds are higher than with equal errors, at
#: equal coverage: on average 0.69 in place of 0.46 with 10 drawn teeth films, 0.12 for 0.11 and 0.15 for 0.13 with 10
#: and 30 ultrasound images, and equal with 20 films and more. Values from 1.05 to 1.2 differ little.
_BEST = 1.1
#: Rounding error of a sum of weights.
_ROUNDING = 1e-9
#: Bounds are rounded down to this number of digits, so that they stay true.
_DIGITS = 4


class DiceEstimate(NamedTuple):
    """Estimated Dice of a mask.

    Attributes:
        dice: expected value, 0 to 1.
        lower: value that the Dice reaches with the certainty ``CERTAINTY``; None: too few labelled cases.
    """

    dice: float
    lower: float | None = None


def least_cases(certainty: float = CERTAINTY) -> int:
    """Smallest number of labelled cases for a bound with this certainty: 9 for 0.9, 19 for 0.95.

    Raises:
        UserError: it is not between 0 and 1.
    """
    if not 0 < certainty < 1:
        raise UserError(f"certainty is {certainty}; it must be above 0 and below 1")
    return math.ceil(1 / (1 - certainty) - 1 - _ROUNDING)


def case_weights(cases: Sequence[str]) -> Float:
    """Weight of each row, float (rows,): 1 / (n + 1) for each of the n cases, shared equally by its rows."""
    distinct, number, rows = np.unique(np.asarray(cases, dtype=str), return_inverse=True, return_counts=True)
    return np.asarray(1 / ((len(distinct) + 1) * rows[number]))


def scores_of(estimates: Float, dice: Float) -> Float:
    """Ratio of the distances of true and estimated Dice, both 0 to 1, from ``_BEST``, float (rows,)."""
    return np.asarray((_BEST - dice) / (_BEST - estimates))


@dataclass(frozen=True)
class DiceBound:
    """Calibrated lower bound of Dice.

    Attributes:
        scores: float (rows,), ``scores_of`` the labelled cases.
        weights: float (rows,), ``case_weights``.
        fold: int (rows,), number of the regression that did not know the row's case.
        certainty: probability with which a bound is true.
    """

    scores: Float
    weights: Float
    fold: NDArray[np.intp]
    certainty: float = CERTAINTY

    @classmethod
    def of(cls, scores: Float, cases: Sequence[str], fold: NDArray[np.intp], certainty: float = CERTAINTY) -> DiceBound:
        """Calibrate on rows.

        Raises:
            UserError: fewer cases than ``least_cases``.
        """
        if (found := len(set(cases))) < least_cases(certainty):
            raise UserError(
                f"{found} labelled cases; a bound with certainty {certainty} needs {least_cases(certainty)}"
            )
        return cls(scores, case_weights(cases), fold, certainty)

    def lower(self, estimates: Float) -> Float:
        """Lower bounds of Dice, 0 to 1, float (N,).

        Args:
            estimates: Dice of N masks as the regression of each fold estimates it, float (folds, N), 0 to 1.
        """
        values = _BEST - self.scores[:, None] * (_BEST - estimates[self.fold])
        order = np.argsort(values, axis=0, kind="stable")
        weights = self.weights[order]
        # Weight of everything below a value, with that of the new case itself. The bound is the largest value below
        # which there is no more than 1 - certainty.
        below = 1 - self.weights.sum() + np.cumsum(weights, axis=0) - weights
        last = (below <= 1 - self.certainty + _ROUNDING).sum(axis=0) - 1
        found = np.take_along_axis(values, np.take_along_axis(order, last[None], axis=0), axis=0)[0]
        scale = 10**_DIGITS
        return np.asarray(np.floor(scale * np.clip(found, 0, 1) + _ROUNDING) / scale)

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        arrays = {name: getattr(self, name).tolist() for name in ("scores", "weights", "fold")}
        return arrays | {"certainty": self.certainty}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> DiceBound:
        """The reverse of ``as_json``."""
        scores, weights = (np.array(content[name], dtype=float) for name in ("scores", "weights"))
        return cls(scores, weights, np.array(content["fold"], dtype=np.intp), float(content["certainty"]))


def check(bounds: Float, dice: Float, cases: Sequence[str]) -> dict[str, Any]:
    """How often bounds were true, on masks whose Dice is known and did not take part in their bounds.

    Args:
        bounds: float (rows,).
        dice: true Dice, float (rows,).
        cases: of the rows.

    Returns:
        Plain values for JSON: ``coverage``: share of the structures whose Dice is at least the bound, mean over cases;
        ``cases`` and ``structures``: their numbers; ``mean``: mean bound; ``levels``: for each of ``LEVELS`` with the
        Dice ``dice``: number of ``structures`` whose bound reaches it, and ``true``: share of these whose Dice does,
        None without any.

    Raises:
        UserError: no rows, or lengths that differ.
    """
    if not len(bounds) == len(dice) == len(cases) or not len(bounds):
        raise UserError(f"{len(bounds)} bounds do not fit {len(dice)} values of Dice of {len(cases)} cases")
    _, number, rows = np.unique(np.asarray(cases, dtype=str), return_inverse=True, return_counts=True)
    held = np.bincount(number, dice >= bounds) / rows
    levels = []
    for level in LEVELS:
        reached = bounds >= level
        true = float((dice[reached] >= level).mean()) if reached.any() else None
        levels.append({"dice": level, "structures": int(reached.sum()), "true": true})
    return {
        "coverage": float(held.mean()),
        "cases": len(rows),
        "structures": len(bounds),
        "mean": float(bounds.mean()),
        "levels": levels,
    }
