"""Figures of an experiment from the results of its students: means, spread, share of the gap to all labels, and pairs.

Means over structures are of each structure's mean over its cases, as in ``metrics.dice_table``. A false positive (a
predicted structure that is absent) counts 0; the paper's Dice counts only cases whose label has the structure.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from samstudent.metrics import mean_of
from samstudent.pseudolabels.dice_bound import CERTAINTY, check
from samstudent.pseudolabels.reliability import reliability

RESAMPLES = 2000
#: Least difference of all labels and labels only for which a share of it is computed.
_SMALLEST_GAP = 0.01

Float = NDArray[np.float64]
#: A result as ``work.evaluate`` writes it.
Result = Mapping[str, Any]


@dataclass(frozen=True)
class Line:
    """One method at one number of labels, over its seeds.

    Attributes:
        method, labels: name of the method, number of labels; None: all labels.
        seeds: seeds with results.
        dice, paper_dice: mean and standard deviation over seeds (nan with one seed).
        gap_closed: share of the difference between labels only and all labels; nan if that is too small.
        distance: mean surface distance in mm of cases where truth and prediction contain the structure.
        missed, false_positives: number over all structures and cases, mean over seeds.
        structures: mean Dice of each structure.
        seconds: training time, mean over seeds.
    """

    method: str
    labels: int | None
    seeds: tuple[int, ...]
    dice: tuple[float, float]
    paper_dice: tuple[float, float]
    gap_closed: float
    distance: float
    missed: float
    false_positives: float
    structures: dict[str, float]
    seconds: float


@dataclass(frozen=True)
class Pair:
    """Difference of the Dice of two methods on the same cases, with a 95 % interval over cases and seeds."""

    method: str
    other: str
    labels: int
    difference: float
    interval: tuple[float, float]


@dataclass(frozen=True)
class Quality:
    """Quality of a method's pseudo labels on cases with a known label.

    Attributes:
        raw, refined, accepted: Dice of the teacher's own masks, of all masks of the pseudo labels, of those that are
            accepted; means over structures and seeds.
        acceptance: accepted share of the masks.
        reliability: reliability of the estimated Dice (``reliability``); None: no estimates.
        bound: how often the lower bounds of Dice are true (``dice_bound.check``), with their ``certainty``; None: there
            are none.
        targets: "masks", "probabilities", or both if seeds differ.
    """

    method: str
    labels: int
    raw: float
    refined: float
    accepted: float
    acceptance: float
    reliability: dict[str, Any] | None
    bound: dict[str, Any] | None = None
    targets: str = ""


def table(results: Sequence[Result]) -> list[Line]:
    """A line for each method and number of labels, in the order of their first result."""
    groups: dict[tuple[str, int | None], list[Result]] = {}
    for result in results:
        groups.setdefault((result["method"], result["labels"]), []).append(result)
    means = {key: mean_of(_overall(dice_of(r)) for r in group) for key, group in groups.items()}
    upper = next((mean for (method, _), mean in means.items() if method == "all"), math.nan)
    lines = []
    for (method, labels), group in groups.items():
        start = means.get(("labels", labels), math.nan)
        gap = upper - start
        gap_closed = (means[method, labels] - start) / gap if abs(gap) >= _SMALLEST_GAP else math.nan
        names = group[0]["structures"]
        dice = np.array([[mean_of(column) for column in dice_of(r).T] if r["cases"] else [] for r in group])
        flags = [np.array([[c["truth"], c["found"]] for c in r["cases"].values()]) for r in group]
        lines.append(
            Line(
                method=method,
                labels=labels,
                seeds=tuple(r["seed"] for r in group),
                dice=_spread([_overall(dice_of(r)) for r in group]),
                paper_dice=_spread([_overall(dice_of(r, paper=True)) for r in group]),
                gap_closed=gap_closed if method != "labels" else 0.0,
                distance=mean_of(_overall(_column(r, "distance")) for r in group),
                missed=float(np.mean([(f[:, 0] & ~f[:, 1]).sum() for f in flags])),
                false_positives=float(np.mean([(~f[:, 0] & f[:, 1]).sum() for f in flags])),
                structures={name: mean_of(dice[:, i]) for i, name in enumerate(names)},
                seconds=float(np.mean([r["training_seconds"] for r in group])),
            )
        )
    return lines


def dice_of(result: Result, paper: bool = False, cases: Sequence[str] | None = None) -> Float:
    """Dice (cases, S), nan if there is nothing to measure, with ``paper`` also if the label is empty; ``cases``: only
    these."""
    if cases is not None:
        result = {"cases": {case: result["cases"][case] for case in cases}}
    dice = _column(result, "dice")
    if paper:
        dice[~np.array([case["truth"] for case in result["cases"].values()], dtype=bool)] = np.nan
    return dice


def pairs(results: Sequence[Result], method: str, seed: int = 0) -> list[Pair]:
    """Differences between a method and each other one with equal number of labels, or with all labels.

    Common seeds and cases are compared; if these are all, the difference is that of the table. The bootstrap samples
    cases and seeds with replacement. With three seeds the variation between seeds is underestimated: the interval tends
    to be too narrow.
    """
    by_key = {(r["method"], r["labels"], r["seed"]): r for r in results}
    found = []
    for n in sorted({r["labels"] for r in results if r["method"] == method}):
        for other in dict.fromkeys(r["method"] for r in results):
            if other == method:
                continue
            both = [
                (result, partner)
                for (m, k, s), result in by_key.items()
                if (m, k) == (method, n) and (partner := _partner(by_key, other, n, s)) is not None
            ]
            if both:
                cases = sorted(set.intersection(*(set(r["cases"]) for pair in both for r in pair)))
                one, less = (np.array([dice_of(pair[i], cases=cases) for pair in both]) for i in (0, 1))
                found.append(Pair(method, other, n, *bootstrap(one, less, seed)))
    return found


def bootstrap(one: Float, other: Float, seed: int = 0) -> tuple[float, tuple[float, float]]:
    """Difference of the mean Dice of two methods, and its 95 % percentile interval.

    Args:
        one, other: Dice (seeds, cases, S) on the same seeds and cases, nan if there is nothing to measure.
        seed: seed of the resampling.
    """
    rng = np.random.default_rng(seed)
    seeds, cases, _ = one.shape
    of_seeds = rng.multinomial(seeds, np.full(seeds, 1 / seeds), RESAMPLES) / seeds
    of_cases = rng.multinomial(cases, np.full(cases, 1 / cases), RESAMPLES).astype(float)
    drawn = (of_seeds.T * (_means(one, of_cases) - _means(other, of_cases))).sum(axis=0)
    low, high = np.nanpercentile(drawn, [2.5, 97.5])
    difference = np.mean([_overall(a) - _overall(b) for a, b in zip(one, other, strict=True)])
    return float(difference), (float(low), float(high))


def _means(dice: Float, of_cases: Float) -> Float:
    """``_overall`` of resampled cases, (seeds, B), from Dice (seeds, cases, S) and weights (B, cases)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a sample without a structure, or without any: nan
        return np.asarray(np.nanmean((of_cases @ np.nan_to_num(dice)) / (of_cases @ np.isfinite(dice)), axis=2))


