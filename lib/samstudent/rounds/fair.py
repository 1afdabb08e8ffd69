"""Whether a challenger may replace the champion: both on the same cases, and what chance explains of the difference.

The figures come from pairs: one case, one structure, both students. What makes a case hard hits both, so the mean of
the differences is known far better than either student's mean. How well is told by a bootstrap over cases, because
cases are what another hold-out would exchange.
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
#: Case id -> Dice of each structure in the order of the task; None (or nan) where neither truth nor answer shows it.
CaseScores = Mapping[str, Sequence[float | None]]

#: Below this many hold-out cases, scores by cross-validation are taken along.
MIN_HELD = 5
#: How much mean Dice a challenger that is no different within noise may cost, counted over all promotions since the
#: last gain. Half a point is less than another seed changes, and without it new labels would often wait for luck.
TOLERANCE = 0.005
#: A structure that loses less than this never stands against a promotion.
COLLAPSE = 0.05
RESAMPLES = 2000
LEVEL = 0.95


@dataclass(frozen=True)
class Change:
    """One structure, or the mean of all, over ``cases`` pairs: mean Dice of both and of the difference, with interval.

    verdict: "ok"; "collapsed": a drop that is large and no chance; "lost": never found, though the champion finds it.
    """

    cases: int
    challenger: float
    champion: float
    difference: float
    interval: tuple[float, float]
    verdict: str = "ok"


@dataclass(frozen=True)
class Comparison:
    """All pairs of two students. ``held_out`` of the cases were predicted by the two students themselves, the others
    (cross-validation) by students trained as they were, without the case."""

    mean: Change
    structures: dict[str, Change]
    held_out: int

    @property
    def unsafe(self) -> dict[str, Change]:
        """The structures that stand against a promotion."""
        return {name: change for name, change in self.structures.items() if change.verdict != "ok"}

    def as_json(self) -> dict[str, Any]:
        return asdict(self) | {"level": LEVEL, "resamples": RESAMPLES}


@dataclass(frozen=True)
class Decision:
    """Whether to serve the challenger.

    Attributes:
        promote: whether to.
        why: for people.
        accumulated_loss: of mean Dice, over all promotions since the last gain, see ``TOLERANCE``.
    """

    promote: bool
    why: str
    accumulated_loss: float = 0.0


@dataclass(frozen=True)
class FoldScores:
    """Out-of-fold scores of the labelled cases that trained the two students, each from a student that did not train on
    the case; empty: there are none.

    That both full students trained on these cases does not matter: neither predicts them, and students on folds begin
    with fresh weights. Their limits: they are of the students that the round's folds trained, on fewer labels and
    without pseudo labels, so they show the effect of labels and settings but not of pseudo labels; and cases that share
    a fold share a student, so the interval is too narrow.
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
    """Compare two students on the cases that both were measured on.

    A structure that is rightly not drawn counts 1 where the other student draws it, and nothing where neither does. The
    mean is over structures, each over its own pairs. Its interval is at 95 %; the structures' are so jointly
    (Bonferroni), because of 32 structures some would else be blamed by chance. They are percentiles of the bootstrap,
    widened for few cases ("expanded percentiles": Hesterberg, The American Statistician 69, 2015): of drawn hold-outs
    of 5 cases 93 % then hold the truth, else 85 %.

    Args:
        challenger, champion: on the hold-out.
        names: of the structures.
        folds: used only where fewer than ``MIN_HELD`` hold-out cases are there, which neither full student may have
            trained on (``rounds.trained``).
        seed: of the resampling.

    Returns:
        None where no pair can be made.
    """
    held = _pairs(challenger, champion, len(names))
    pairs = held
    if len(held) < MIN_HELD and folds is not None and folds.challenger and folds.champion:
        common = {case: row for case, row in folds.challenger.items() if case not in challenger}
        crossed = _pairs(common, folds.champion, len(names))
        # Rounds on the same labels share their folds' students. Such equal scores tell nothing, and would only dilute
        # what the hold-out tells.
        told = ~((crossed[:, 0] == crossed[:, 1]) | np.isnan(crossed[:, 0])).all(axis=1)
        pairs = np.concatenate([held, crossed[told]])
    if not len(pairs):
        return None
    difference = pairs[:, 0] - pairs[:, 1]
    there = ~np.isnan(difference)
    draws = np.random.default_rng(seed).multinomial(len(pairs), np.full(len(pairs), 1 / len(pairs)), RESAMPLES)
    with np.errstate(invalid="ignore"):
        # Where a resample has no case with a structure, the structure is left out of it.
        resampled = draws @ np.nan_to_num(difference) / (draws @ there)
    structures = {}
    for index, name in enumerate(names):
        if there[:, index].any():
            both = pairs[there[:, index], :, index]
            structures[name] = _change(both, _interval(resampled[:, index], len(both), len(names)))
    means = np.nanmean(resampled[:, there.any(axis=0)], axis=1)
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
    """Whether to serve the challenger.

    Yes, if it is better or equal and no structure collapses. Equal: the interval contains 0, and together with the
    ``accumulated_loss`` the loss is at most ``TOLERANCE``. So many promotions, each too small a loss to notice, cannot
    add up.

    Args:
        comparison: None: there was nothing to compare on.
        trained_on: hold-out cases that were left out because one of the students trained on them. Where only such
            cases are there, nothing says that the challenger is no worse, and the champion stays. A study without
            any labelled hold-out case is another matter: without a promotion its first labels would never serve.
        champion: whether there is one.
        accumulated_loss: of the served champion, from the decision that promoted it.
    """
    if not champion:
        return Decision(True, "promoted: no student was served before")
    if comparison is None and trained_on:
        return Decision(
            False,
            "not promoted: it cannot be compared with the champion, as no labelled hold-out case is left on which "
            "neither of the two trained. Label hold-out cases that are new, or promote it by hand",
            accumulated_loss,
        )
    if comparison is None:
        return Decision(True, "promoted without a comparison: no labelled case that both can be measured on")
    mean = comparison.mean
    low, high = mean.interval
    owed = max(0.0, accumulated_loss - mean.difference)
    figures = (
        f"mean Dice {mean.challenger:.4f} on {_cases(comparison)}, champion {mean.champion:.4f} "
        f"(difference {mean.difference:+.4f}, 95 % interval {low:+.4f} to {high:+.4f})"
    )
    if unsafe := comparison.unsafe:
        told = ", ".join(f"{name} {change.verdict} ({change.difference:+.4f})" for name, change in unsafe.items())
        return Decision(False, f"not promoted: {told}; {figures}", accumulated_loss)
    if mean.difference >= 0:
        return Decision(True, f"promoted: {figures}", owed)
    if not low <= 0 <= high:
        return Decision(False, f"not promoted, worse: {figures}", accumulated_loss)
    if owed <= TOLERANCE:
        return Decision(True, f"promoted, equal within noise: {figures}", owed)
    return Decision(False, f"not promoted, worse or unlucky: {figures}", accumulated_loss)


