"""Paired comparison of challenger and champion on the same cases, and the decision to promote.

The figures come from pairs: one case, one structure, both students. A hard case is hard for both, so the mean of the
differences is known much more precisely than either student's mean. Its interval is a bootstrap over cases, because
another hold-out would have other cases.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Float = NDArray[np.float64]
#: Case id -> Dice of each structure in the order of the task; None (or nan) where truth and prediction lack it.
CaseScores = Mapping[str, Sequence[float | None]]

#: With fewer hold-out cases, out-of-fold scores are used, too.
MIN_HELD = 5
#: Largest loss of mean Dice of a challenger that is equal within noise, accumulated over all promotions since the last
#: gain. Another seed changes more than half a point; without a tolerance many new labels would train no served student.
TOLERANCE = 0.005
#: Smallest loss of a structure that can prevent a promotion.
COLLAPSE = 0.05
RESAMPLES = 2000
LEVEL = 0.95


@dataclass(frozen=True)
class Change:
    """Comparison of one structure, or of the mean of all.

    Attributes:
        cases: number of pairs.
        challenger: mean Dice.
        champion: mean Dice.
        difference: mean difference, challenger minus champion.
        interval: of the difference.
        verdict: "ok"; "collapsed": a large and significant loss; "lost": never found by the challenger, but by the
            champion.
    """

    cases: int
    challenger: float
    champion: float
    difference: float
    interval: tuple[float, float]
    verdict: str = "ok"


@dataclass(frozen=True)
class Comparison:
    """Comparison of two students.

    Attributes:
        mean: over the structures.
        structures: by name.
        held_out: number of cases predicted by the two students; the others were predicted out of fold, by students of
            the same rounds.
    """

    mean: Change
    structures: dict[str, Change]
    held_out: int

    @property
    def unsafe(self) -> dict[str, Change]:
        """Structures that prevent a promotion."""
        return {name: change for name, change in self.structures.items() if change.verdict != "ok"}

    def as_json(self) -> dict[str, Any]:
        return asdict(self) | {"level": LEVEL, "resamples": RESAMPLES}


@dataclass(frozen=True)
class Decision:
    """Decision to serve the challenger or not.

    Attributes:
        promote: whether to serve it.
        why: reason, in one line.
        accumulated_loss: of mean Dice, over all promotions since the last gain, see ``TOLERANCE``.
    """

    promote: bool
    why: str
    accumulated_loss: float = 0.0


@dataclass(frozen=True)
class FoldScores:
    """Out-of-fold scores of the labelled cases of both rounds; empty: there are none.

    They are scores of the cross-fitted students, which begin with random weights and did not train on the case; the two
    compared students do not predict these cases. Limits: cross-fitted students train on fewer labels and without pseudo
    labels, so the scores show the effect of labels and settings but not of pseudo labels; and cases of one fold have
    the same student, so the interval is too narrow.
    """

    challenger: CaseScores
    champion: CaseScores


def compare_fairly(
    challenger: CaseScores,
    champion: CaseScores,
    names: Sequence[str],
    *,
    folds: FoldScores | None = None,
    seed: int = 0,
) -> Comparison | None:
    """Compare two students on the cases for which both have scores.

    An absent structure counts 1 for a student that does not predict it where the other one does, and is left out where
    neither does. The mean is over structures, each over its own pairs. Its interval is at 95 %, those of the structures
    jointly (Bonferroni), as of 32 structures some would otherwise be significant by chance. They are percentiles of the
    bootstrap, expanded for few cases ("expanded percentiles": Hesterberg, The American Statistician 69, 2015): for
    drawn hold-outs of 5 cases the coverage is 93 %, without the expansion 85 %.

    Args:
        challenger, champion: scores on the hold-out, on cases on which neither student trained (``rounds.trained``).
        names: of the structures.
        folds: out-of-fold scores, used with fewer than ``MIN_HELD`` hold-out cases.
        seed: of the resampling.

    Returns:
        None where there is no pair.
    """
    held = _pairs(challenger, champion, len(names))
    pairs = held
    if len(held) < MIN_HELD and folds is not None and folds.challenger and folds.champion:
        common = {case: row for case, row in folds.challenger.items() if case not in challenger}
        crossed = _pairs(common, folds.champion, len(names))
        # Rounds on the same labels have the same cross-fitted students. Their equal scores carry no information, and
        # would dilute the hold-out.
        informative = ~((crossed[:, 0] == crossed[:, 1]) | np.isnan(crossed[:, 0])).all(axis=1)
        pairs = np.concatenate([held, crossed[informative]])
    if not len(pairs):
        return None
    difference = pairs[:, 0] - pairs[:, 1]
    known = ~np.isnan(difference)
    draws = np.random.default_rng(seed).multinomial(len(pairs), np.full(len(pairs), 1 / len(pairs)), RESAMPLES)
    with np.errstate(invalid="ignore"):
        # A structure without a case in a resample is left out of it.
        resampled = draws @ np.nan_to_num(difference) / (draws @ known)
    structures = {}
    for index, name in enumerate(names):
        if known[:, index].any():
            both = pairs[known[:, index], :, index]
            structures[name] = _change(both, _interval(resampled[:, index], len(both), len(names)))
    means = np.nanmean(resampled[:, known.any(axis=0)], axis=1)
    changes = structures.values()
    mean = Change(
        len(pairs),
        float(np.mean([change.challenger for change in changes])),
        float(np.mean([change.champion for change in changes])),
        float(np.mean([change.difference for change in changes])),
        _interval(means, len(pairs), 1),
    )
    return Comparison(mean, structures, len(held))


def decide(
    comparison: Comparison | None, *, champion: bool, accumulated_loss: float = 0.0, trained_on: int = 0
) -> Decision:
    """Decide whether to serve the challenger.

    It is served if it is better or equal and no structure collapses. Equal means: the interval contains 0, and the loss
    with the ``accumulated_loss`` is at most ``TOLERANCE``, so that small losses of many promotions cannot add up.

    Args:
        comparison: None: there was nothing to compare.
        trained_on: number of hold-out cases left out because one of the students trained on them. If all were, the
            champion stays, as nothing shows that the challenger is not worse. Without any labelled hold-out case the
            challenger is served, otherwise the first labels of a study would have no effect.
        champion: whether there is one.
        accumulated_loss: of the served champion, from the decision that promoted it.
    """
    if not champion:
        return Decision(True, "promoted: no student was served before")
    if comparison is None and trained_on:
        return Decision(
            False,
            "not promoted: it cannot be compared with the champion, as no labelled hold-out case is left on which "
            "neither of the two trained. Label new hold-out cases, or promote it manually",
            accumulated_loss,
        )
    if comparison is None:
        return Decision(True, "promoted without a comparison: no labelled case that both can be measured on")
    mean = comparison.mean
    low, high = mean.interval
    loss = max(0.0, accumulated_loss - mean.difference)
    figures = (
        f"mean Dice {mean.challenger:.4f} on {_cases(comparison)}, champion {mean.champion:.4f} "
        f"(difference {mean.difference:+.4f}, 95 % interval {low:+.4f} to {high:+.4f})"
    )
    if unsafe := comparison.unsafe:
        causes = ", ".join(f"{name} {change.verdict} ({change.difference:+.4f})" for name, change in unsafe.items())
        return Decision(False, f"not promoted: {causes}; {figures}", accumulated_loss)
    if mean.difference >= 0:
        return Decision(True, f"promoted: {figures}", loss)
    if not low <= 0 <= high:
        return Decision(False, f"not promoted, worse: {figures}", accumulated_loss)
    if loss <= TOLERANCE:
        return Decision(True, f"promoted, equal within noise: {figures}", loss)
    return Decision(False, f"not promoted, worse or within noise: {figures}", accumulated_loss)


def table_of(scores: CaseScores, names: Sequence[str]) -> dict[str, float | None]:
    """Structure -> mean Dice over the cases where truth or prediction shows it, and "mean" over the structures.

    None where no case shows the structure.
    """
    rows = _array(scores, sorted(scores), len(names))
    table = {name: _mean(rows[:, index]) for index, name in enumerate(names)}
    return table | {"mean": _mean(np.array(list(table.values()), dtype=float))}


def _pairs(first: CaseScores, second: CaseScores, count: int) -> Float:
    """(cases, 2, S) of the cases in both, sorted by id; without cases that show no structure."""
    ids = sorted(set(first) & set(second))
    pairs = np.stack([_array(scores, ids, count) for scores in (first, second)], axis=1)
    # The structure is absent; one student predicts it, the other does not.
    pairs = np.where(np.isnan(pairs) & ~np.isnan(pairs[:, ::-1]), 1.0, pairs)
    return np.asarray(pairs[~np.isnan(pairs).all(axis=(1, 2))])


def _array(scores: CaseScores, ids: Sequence[str], count: int) -> Float:
    return np.array([scores[case] for case in ids], dtype=float).reshape(len(ids), count)  # None becomes nan


def _change(both: Float, interval: tuple[float, float]) -> Change:
    """Comparison of one structure; ``both``: Dice (pairs, 2)."""
    challenger, champion = both.mean(axis=0)
    difference = float(challenger - champion)
    verdict = "ok"
    if difference < -COLLAPSE:
        if not both[:, 0].any():
            verdict = "lost"
        elif interval[1] < 0:
            verdict = "collapsed"
    return Change(len(both), float(challenger), float(champion), difference, interval, verdict)


def _interval(resampled: Float, cases: int, structures: int) -> tuple[float, float]:
    """Interval of resampled means; with one case the range of all possible differences."""
    if cases < 2:
        return -1.0, 1.0
    tail = (1 - LEVEL) / 2 / structures
    tail = float(stats.norm.cdf(stats.t.ppf(tail, cases - 1) * math.sqrt(cases / (cases - 1))))
    low, high = np.nanquantile(resampled, [tail, 1 - tail])
    return float(low), float(high)


def _cases(comparison: Comparison) -> str:
    held, crossed = comparison.held_out, comparison.mean.cases - comparison.held_out
    text = f"{held} hold-out case{'s' * (held != 1)}"
    return text + (f" and {crossed} by cross-validation" if crossed else "")


def _mean(values: Float) -> float | None:
    kept = values[~np.isnan(values)]
    return float(kept.mean()) if len(kept) else None
