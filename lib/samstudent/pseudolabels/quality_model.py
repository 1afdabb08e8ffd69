"""Quality model: estimate and lower bound of a refined mask's Dice, fitted to the labelled cases.

The estimate is a fractional logistic regression (Papke and Wooldridge 1996, doi
10.1002/(SICI)1099-1255(199611)11:6): the expected Dice is the logistic function of a weighted sum of the quality
features plus an offset for each structure. Three constraints prevent overfitting with few cases:

- the sign of each weight is fixed: more agreement never means a lower Dice;
- ridge penalties shrink the weights to one small common weight, and the offsets to 0 (random effects): a sum of
  features with equal weights is a strong baseline (Dawes 1979, doi 10.1037/0003-066X.34.7.571);
- the strength of these penalties is chosen by cross-validation grouped by case.

The lower bound is that of ``dice_bound``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from scipy.special import expit, logit

from samstudent.errors import UserError
from samstudent.pseudolabels.bound_calibration import bound_report, calibrated
from samstudent.pseudolabels.dice_bound import DiceBound, DiceEstimate, least_cases
from samstudent.pseudolabels.quality_features import QualityFeatures, ShapeStatistics
from samstudent.pseudolabels.quality_regression import Coefficients, Float, FoldFits, RowArrays, case_folds
from samstudent.pseudolabels.reliability import reliability

#: Smallest number of labelled cases for a fit.
MIN_CASES = 3
#: Sign of each feature: +1 where a higher value means a better mask, -1 where it means a worse one.
SIGNS = {
    "predicted_iou": 1,
    "agreement": 1,
    "expected_dice": 1,
    "member_agreement": 1,
    "size": -1,
    "position": -1,
}


@dataclass(frozen=True)
class Row:
    """One structure of an out-of-fold prediction whose truth is known.

    Attributes:
        structure: its name.
        case: its id. Rows of one case are in one fold of the cross-validation.
        features: with statistics without the case (``ShapeStatistics.without``).
        dice: of the refined mask and the truth; 0 where the truth has no such structure (a false positive).
    """

    structure: str
    case: str
    features: QualityFeatures
    dice: float


@dataclass(frozen=True)
class QualityModel:
    """Estimator of Dice from quality features, made by ``fit``; plain numbers, stored as JSON.

    Attributes:
        structures: names of the structures with rows; others have the offset 0.
        fitted: regression on all rows.
        statistics: of the labelled cases, for the features of new cases.
        of_folds: regressions without the cases of each fold, for ``bound``.
        bound: calibrated lower bound; None: too few labelled cases.
        report: ``reliability`` of the out-of-fold estimates, with ``rows``, ``cases``, ``error`` (mean absolute) and
            ``strength`` of the ridge; ``bound``: ``bound_calibration.bound_report``.
    """

    structures: tuple[str, ...]
    fitted: Coefficients
    statistics: ShapeStatistics
    of_folds: tuple[Coefficients, ...] = ()
    bound: DiceBound | None = None
    report: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def fit(cls, rows: Sequence[Row], statistics: ShapeStatistics, seed: int = 0) -> QualityModel | None:
        """Fit to out-of-fold predictions.

        Args:
            rows: of labelled cases, in any order. Those whose Dice is nan are left out.
            statistics: of all labelled cases; only stored.
            seed: of the folds.

        Returns:
            None where the rows are of fewer than ``MIN_CASES`` cases.

        Raises:
            UserError: a Dice is not between 0 and 1.
        """
        rows = [row for row in rows if not math.isnan(row.dice)]
        if wrong := [row for row in rows if not 0 <= row.dice <= 1]:
            raise UserError(f"Dice of {wrong[0].structure!r} in {wrong[0].case!r} is {wrong[0].dice}, not in 0 to 1")
        # Sorted, so that the result does not depend on the order of the rows.
        rows = sorted(rows, key=lambda row: (row.case, row.structure))
        cases = [row.case for row in rows]
        if len(set(cases)) < MIN_CASES:
            return None
        names = tuple(sorted({row.structure for row in rows}))
        data = RowArrays(
            np.array([transformed(row.features) for row in rows]),
            np.array([names.index(row.structure) for row in rows]),
            np.array([row.dice for row in rows]),
            len(names),
            np.array(list(SIGNS.values()), dtype=float),
        )
        fits = FoldFits(data, case_folds(cases, seed))
        estimates = expit(fits.out_of_fold())
        report = reliability(estimates, data.dice) | {
            "rows": len(rows),
            "cases": len(set(cases)),
            "error": float(np.abs(estimates - data.dice).mean()),
            "strength": fits.strength(),
            "bound": bound_report(fits, cases),
        }
        bound = calibrated(fits, cases) if len(set(cases)) >= least_cases() else None
        of_folds = tuple(fits.of_folds().values()) if bound else ()
        return cls(names, fits.fit(), statistics, of_folds, bound, report)

    def predict(self, structure: str, features: QualityFeatures) -> float:
        """Expected Dice, 0 to 1, of a mask of a structure with these features."""
        return float(expit(self._logit(self.fitted, structure, features)))

    def lower_bound(self, structure: str, features: QualityFeatures) -> float | None:
        """Dice that a mask of a structure with these features reaches with ``bound.certainty``, not above the estimate;
        None: no bound."""
        if self.bound is None:
            return None
        estimates = expit(np.array([[self._logit(fitted, structure, features)] for fitted in self.of_folds]))
        return min(float(self.bound.lower(estimates)[0]), self.predict(structure, features))

    def shifted(self, offset: float) -> QualityModel:
        """The model with ``offset`` added to the logits of its estimates."""

        def moved(fitted: Coefficients) -> Coefficients:
            return replace(fitted, intercept=fitted.intercept + offset)

        return replace(self, fitted=moved(self.fitted), of_folds=tuple(map(moved, self.of_folds)))

    def estimates(self, names: Sequence[str], features: Sequence[QualityFeatures | None]) -> dict[str, DiceEstimate]:
        """Estimates of all present structures of a case, for ``quality_filter.filter_structures``."""
        pairs = zip(names, features, strict=True)
        return {
            name: DiceEstimate(self.predict(name, found), self.lower_bound(name, found))
            for name, found in pairs
            if found is not None
        }

    def as_json(self) -> dict[str, Any]:
        """Plain values; floats with all their digits, so that estimates stay the same."""
        return {
            "features": list(SIGNS),
            "structures": list(self.structures),
            "fitted": self.fitted.as_json(),
            "statistics": self.statistics.as_json(),
            "of_folds": [fitted.as_json() for fitted in self.of_folds],
            "bound": None if self.bound is None else self.bound.as_json(),
            "report": dict(self.report),
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> QualityModel:
        """The reverse of ``as_json``.

        Raises:
            UserError: it has other features.
        """
        if content["features"] != list(SIGNS):
            raise UserError(f"a quality model with the features {content['features']}, not {list(SIGNS)}")
        return cls(
            tuple(content["structures"]),
            Coefficients.from_json(content["fitted"]),
            ShapeStatistics.from_json(content["statistics"]),
            tuple(map(Coefficients.from_json, content["of_folds"])),
            None if content["bound"] is None else DiceBound.from_json(content["bound"]),
            content["report"],
        )

    def _logit(self, fitted: Coefficients, structure: str, features: QualityFeatures) -> float:
        if structure in self.structures:
            number = np.array([self.structures.index(structure)])
            return float(fitted.logits(transformed(features)[None], number)[0])
        mean = replace(fitted, offsets=np.zeros(1))
        return float(mean.logits(transformed(features)[None], np.zeros(1, dtype=np.intp))[0])


def transformed(features: QualityFeatures) -> Float:
    """Features on scales for a linear model, float (F,), nan where unknown: logits of those between 0 and 1, and
    unchanged distances."""
    values = []
    for name, sign in SIGNS.items():
        value = float(getattr(features, name))
        bounded = sign > 0 and math.isfinite(value)
        values.append(float(logit(min(max(value, 0.01), 0.99))) if bounded else value)
    return np.array(values)
