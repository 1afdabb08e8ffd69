"""An estimate of a refined mask's Dice, learnt from the few cases whose truth is known.

The estimate is a fractional logistic regression (Papke and Wooldridge 1996, doi 10.1002/(SICI)1099-1255(199611)11:6):
the expected Dice is the logistic function of a weighted sum of the signals plus an offset for each structure. What
keeps it honest with a handful of cases:

- a weight can only have the sign that makes sense: more agreement never means less Dice;
- weights are drawn to one small common weight and offsets to the mean of all structures (ridge penalties, i.e. random
  effects), how strongly is decided by cross-validation that never splits a case. A handful of rows cannot tell which
  signal is better, but a sum of signals with equal weights is hard to beat (Dawes 1979, doi
  10.1037/0003-066X.34.7.571). Where signals make cross-validation clearly worse than no weights at all, the shrunk mean
  of each structure, they are not used;
- a last straight line on the logit scale, fitted on out-of-case estimates, takes out what over- or underconfidence
  remains.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit, logit

from samstudent.errors import UserError
from samstudent.pseudolabels.quality_features import QualityFeatures, ShapeStatistics
from samstudent.pseudolabels.quality_filter import sam_quality

Float = NDArray[np.float64]
_Bound = tuple[float | None, float | None]

#: With fewer labelled cases than this nothing is learnt.
MIN_CASES = 3
#: The formula's estimate is multiplied by this: without a labelled case it is better to promise too little.
DISCOUNT = 0.9
#: Each signal's sign: +1 where more of it means a better mask, -1 where worse.
_SIGNS = {
    "predicted_iou": 1,
    "agreement": 1,
    "stability": 1,
    "jitter": 1,
    "entropy": -1,
    "certainty": 1,
    "expected": 1,
    "ensemble": 1,
    "log_area": -1,  # its size: too large is as suspicious as too small
    "offset": -1,
    "arrangement": -1,
    "components": -1,
    "prevalence": 1,
}
_BOUNDED = {"predicted_iou", "agreement", "stability", "jitter", "certainty", "expected", "ensemble", "prevalence"}
#: Ridge penalties tried on the weights' differences (infinite: no weights at all) and on the offsets, strongest first.
_WEIGHT_PENALTIES = (math.inf, 100.0, 10.0, 3.0, 1.0, 0.3, 0.1)
_OFFSET_PENALTIES = (10.0, 3.0, 1.0, 0.3, 0.1)
#: What the weights are drawn to, in logits per standard deviation of a signal, and how strongly their mean is. With 5
#: and 10 labelled cases, and a poor student, better than 0 (correlation 0.55 for 0.48 on ultrasound).
_USUAL_WEIGHT = 0.2
_MEAN_PENALTY = 3.0
#: Keeps the intercept finite when every Dice is 1 (or 0).
_INTERCEPT_PENALTY = 0.01
#: Draws the last line to the identity.
_LINE_PENALTY = 1.0
_FOLDS = 10
#: A signal's spread is never taken to be smaller: one that hardly varied may vary in new cases.
_SMALLEST_SCALE = 0.2
#: New cases count as at most this many standard deviations from the labelled ones.
_FURTHEST = 4.0
_BINS = 10
_ROWS_PER_BIN = 20
COVERAGES = (0.25, 0.5, 0.75, 1.0)


@dataclass(frozen=True)
class Row:
    """One structure that a prediction has, of a case whose truth is known.

    Attributes:
        structure: its name.
        case: its id. Rows of one case (slices of one volume) are never split by cross-validation.
        fold: of the student that predicted it, which must not have trained on the case.
        signals: with an atlas that does not hold the case (``ShapeStatistics.without``).
        dice: of the refined mask and the truth; 0 where the truth has no such structure (a false alarm).
    """

    structure: str
    case: str
    fold: int
    signals: QualityFeatures
    dice: float


@dataclass(frozen=True)
class QualityModel:
    """Estimates Dice from signals. Made by ``fit`` or ``default``; plain numbers, to be kept as JSON.

    Attributes:
        kind: "signals"; "constant": the signals did not help, so it is each structure's shrunk mean; "default": there
            were too few labelled cases, so it is the discounted formula of ``quality.sam_quality``.
        centre, scale, weights: float, one per signal in the order of ``QualityFeatures``, after the transformation.
        intercept: on the logit scale.
        offsets: of the structures that rows were there for; others have 0.
        line: intercept and slope of the last correction on the logit scale.
        report: what cross-validation says of it (``reliability`` of out-of-case estimates), with ``rows``, ``cases``,
            ``error`` (root mean square), ``constant_error`` (the same of the shrunk means), ``uncertainty`` (standard
            error, by case, of the mean estimate: with few cases the calibration error cannot be known any better),
            ``penalties`` and ``folds`` (mean of estimate minus truth for each student); empty for ``default``.
        atlas: what the labelled cases show, for the signals of new cases; None: not known.
    """

    kind: str
    centre: tuple[float, ...] = ()
    scale: tuple[float, ...] = ()
    weights: tuple[float, ...] = ()
    intercept: float = 0.0
    offsets: Mapping[str, float] = field(default_factory=dict)
    line: tuple[float, float] = (0.0, 1.0)
    report: Mapping[str, Any] = field(default_factory=dict)
    atlas: ShapeStatistics | None = None

    @classmethod
    def default(cls, atlas: ShapeStatistics | None = None) -> QualityModel:
        """For when (almost) nothing is labelled."""
        return cls("default", atlas=atlas)

    @classmethod
    def fit(cls, rows: Sequence[Row], atlas: ShapeStatistics | None = None, seed: int = 0) -> QualityModel:
        """Learn from honest predictions.

        Args:
            rows: of the present structures of labelled cases; in any order. Those whose Dice is nan are left out. Of
                fewer than three cases nothing is learnt, and ``default`` comes back.
            atlas: of all labelled cases; it is only kept.
            seed: shuffles the cases before they are dealt into folds.

        Raises:
            UserError: a Dice is not between 0 and 1.
        """
        rows = [row for row in rows if not math.isnan(row.dice)]
        if wrong := [row for row in rows if not 0 <= row.dice <= 1]:
            raise UserError(f"Dice of {wrong[0].structure!r} in {wrong[0].case!r} is {wrong[0].dice}, not in 0 to 1")
        # In one order whatever order they come in, so that the result depends on the rows alone.
        rows = sorted(rows, key=lambda row: (row.case, row.structure))
        if len({row.case for row in rows}) < MIN_CASES:
            return cls.default(atlas)
        names = sorted({row.structure for row in rows})
        data = _Data(
            np.array([features(row.signals) for row in rows]),
            np.array([names.index(row.structure) for row in rows]),
            np.array([row.dice for row in rows]),
            len(names),
        )
        cases = [row.case for row in rows]
        parts = case_folds(cases, seed)
        penalties, estimates, constant = _choose(data, cases, parts)
        model = data.fit(*penalties)
        honest = np.empty(len(rows))
        for part in np.unique(parts):
            away = parts != part
            honest[~away] = _straighten(estimates[~away], _line(estimates[away], data.dice[away]))
        report = reliability(expit(honest), data.dice) | {
            "rows": len(rows),
            "cases": len(set(cases)),
            "error": _error(expit(honest), data.dice),
            "constant_error": _error(expit(constant), data.dice),
            "uncertainty": _standard_error(expit(honest) - data.dice, cases),
            "penalties": [None if math.isinf(p) else p for p in penalties],
            "folds": _bias_of_folds(rows, expit(honest)),
        }
        return cls(
            "constant" if math.isinf(penalties[0]) else "signals",
            _plain(model.centre),
            _plain(model.scale),
            _plain(model.weights),
            float(model.intercept),
            dict(zip(names, _plain(model.offsets), strict=True)),
            _line(estimates, data.dice),
            report,
            atlas,
        )

    def predict(self, structure: str, signals: QualityFeatures) -> float:
        """The expected Dice, 0 to 1, of a mask of this structure with these signals."""
        if self.kind == "default":
            return DISCOUNT * _formula(signals)
        z = _standardised(features(signals), np.array(self.centre), np.array(self.scale))
        value = self.intercept + float(z @ np.array(self.weights)) + self.offsets.get(structure, 0.0)
        return float(expit(_straighten(value, self.line)))

    def shifted(self, shift: float) -> QualityModel:
        """The same with estimates whose logits are higher by ``shift``; ``default`` has no logits and stays."""
        return self if self.kind == "default" else replace(self, line=(self.line[0] + shift, self.line[1]))

    def estimates(self, names: Sequence[str], signals: Sequence[QualityFeatures | None]) -> dict[str, float]:
        """``predict`` for all present structures of a case, as ``quality.gate`` takes them."""
        pairs = zip(names, signals, strict=True)
        return {name: self.predict(name, found) for name, found in pairs if found is not None}

    def as_json(self) -> dict[str, Any]:
        """Plain values; floats keep all their digits, so that estimates stay the same."""
        return {
            "kind": self.kind,
            "signals": list(_SIGNS),
            "centre": list(self.centre),
            "scale": list(self.scale),
            "weights": list(self.weights),
            "intercept": self.intercept,
            "offsets": dict(self.offsets),
            "line": list(self.line),
            "report": dict(self.report),
            "atlas": None if self.atlas is None else self.atlas.as_json(),
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> QualityModel:
        """The reverse of ``as_json``.

        Raises:
            UserError: it was made by a version of samstudent with other signals.
        """
        if content["signals"] != list(_SIGNS):
            raise UserError(f"the calibrator knows the signals {content['signals']}, this version {list(_SIGNS)}")
        return cls(
            content["kind"],
            tuple(content["centre"]),
            tuple(content["scale"]),
            tuple(content["weights"]),
            content["intercept"],
            content["offsets"],
            (content["line"][0], content["line"][1]),
            content["report"],
            None if content["atlas"] is None else ShapeStatistics.from_json(content["atlas"]),
        )


def reliability(estimated: Sequence[float] | Float, true: Sequence[float] | Float) -> dict[str, Any]:
    """How good estimates of Dice are.

    Args:
        estimated: N estimates.
        true: the N values.

    Returns:
        Plain values for JSON:
        ``correlation`` (Pearson's; None where one side is constant);
        ``calibration_error``: rows are sorted by estimate and cut into bins of equal count (ten; fewer where a bin
        would have below twenty rows); the mean over the bins, weighted by their rows, of |mean estimate - mean truth|;
        ``noise``: what this error would be on average for perfect estimates, because the truth of a bin's few rows
        spreads; a calibration error of about this size shows no fault;
        ``curve``: ``estimated``, ``true`` and ``rows`` of each bin;
        ``coverage``: for each share of rows kept, best estimates first: ``share``, ``dice`` (their mean true Dice),
        ``estimated`` and ``error`` (mean absolute).

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
        kept = order[::-1][: math.ceil(share * len(order))]
        coverage.append(
            {
                "share": share,
                "dice": float(truth[kept].mean()),
                "estimated": float(guess[kept].mean()),
                "error": float(np.abs(guess - truth)[kept].mean()),
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


def features(signals: QualityFeatures) -> Float:
    """The signals on scales where a straight line makes sense, float (F,), nan where unknown: logits of those between
    0 and 1, the size of the area's z-score, the log of the number of components."""
    values = []
    for name in _SIGNS:
        value = float(getattr(signals, name))
        if name in _BOUNDED:
            value = float(logit(min(max(value, 0.01), 0.99))) if math.isfinite(value) else math.nan
        elif name == "log_area":
            value = abs(value)
        elif name == "components":
            # None at all is as bad as two: nowhere is the student sure.
            value = math.log(value) if value >= 1 else math.log(2) if value == 0 else math.nan
        values.append(value)
    return np.array(values)


def case_folds(cases: Sequence[str], seed: int) -> NDArray[np.intp]:
    """Number of the cross-validation's part for each row (rows,): all rows of a case in one, at most ten parts."""
    distinct = sorted(set(cases))
    np.random.default_rng(seed).shuffle(distinct)
    part = {case: i % min(_FOLDS, len(distinct)) for i, case in enumerate(distinct)}
    return np.array([part[case] for case in cases])


@dataclass(frozen=True)
class _Model:
    centre: Float
    scale: Float
    weights: Float
    intercept: float
    offsets: Float

    def value(self, features: Float, structure: NDArray[np.intp]) -> Float:
        """On the logit scale, float (rows,)."""
        z = _standardised(features, self.centre, self.scale)
        return np.asarray(self.intercept + z @ self.weights + self.offsets[structure])


@dataclass(frozen=True)
class _Data:
    """features: float (rows, F), nan where unknown; structure: number of each row's; dice: float (rows,)."""

    features: Float
    structure: NDArray[np.intp]
    dice: Float
    structures: int

    def part(self, rows: NDArray[Any]) -> _Data:
        return _Data(self.features[rows], self.structure[rows], self.dice[rows], self.structures)

    def fit(self, weight_penalty: float, offset_penalty: float) -> _Model:
        """The weights of highest penalised quasi-likelihood; the problem is convex."""
        centre, scale = _centre_and_scale(self.features)
        z = _standardised(self.features, centre, scale)
        signs = np.array(list(_SIGNS.values()), dtype=float)
        # A signal that no labelled case has gets no weight: nothing is known of its usual value either.
        used = np.flatnonzero(np.isfinite(self.features).any(axis=0) & math.isfinite(weight_penalty))
        first = 1 + len(used)
        design = np.zeros((len(z), first + self.structures))
        design[:, 0] = 1
        design[:, 1:first] = z[:, used] * signs[used]
        design[np.arange(len(z)), first + self.structure] = 1
        penalty = np.diag([_INTERCEPT_PENALTY, *[_MEAN_PENALTY] * len(used), *[offset_penalty] * self.structures])
        if len(used):
            penalty[1:first, 1:first] += weight_penalty * (np.eye(len(used)) - 1 / len(used))
        bounds: list[_Bound] = [(None, None), *[(0.0, None)] * len(used), *[(None, None)] * self.structures]
        usual = np.zeros(design.shape[1])
        usual[1:first] = _USUAL_WEIGHT
        found = _maximise(design, self.dice, penalty, bounds, usual)
        weights = np.zeros(z.shape[1])
        weights[used] = found[1:first] * signs[used]
        return _Model(centre, scale, weights, float(found[0]), found[first:])


def _maximise(
    design: Float,
    dice: Float,
    penalty: Float,
    bounds: Sequence[_Bound],
    towards: Float,
) -> Float:
    """Coefficients of a fractional logistic regression with half the quadratic form ``penalty`` of their distance from
    ``towards`` as a penalty."""

    def loss(coefficients: Float) -> tuple[float, Float]:
        value = design @ coefficients
        away = coefficients - towards
        # -(y log p + (1 - y) log(1 - p)) with p = expit(value), written so that it cannot overflow.
        pull = penalty @ away
        total = np.logaddexp(0, value).sum() - dice @ value + 0.5 * away @ pull
        return float(total), design.T @ (expit(value) - dice) + pull

    return np.asarray(minimize(loss, towards, jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": 500}).x)


def _choose(data: _Data, cases: Sequence[str], parts: NDArray[np.intp]) -> tuple[tuple[float, float], Float, Float]:
    """The penalties of the smallest out-of-case squared error, their out-of-case estimates, and those of the best
    model without signals (both on the logit scale).

    The latter is only chosen where its error is smaller by more than the standard error of the difference: with few
    cases it often is by chance, and estimates that are all alike cannot tell a good mask from a bad one.
    """
    splits = [(data.part(parts != part), parts == part) for part in np.unique(parts)]
    best: dict[bool, tuple[float, tuple[float, float], Float]] = {}
    for penalties in product(_WEIGHT_PENALTIES, _OFFSET_PENALTIES):
        estimates = np.empty(len(parts))
        for training, rows in splits:
            model = training.fit(*penalties)
            estimates[rows] = model.value(data.features[rows], data.structure[rows])
        error = _error(expit(estimates), data.dice)
        without = math.isinf(penalties[0])
        if without not in best or error < best[without][0]:
            best[without] = (error, penalties, estimates)
    constant, signals = best[True], best[False]
    worse = (expit(signals[2]) - data.dice) ** 2 - (expit(constant[2]) - data.dice) ** 2
    _, penalties, estimates = constant if worse.mean() > _standard_error(worse, cases) else signals
    return penalties, estimates, constant[2]


def _line(estimates: Float, dice: Float) -> tuple[float, float]:
    """Intercept and slope (0 to 2) on the logit scale that bring out-of-case estimates to the truth."""
    middle = float(estimates.mean())
    design = np.stack([np.ones(len(estimates)), estimates - middle], axis=1)
    penalty = _LINE_PENALTY * np.eye(2)
    start, slope = _maximise(design, dice, penalty, [(None, None), (0.0, 2.0)], np.array([middle, 1.0]))
    return float(start - slope * middle), float(slope)


def _straighten(value: Any, line: tuple[float, float]) -> Any:
    return line[0] + line[1] * value


def _centre_and_scale(values: Float) -> tuple[Float, Float]:
    known = np.isfinite(values)
    count = np.maximum(known.sum(axis=0), 1)
    centre = np.where(known, values, 0).sum(axis=0) / count
    variance = np.where(known, (values - centre) ** 2, 0).sum(axis=0) / count
    return centre, np.maximum(np.sqrt(variance), _SMALLEST_SCALE)


def _standardised(values: Float, centre: Float, scale: Float) -> Float:
    """Unknown signals count as average ones."""
    z = np.clip((values - centre) / scale, -_FURTHEST, _FURTHEST)
    return np.asarray(np.where(np.isfinite(z), z, 0.0))


def _formula(signals: QualityFeatures) -> float:
    if math.isfinite(signals.agreement):
        return sam_quality(signals.predicted_iou, signals.agreement)
    # The student alone: what its own probabilities promise.
    return min(max(signals.expected, 0.0), 1.0) if math.isfinite(signals.expected) else 0.0


def _error(estimated: Float, true: Float) -> float:
    return float(np.sqrt(((estimated - true) ** 2).mean()))


def _bias_of_folds(rows: Sequence[Row], estimated: Float) -> dict[str, float]:
    away: dict[str, list[float]] = {}
    for row, estimate in zip(rows, estimated, strict=True):
        away.setdefault(str(row.fold), []).append(float(estimate) - row.dice)
    return {fold: float(np.mean(values)) for fold, values in sorted(away.items())}


def _standard_error(values: Float, cases: Sequence[str]) -> float:
    """Of the mean of values, one per row. Rows of one case go wrong together, so cases are what is counted."""
    _, number = np.unique(cases, return_inverse=True)
    sums = np.bincount(number, weights=values - values.mean())
    return float(math.sqrt(len(sums) * sums.var(ddof=1)) / len(values))


def _plain(values: Float) -> tuple[float, ...]:
    return tuple(float(value) for value in values)
