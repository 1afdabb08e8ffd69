"""Fractional logistic regression of Dice on quality features, and its cross-validation over cases.

``FoldFits`` fits it without the cases of some folds. The strength of the ridge is chosen without them, too, so that the
Dice of a left-out case takes no part in its estimate.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit

Float = NDArray[np.float64]
#: Folds that are left out.
Folds = frozenset[int]

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
class Coefficients:
    """Fitted regression.

    Attributes:
        centre, scale, weights: float (F,), of each feature.
        intercept: on the logit scale.
        offsets: float (S,), of each structure.
    """

    centre: Float
    scale: Float
    weights: Float
    intercept: float
    offsets: Float

    def logits(self, features: Float, structure: NDArray[np.intp]) -> Float:
        """Logits of the expected Dice, float (rows,), of features (rows, F), nan where unknown, and structures."""
        z = np.clip((features - self.centre) / self.scale, -_FURTHEST, _FURTHEST)
        z = np.where(np.isfinite(z), z, 0.0)  # unknown features are the mean
        return np.asarray(self.intercept + z @ self.weights + self.offsets[structure])

    def as_json(self) -> dict[str, Any]:
        """Plain values; floats with all their digits, so that estimates stay the same."""
        arrays = {name: getattr(self, name).tolist() for name in ("centre", "scale", "weights", "offsets")}
        return arrays | {"intercept": self.intercept}

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> Coefficients:
        """The reverse of ``as_json``."""
        centre, scale, weights, offsets = (
            np.array(content[name], dtype=float) for name in ("centre", "scale", "weights", "offsets")
        )
        return cls(centre, scale, weights, float(content["intercept"]), offsets)


@dataclass(frozen=True)
class RowArrays:
    """Rows of out-of-fold predictions as arrays.

    Attributes:
        features: float (rows, F), nan where unknown.
        structure: int (rows,), number of each row's structure.
        dice: float (rows,), 0 to 1.
        structures: number of all structures.
        signs: float (F,), 1 or -1: sign of each feature's weight.
    """

    features: Float
    structure: NDArray[np.intp]
    dice: Float
    structures: int
    signs: Float

    def part(self, rows: NDArray[Any]) -> RowArrays:
        """Some of the rows."""
        return RowArrays(self.features[rows], self.structure[rows], self.dice[rows], self.structures, self.signs)

    def fit(self, strength: float) -> Coefficients:
        """Coefficients of the highest penalised quasi-likelihood; the problem is convex."""
        centre, scale = _centre_and_scale(self.features)
        z = np.clip((self.features - centre) / scale, -_FURTHEST, _FURTHEST)
        z = np.where(np.isfinite(z), z, 0.0)
        # A feature that no labelled case has gets no weight: its centre is not known either.
        used = np.flatnonzero(np.isfinite(self.features).any(axis=0))
        first = 1 + len(used)
        design = np.zeros((len(z), first + self.structures))
        design[:, 0] = 1
        design[:, 1:first] = z[:, used] * self.signs[used]
        design[np.arange(len(z)), first + self.structure] = 1
        penalty = np.full(design.shape[1], strength)
        penalty[0] = _INTERCEPT_PENALTY
        target = np.zeros(design.shape[1])
        target[1:first] = _COMMON_WEIGHT
        lowest = np.full(design.shape[1], -np.inf)
        lowest[1:first] = 0.0
        found = _maximise(design, self.dice, penalty, target, lowest)
        weights = np.zeros(z.shape[1])
        weights[used] = found[1:first] * self.signs[used]
        return Coefficients(centre, scale, weights, float(found[0]), found[first:])


def case_folds(cases: Sequence[str], seed: int) -> NDArray[np.intp]:
    """Fold of the cross-validation for each row (rows,): all rows of a case in one, at most ten folds."""
    distinct = sorted(set(cases))
    np.random.default_rng(seed).shuffle(distinct)
    fold = {case: i % min(_FOLDS, len(distinct)) for i, case in enumerate(distinct)}
    return np.array([fold[case] for case in cases])


@dataclass
class FoldFits:
    """Regressions fitted without the cases of sets of folds; each is fitted once.

    Attributes:
        rows: of all labelled cases.
        folds: int (rows,), fold of each row.
    """

    rows: RowArrays
    folds: NDArray[np.intp]
    _fits: dict[tuple[Folds, float], Coefficients] = field(default_factory=dict)
    _strengths: dict[Folds, float] = field(default_factory=dict)

    def fit(self, without: Folds = frozenset()) -> Coefficients:
        """Regression without some folds, whose strength is chosen without them, too."""
        return self._fit(without, self.strength(without))

    def of_folds(self, without: Folds = frozenset()) -> dict[int, Coefficients]:
        """Regression without some folds and each of the others, by the number of the other fold.

        The strengths are chosen without that fold; where some are left out already, without these only, as a choice
        among five strengths is not worth the many more fits.
        """
        if without:
            strength = self.strength(without)
            return {fold: self._fit(without | {fold}, strength) for fold in self._others(without)}
        return {fold: self.fit(frozenset({fold})) for fold in self._others(without)}

    def out_of_fold(self, without: Folds = frozenset()) -> Float:
        """Logits float (rows,) of each row by the regression ``of_folds`` without its fold; nan in ``without``."""
        return self._predict(self.of_folds(without))

    def strength(self, without: Folds = frozenset()) -> float:
        """Strength with the smallest squared error of out-of-fold estimates, without some folds."""
        if without not in self._strengths:
            errors = []
            for strength in STRENGTHS:
                logits = self._predict({f: self._fit(without | {f}, strength) for f in self._others(without)})
                errors.append(float(np.nanmean((expit(logits) - self.rows.dice) ** 2)))
            self._strengths[without] = STRENGTHS[int(np.argmin(errors))]
        return self._strengths[without]

    def _predict(self, fitted: Mapping[int, Coefficients]) -> Float:
        """Logits float (rows,) of the rows of each fold by its regression; nan in folds without one."""
        logits = np.full(len(self.folds), np.nan)
        for fold, coefficients in fitted.items():
            rows = self.folds == fold
            logits[rows] = coefficients.logits(self.rows.features[rows], self.rows.structure[rows])
        return logits

    def _others(self, without: Folds) -> list[int]:
        return [fold for fold in np.unique(self.folds).tolist() if fold not in without]

    def _fit(self, without: Folds, strength: float) -> Coefficients:
        if (without, strength) not in self._fits:
            kept = ~np.isin(self.folds, list(without))
            self._fits[without, strength] = self.rows.part(kept).fit(strength)
        return self._fits[without, strength]


def _maximise(design: Float, dice: Float, penalty: Float, target: Float, lowest: Float) -> Float:
    """Coefficients, none below ``lowest``, of a fractional logistic regression with a ridge towards ``target``."""

    def loss(coefficients: Float) -> tuple[float, Float]:
        value = design @ coefficients
        pull = penalty * (coefficients - target)
        # -(y log p + (1 - y) log(1 - p)) with p = expit(value), written so that it cannot overflow.
        total = np.logaddexp(0, value).sum() - dice @ value + 0.5 * (coefficients - target) @ pull
        return float(total), design.T @ (expit(value) - dice) + pull

    bounds = [(None if np.isinf(low) else low, None) for low in lowest]
    found = minimize(loss, target, jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": 500})
    return np.asarray(found.x)


def _centre_and_scale(values: Float) -> tuple[Float, Float]:
    known = np.isfinite(values)
    count = np.maximum(known.sum(axis=0), 1)
    centre = np.where(known, values, 0).sum(axis=0) / count
    variance = np.where(known, (values - centre) ** 2, 0).sum(axis=0) / count
    return centre, np.maximum(np.sqrt(variance), _SMALLEST_SCALE)
