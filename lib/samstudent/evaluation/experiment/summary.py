"""Figures of an experiment from the results of its students: means, spread, how far towards all labels, and pairs.

Means over structures are of each structure's mean over its cases, as in ``metrics.dice_table``. "Paper" counts the
cases whose truth has the structure; "honest" also those where it is drawn and not there, which count 0.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from samstudent.evaluation.metrics import mean_of
from samstudent.pseudolabels.calibration import reliability

RESAMPLES = 2000
#: Below this difference of all labels and labels only, a share of it means nothing.
_SMALLEST_GAP = 0.01

Float = NDArray[np.float64]
#: A result as ``work.evaluate`` writes it.
Result = Mapping[str, Any]


@dataclass(frozen=True)
class Line:
    """One method at one number of labels, over its seeds.

    Attributes:
        method, labels: labels is None for the ceiling.
        seeds: with results.
        honest, paper: mean Dice and its standard deviation over seeds (nan with one seed).
        closed: share of the way from labels only to all labels; nan where it cannot be told.
        distance: mean surface distance in mm where truth and answer show the structure.
        missed, false_alarms: a seed's mean count over all structures and cases.
        structures: mean honest Dice of each structure.
        seconds: of training, mean over seeds.
    """

    method: str
    labels: int | None
    seeds: tuple[int, ...]
    honest: tuple[float, float]
    paper: tuple[float, float]
    closed: float
    distance: float
    missed: float
    false_alarms: float
    structures: dict[str, float]
    seconds: float


@dataclass(frozen=True)
class Pair:
    """A method's honest Dice less another's on the same cases, with a 95 % interval over cases and seeds."""

    method: str
    other: str
    labels: int
    difference: float
    interval: tuple[float, float]


@dataclass(frozen=True)
class Quality:
    """How good a method's pseudo labels are where the truth is known.

    Attributes:
        cases: "unlabelled" or "test".
        raw, refined, accepted: Dice of the teacher's own masks, of all refined ones, of those that are taken; means
            over structures and seeds, honest.
        taken: share of the masks drawn that are accepted.
        reliability: of the estimates of Dice (``calibration.reliability``), None where there is none.
        taught: "masks", "probabilities", or both where seeds differ; "" of test cases.
    """

    method: str
    labels: int
    cases: str
    raw: float
    refined: float
    accepted: float
    taken: float
    reliability: dict[str, Any] | None
    taught: str = ""


def table(results: Sequence[Result]) -> list[Line]:
    """A line for each method and number of labels, in the order in which they first come."""
    groups: dict[tuple[str, int | None], list[Result]] = {}
    for result in results:
        groups.setdefault((result["method"], result["labels"]), []).append(result)
    means = {key: mean_of(_overall(dice_of(r)) for r in group) for key, group in groups.items()}
    ceiling = next((mean for (method, _), mean in means.items() if method == "all"), math.nan)
    lines = []
    for (method, labels), group in groups.items():
        start = means.get(("labels", labels), math.nan)
        gap = ceiling - start
        closed = (means[method, labels] - start) / gap if abs(gap) >= _SMALLEST_GAP else math.nan
        names = group[0]["structures"]
        honest = np.array([np.nanmean(dice_of(r), axis=0) if r["cases"] else [] for r in group])
        flags = [np.array([[c["truth"], c["found"]] for c in r["cases"].values()]) for r in group]
        lines.append(
            Line(
                method=method,
                labels=labels,
                seeds=tuple(r["seed"] for r in group),
                honest=_spread([_overall(dice_of(r)) for r in group]),
                paper=_spread([_overall(dice_of(r, paper=True)) for r in group]),
                closed=closed if method != "labels" else 0.0,
                distance=mean_of(_overall(_column(r, "distance")) for r in group),
                missed=float(np.mean([(f[:, 0] & ~f[:, 1]).sum() for f in flags])),
                false_alarms=float(np.mean([(~f[:, 0] & f[:, 1]).sum() for f in flags])),
                structures={name: mean_of(honest[:, i]) for i, name in enumerate(names)},
                seconds=float(np.mean([r["training_seconds"] for r in group])),
            )
        )
    return lines


def dice_of(result: Result, paper: bool = False) -> Float:
    """Dice (cases, S), nan where there is nothing to measure; ``paper``: also where the truth has nothing."""
    dice = _column(result, "dice")
    if paper:
        dice[~np.array([case["truth"] for case in result["cases"].values()], dtype=bool)] = np.nan
    return dice


def pairs(results: Sequence[Result], method: str, seed: int = 0) -> list[Pair]:
    """``method`` against every other at the same number of labels (and the ceiling), on the seeds that both have.

    A structure that is rightly not drawn counts 1 where the other method draws it, as in ``rounds.fair``. The bootstrap
    draws cases and seeds, each with replacement: another sample of patients, trained anew. Three seeds tell little of
    how seeds vary, so the interval is rather too narrow than too wide.
    """
    by_key = {(r["method"], r["labels"], r["seed"]): r for r in results}
    found = []
    for n in sorted({r["labels"] for r in results if r["method"] == method}):
        for other in dict.fromkeys(r["method"] for r in results):
            if other == method:
                continue
            seeds = [
                s for m, k, s in by_key if (m, k) == (method, n) and _partner(by_key, other, n, s) is not None
            ]  # fmt: skip
            if not seeds:
                continue
            differences = np.array(
                [paired(by_key[method, n, s], _partner(by_key, other, n, s) or {}) for s in seeds]
            )  # (seeds, cases, S)
            mean, interval = bootstrap(differences, seed)
            found.append(Pair(method, other, n, mean, interval))
    return found


def paired(one: Result, other: Result) -> Float:
    """Differences of Dice (cases, S) of the cases that both have, nan where neither shows the structure."""
    cases = sorted(set(one["cases"]) & set(other["cases"]))
    a, b = (dice_of({"cases": {case: r["cases"][case] for case in cases}}) for r in (one, other))
    a, b = np.where(np.isnan(a) & ~np.isnan(b), 1.0, a), np.where(np.isnan(b) & ~np.isnan(a), 1.0, b)
    return a - b


def bootstrap(differences: Float, seed: int = 0) -> tuple[float, tuple[float, float]]:
    """The mean over structures of differences (seeds, cases, S), and its 95 % percentile interval."""
    rng = np.random.default_rng(seed)
    seeds, cases, _ = differences.shape
    known = np.isfinite(differences).astype(float)
    values = np.nan_to_num(differences)
    of_seeds = rng.multinomial(seeds, np.full(seeds, 1 / seeds), RESAMPLES).astype(float)
    of_cases = rng.multinomial(cases, np.full(cases, 1 / cases), RESAMPLES).astype(float)
    total, count = (np.einsum("bs,bc,sck->bk", of_seeds, of_cases, part, optimize=True) for part in (values, known))
    with np.errstate(invalid="ignore"):
        drawn = np.nanmean(np.where(count > 0, total / np.maximum(count, 1), np.nan), axis=1)
    mean = _overall(differences.reshape(-1, differences.shape[-1]))
    low, high = np.nanpercentile(drawn, [2.5, 97.5])
    return mean, (float(low), float(high))


def quality(method: str, labels: int, cases: str, rows: Sequence[Mapping[str, Any]]) -> Quality | None:
    """Of the rows of ``work.quality_rows`` of all seeds together; None where no truth is known."""
    if not rows:
        return None
    names = sorted({row["structure"] for row in rows})

    def dice(which: str, chosen: Sequence[Mapping[str, Any]]) -> float:
        return mean_of(
            mean_of(row[which] for row in chosen if row["structure"] == name and row[which] is not None)
            for name in names
        )

    drawn = [row for row in rows if row["status"] != "absent"]
    accepted = [row for row in drawn if row["status"] == "accepted"]
    known = [row for row in drawn if row["quality"] is not None and row["refined"] is not None]
    return Quality(
        method,
        labels,
        cases,
        dice("raw", rows),
        dice("refined", rows),
        dice("refined", accepted),
        len(accepted) / len(drawn) if drawn else math.nan,
        reliability([r["quality"] for r in known], [r["refined"] for r in known]) if len(known) > 1 else None,
    )


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
