"""Calibration of the lower bound of Dice on out-of-fold rows, and its cross-validated coverage."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.special import expit

from samstudent.pseudolabels.dice_bound import CERTAINTY, DiceBound, check, least_cases, scores_of
from samstudent.pseudolabels.quality_regression import FoldFits, Folds


def calibrated(fits: FoldFits, cases: Sequence[str], without: Folds = frozenset()) -> DiceBound:
    """Bound from the rows of all folds but some; its regressions are those without each of the other folds.

    Args:
        fits: of all rows.
        cases: of the rows.
        without: folds whose rows do not take part.

    Raises:
        UserError: too few cases.
    """
    kept = np.flatnonzero(~np.isin(fits.folds, list(without)))
    scores = scores_of(expit(fits.out_of_fold(without)[kept]), fits.rows.dice[kept])
    number = np.searchsorted(list(fits.of_folds(without)), fits.folds[kept])
    return DiceBound.of(scores, [cases[row] for row in kept], number)


def bound_report(fits: FoldFits, cases: Sequence[str]) -> dict[str, Any]:
    """Figures of the bound for the round's record.

    Returns:
        Plain values: ``certainty``; ``cases``: number of labelled cases; ``needed``: smallest number of them for a
        bound; ``cross_validated``: ``dice_bound.check`` of bounds that were calibrated without the cases of each fold,
        None where too few cases are left.
    """
    report = {"certainty": CERTAINTY, "cases": len(set(cases)), "needed": least_cases(), "cross_validated": None}
    bounds = np.full(len(cases), np.nan)
    for fold in np.unique(fits.folds).tolist():
        rows, left_out = fits.folds == fold, frozenset({fold})
        if len({case for case, is_in in zip(cases, rows, strict=True) if not is_in}) < least_cases():
            return report
        features, structure = fits.rows.features[rows], fits.rows.structure[rows]
        logits = [fitted.logits(features, structure) for fitted in fits.of_folds(left_out).values()]
        bounds[rows] = calibrated(fits, cases, left_out).lower(expit(np.array(logits)))
    return report | {"cross_validated": check(bounds, fits.rows.dice, cases)}
