"""Reliability of estimates of Dice: calibration curve, correlation, and Dice over coverage."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from samstudent.errors import UserError

Float = NDArray[np.float64]

_BINS = 10
_ROWS_PER_BIN = 20
COVERAGES = (0.25, 0.5, 0.75, 1.0)


def reliability(estimated: Sequence[float] | Float, true: Sequence[float] | Float) -> dict[str, Any]:
    """Reliability of estimates of Dice.

    Args:
        estimated: N estimates.
        true: the N values.

    Returns:
        Plain values for JSON:
        ``correlation`` (Pearson's; None where one side is constant);
        ``calibration_error``: rows are sorted by estimate and cut into bins of equal count (ten; fewer where a bin
        would have below twenty rows); the mean over the bins, weighted by their rows, of |mean estimate - mean truth|;
        ``noise``: expected calibration error of perfect estimates, from the spread of the truth within a bin; a
        calibration error of about this size is no fault;
        ``curve``: ``estimated``, ``true`` and ``rows`` of each bin;
        ``coverage``: for each fraction of the rows, best estimates first: ``share`` (the fraction), ``dice`` (mean true
        Dice), ``estimated`` and ``error`` (mean absolute).

    Raises:
        UserError: no rows, or not as many estimates as values.
    """
    guess, truth = np.asarray(estimated, dtype=float), np.asarray(true, dtype=float)
    if guess.shape != truth.shape or guess.ndim != 1 or not len(guess):
        raise UserError(f"{guess.shape} estimates do not fit {truth.shape} values")
    order = np.argsort(guess, kind="stable")
    count = int(np.clip(len(guess) // _ROWS_PER_BIN, 1, _BINS))
    bins = np.array_split(order, count)
    curve = [{"estimated": float(guess[b].mean()), "true": float(truth[b].mean()), "rows": len(b)} for b in bins]
    coverage = []
    for share in COVERAGES:
        accepted = order[::-1][: math.ceil(share * len(order))]
        coverage.append(
            {
                "share": share,
                "dice": float(truth[accepted].mean()),
                "estimated": float(guess[accepted].mean()),
                "error": float(np.abs(guess - truth)[accepted].mean()),
            }
        )
    error = noise = 0.0
    for found, rows in zip(curve, bins, strict=True):
        error += len(rows) / len(guess) * abs(found["estimated"] - found["true"])
        # The mean size of a normal deviation is sqrt(2 / pi) times its standard deviation.
        spread = float(np.std(guess[rows] - truth[rows]))
        noise += len(rows) / len(guess) * spread * math.sqrt(2 / math.pi / len(rows))
    varied = min(np.ptp(guess), np.ptp(truth)) > 1e-9
    return {
        "correlation": float(np.corrcoef(guess, truth)[0, 1]) if varied else None,
        "calibration_error": error,
        "noise": noise,
        "curve": curve,
        "coverage": coverage,
    }