def table_of(scores: CaseScores, names: Sequence[str]) -> dict[str, float | None]:
    """Structure -> mean Dice over the cases where truth or answer shows it, and "mean" over the structures.

    None where no case shows the structure.
    """
    rows = _array(scores, sorted(scores), len(names))
    table = {name: _mean(rows[:, index]) for index, name in enumerate(names)}
    return table | {"mean": _mean(np.array(list(table.values()), dtype=float))}


def _pairs(first: CaseScores, second: CaseScores, count: int) -> Float:
    """(cases, 2, S) of the cases in both, sorted by id; without those that show nothing at all."""
    ids = sorted(set(first) & set(second))
    pairs = np.stack([_array(scores, ids, count) for scores in (first, second)], axis=1)
    # One sees nothing where nothing is, the other draws something.
    pairs = np.where(np.isnan(pairs) & ~np.isnan(pairs[:, ::-1]), 1.0, pairs)
    return np.asarray(pairs[~np.isnan(pairs).all(axis=(1, 2))])


def _array(scores: CaseScores, ids: Sequence[str], count: int) -> Float:
    return np.array([scores[case] for case in ids], dtype=float).reshape(len(ids), count)  # None becomes nan


def _change(both: Float, interval: tuple[float, float]) -> Change:
    """Of one structure; ``both`` is (pairs, 2)."""
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
    """Of resampled means. One case tells nothing of its like: then all that a difference of Dice can be."""
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
