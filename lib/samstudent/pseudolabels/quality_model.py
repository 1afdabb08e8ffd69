"""Quality model: estimate of a refined mask's Dice, fitted to the labelled cases.

A fractional logistic regression (Papke and Wooldridge 1996, doi 10.1002/(SICI)1099-1255(199611)11:6): the expected Dice
is the logistic function of a weighted sum of the quality features plus an offset for each structure. Three
constraints prevent overfitting with few cases:

- the sign of each weight is fixed: more agreement never means a lower Dice;
- ridge penalties shrink the weights to one small common weight, and the offsets to 0 (random effects): a sum of
  features with equal weights is a strong baseline (Dawes 1979, doi 10.1037/0003-066X.34.7.571);
- the strength of these penalties is chosen by cross-validation grouped by case.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit, logit

from samstudent.errors import UserError
from samstudent.pseudolabels.quality_features import QualityFeatures, ShapeStatistics
from samstudent.pseudolabels.reliability import reliability

Float = NDArray[np.float64]

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
#: Candidate strengths of the ridge; among equally good ones the first, strongest, is chosen.
STRENGTHS = (100.0, 30.0, 10.0, 3.0, 1.0)
#: Common weight towards which the weights are shrunk, in logits per standard deviation of a feature. With 5 and 10
#: labelled cases and a poor student better than 0 (correlation 0.55 against 0.48 on ultrasound).
_COMMON_WEIGHT = 0.2
#: Ridge of the intercept; keeps it finite when every Dice is 1 (or 0).
_INTERCEPT_PENALTY = 0.01
_FOLDS = 10
#: Smallest scale of a feature: one that hardly varies in the labelled cases may vary in new ones.
_SMALLEST_SCALE = 0.2
#: Largest distance of new cases from the labelled ones, in standard deviations.
_FURTHEST = 4.0


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
        centre, scale, weights: float, one per feature in the order of ``SIGNS``, on the scale of ``transformed``.
        intercept: on the logit scale.
        offsets: by name of the structures with rows; others have 0.
        statistics: of the labelled cases, for the features of new cases.
        report: ``reliability`` of the out-of-fold estimates, with ``rows``, ``cases``, ``error`` (mean absolute) and
            ``strength`` of the ridge.
    """

    centre: tuple[float, ...]
    scale: tuple[float, ...]
    weights: tuple[float, ...]
    intercept: float
    offsets: Mapping[str, float]
    statistics: ShapeStatistics
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
        names = sorted({row.structure for row in rows})
        data = _Data(
            np.array([transformed(row.features) for row in rows]),
            np.array([names.index(row.structure) for row in rows]),
            np.array([row.dice for row in rows]),
            len(names),
        )
        folds = case_folds(cases, seed)
        estimates = {strength: _out_of_fold(data, folds, strength) for strength in STRENGTHS}
        strength = min(STRENGTHS, key=lambda strength: float(((estimates[strength] - data.dice) ** 2).mean()))
        fitted = data.fit(strength)
        report = reliability(estimates[strength], data.dice) | {
            "rows": len(rows),
            "cases": len(set(cases)),
            "error": float(np.abs(estimates[strength] - data.dice).mean()),
            "strength": strength,
        }
        offsets = dict(zip(names, _plain(fitted.offsets), strict=True))
        numbers = _plain(fitted.centre), _plain(fitted.scale), _plain(fitted.weights)
        return cls(*numbers, float(fitted.intercept), offsets, statistics, report)

    def predict(self, structure: str, features: QualityFeatures) -> float:
        """Expected Dice, 0 to 1, of a mask of a structure with these features."""
        z = _standardised(transformed(features), np.array(self.centre), np.array(self.scale))
        return float(expit(self.intercept + float(z @ np.array(self.weights)) + self.offsets.get(structure, 0.0)))

    def shifted(self, offset: float) -> QualityModel:
        """The model with ``offset`` added to the logits of its estimates."""
        return replace(self, intercept=self.intercept + offset)

    def estimates(self, names: Sequence[str], features: Sequence[QualityFeatures | None]) -> dict[str, float]:
        """``predict`` of all present structures of a case, for ``quality_filter.filter_structures``."""
        pairs = zip(names, features, strict=True)
        return {name: self.predict(name, found) for name, found in pairs if found is not None}

    def as_json(self) -> dict[str, Any]:
        """Plain values; floats with all their digits, so that estimates stay the same."""
        return {
            "features": list(SIGNS),
            "centre": list(self.centre),
            "scale": list(self.scale),
            "weights": list(self.weights),
            "intercept": self.intercept,
            "offsets": dict(self.offsets),
            "statistics": self.statistics.as_json(),
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
            tuple(content["centre"]),
            tuple(content["scale"]),
            tuple(content["weights"]),
            content["intercept"],
            content["offsets"],
            ShapeStatistics.from_json(content["statistics"]),
            content["report"],
        )