def quality(method: str, labels: int, rows: Sequence[Mapping[str, Any]], targets: str = "") -> Quality | None:
    """Quality from the rows of ``measure.quality_rows`` of all seeds together; None: no labels are known."""
    if not rows:
        return None
    names = sorted({row["structure"] for row in rows})

    def dice(which: str, some: Sequence[Mapping[str, Any]]) -> float:
        return mean_of(
            mean_of(row[which] for row in some if row["structure"] == name and row[which] is not None) for name in names
        )

    drawn = [row for row in rows if row["status"] != "absent"]
    accepted = [row for row in drawn if row["status"] == "accepted"]
    known = [row for row in drawn if row["quality"] is not None and row["refined"] is not None]
    estimated = reliability([r["quality"] for r in known], [r["refined"] for r in known]) if len(known) > 1 else None
    return Quality(
        method,
        labels,
        raw=dice("raw", rows),
        refined=dice("refined", rows),
        accepted=dice("refined", accepted),
        acceptance=len(accepted) / len(drawn) if drawn else math.nan,
        reliability=estimated,
        bound=_bound(known),
        targets=targets,
    )


def _bound(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """``Quality.bound`` of masks with a known Dice."""
    rows = [row for row in rows if row.get("lower_bound") is not None]
    if not rows:
        return None
    bounds, dice = (np.array([row[key] for row in rows], dtype=float) for key in ("lower_bound", "refined"))
    return {"certainty": CERTAINTY} | check(bounds, dice, [row["case"] for row in rows])


def _partner(by_key: Mapping[tuple[str, Any, int], Result], method: str, n: int, seed: int) -> Result | None:
    return by_key.get((method, n, seed)) or by_key.get((method, None, seed))


def _column(result: Result, key: str) -> Float:
    """(cases, S) of a key of the cases; nan for None."""
    return np.array([case[key] for case in result["cases"].values()], dtype=float)


def _overall(values: Float) -> float:
    """The mean over structures of the means over cases, without nan."""
    return mean_of(mean_of(column) for column in np.atleast_2d(values).T)


def _spread(values: Sequence[float]) -> tuple[float, float]:
    return mean_of(values), float(np.std(values, ddof=1)) if len(values) > 1 else math.nan