def transformed(features: QualityFeatures) -> Float:
    """Features on scales for a linear model, float (F,), nan where unknown: logits of those between 0 and 1, and
    unchanged distances."""
    values = []
    for name, sign in SIGNS.items():
        value = float(getattr(features, name))
        bounded = sign > 0 and math.isfinite(value)
        values.append(float(logit(min(max(value, 0.01), 0.99))) if bounded else value)
    return np.array(values)


def case_folds(cases: Sequence[str], seed: int) -> NDArray[np.intp]:
    """Fold of the cross-validation for each row (rows,): all rows of a case in one, at most ten folds."""
    distinct = sorted(set(cases))
    np.random.default_rng(seed).shuffle(distinct)
    fold = {case: i % min(_FOLDS, len(distinct)) for i, case in enumerate(distinct)}
    return np.array([fold[case] for case in cases])


@dataclass(frozen=True)
class _Fitted:
    centre: Float
    scale: Float
    weights: Float
    intercept: float
    offsets: Float

    def predict(self, features: Float, structure: NDArray[np.intp]) -> Float:
        """Expected Dice, float (rows,)."""
        z = _standardised(features, self.centre, self.scale)
        return np.asarray(expit(self.intercept + z @ self.weights + self.offsets[structure]))


@dataclass(frozen=True)
class _Data:
    """Rows as arrays.

    Attributes:
        features: float (rows, F), nan where unknown.
        structure: int (rows,), number of each row's structure.
        dice: float (rows,).
        structures: number of all structures.
    """

    features: Float
    structure: NDArray[np.intp]
    dice: Float
    structures: int

    def part(self, rows: NDArray[Any]) -> _Data:
        return _Data(self.features[rows], self.structure[rows], self.dice[rows], self.structures)

    def fit(self, strength: float) -> _Fitted:
        """Coefficients of the highest penalised quasi-likelihood; the problem is convex."""
        centre, scale = _centre_and_scale(self.features)
        z = _standardised(self.features, centre, scale)
        signs = np.array(list(SIGNS.values()), dtype=float)
        # A feature that no labelled case has gets no weight: its centre is not known either.
        used = np.flatnonzero(np.isfinite(self.features).any(axis=0))
        first = 1 + len(used)
        design = np.zeros((len(z), first + self.structures))
        design[:, 0] = 1
        design[:, 1:first] = z[:, used] * signs[used]
        design[np.arange(len(z)), first + self.structure] = 1
        penalty = np.full(design.shape[1], strength)
        penalty[0] = _INTERCEPT_PENALTY
        target = np.zeros(design.shape[1])
        target[1:first] = _COMMON_WEIGHT
        lowest = np.full(design.shape[1], -np.inf)
        lowest[1:first] = 0.0
        found = _maximise(design, self.dice, penalty, target, lowest)
        weights = np.zeros(z.shape[1])
        weights[used] = found[1:first] * signs[used]
        return _Fitted(centre, scale, weights, float(found[0]), found[first:])


def _maximise(design: Float, dice: Float, penalty: Float, target: Float, lowest: Float) -> Float:
    """Coefficients, none below ``lowest``, of a fractional logistic regression with a ridge towards ``target``."""

    def loss(coefficients: Float) -> tuple[float, Float]:
        value = design @ coefficients
        pull = penalty * (coefficients - target)
        # -(y log p + (1 - y) log(1 - p)) with p = expit(value), written so that it cannot overflow.
        total = np.logaddexp(0, value).sum() - dice @ value + 0.5 * (coefficients - target) @ pull
        return float(total), design.T @ (expit(value) - dice) + pull

    bounds = [(None if math.isinf(low) else low, None) for low in lowest]
    found = minimize(loss, target, jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": 500})
    return np.asarray(found.x)


def _out_of_fold(data: _Data, folds: NDArray[np.intp], strength: float) -> Float:
    """Estimates float (rows,) by models fitted without the rows of the same case."""
    estimates = np.empty(len(folds))
    for fold in np.unique(folds):
        rows = folds == fold
        estimates[rows] = data.part(~rows).fit(strength).predict(data.features[rows], data.structure[rows])
    return estimates


def _centre_and_scale(values: Float) -> tuple[Float, Float]:
    known = np.isfinite(values)
    count = np.maximum(known.sum(axis=0), 1)
    centre = np.where(known, values, 0).sum(axis=0) / count
    variance = np.where(known, (values - centre) ** 2, 0).sum(axis=0) / count
    return centre, np.maximum(np.sqrt(variance), _SMALLEST_SCALE)


def _standardised(values: Float, centre: Float, scale: Float) -> Float:
    """Standardised features; unknown ones are 0, the mean."""
    z = np.clip((values - centre) / scale, -_FURTHEST, _FURTHEST)
    return np.asarray(np.where(np.isfinite(z), z, 0.0))


def _plain(values: Float) -> tuple[float, ...]:
    return tuple(float(value) for value in values)
