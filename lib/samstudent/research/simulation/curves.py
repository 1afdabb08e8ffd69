"""Learning curves of a simulation: Dice over the number of labels, the area under them, and comparisons.

The area is the mean Dice on the split over the numbers of labels, by the trapezoidal rule, in units of Dice.
"""

from __future__ import annotations

import io
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from scipy.integrate import trapezoid

from samstudent.research.simulation.options import BASELINES

#: strategy -> seed -> (numbers of labels, Dice), of finished runs.
Curves = Mapping[str, Mapping[int, tuple[list[int], list[float]]]]


def area(labels: Sequence[int], dice: Sequence[float]) -> float:
    """Area under the learning curve over its width: the mean Dice between the first and the last number of labels."""
    if len(labels) < 2:
        return float(dice[0])
    return float(trapezoid(dice, labels) / (labels[-1] - labels[0]))


def curves_of(rounds: Sequence[Mapping[str, Any]], last: int) -> Curves:
    """Learning curves of the runs that reached round ``last``."""
    found: dict[str, dict[int, dict[int, Mapping[str, Any]]]] = defaultdict(lambda: defaultdict(dict))
    for entry in rounds:
        found[entry["strategy"]][entry["seed"]][entry["round"]] = entry
    return {
        strategy: {
            seed: (
                [len(of_run[n]["labelled"]) for n in range(last + 1)],
                [of_run[n]["dice"] for n in range(last + 1)],
            )
            for seed, of_run in seeds.items()
            if len(of_run) == last + 1
        }
        for strategy, seeds in found.items()
    }


def compared(curves: Curves) -> list[dict[str, Any]]:
    """A row for each strategy: the area under its curves, and against the baselines in the same seeds.

    Keys: ``strategy``, ``areas`` by seed, ``mean`` and ``spread`` (standard deviation over seeds, None for one seed)
    of the area, ``last`` (mean Dice after the last round), and for each baseline with results ``over_<baseline>``:
    mean and spread of the paired differences, and the number of seeds in which the strategy was ahead.
    """
    areas = {
        strategy: {seed: area(*curve) for seed, curve in seeds.items()} for strategy, seeds in curves.items() if seeds
    }
    rows = []
    for strategy, own in areas.items():
        row: dict[str, Any] = {"strategy": strategy, "areas": own, **_mean_spread(list(own.values()))}
        row["last"] = float(np.mean([dice[-1] for _, dice in curves[strategy].values()]))
        for baseline in BASELINES:
            both = sorted(set(own) & set(areas.get(baseline, {})))
            if strategy != baseline and both:
                gains = [own[seed] - areas[baseline][seed] for seed in both]
                row[f"over_{baseline}"] = {
                    **_mean_spread(gains), "ahead": sum(gain > 0 for gain in gains), "seeds": len(both),
                }  # fmt: skip
        rows.append(row)
    return sorted(rows, key=lambda row: -row["mean"])


def _mean_spread(values: Sequence[float]) -> dict[str, float | None]:
    return {"mean": float(np.mean(values)), "spread": float(np.std(values, ddof=1)) if len(values) > 1 else None}


def draw_curves(curves: Curves) -> bytes:
    """PNG: mean Dice over seeds by number of labels, a line for each strategy; the band is plus and minus one standard
    deviation of the baseline ``foreground`` over seeds."""
    figure = Figure(figsize=(8, 5), dpi=110, layout="constrained")
    axes = figure.subplots()
    for strategy, seeds in curves.items():
        if not seeds:
            continue
        labels = next(iter(seeds.values()))[0]
        dice = np.array([values for _, values in seeds.values()])
        style = "--" if strategy in BASELINES else "-"
        (line,) = axes.plot(labels, dice.mean(axis=0), style, marker="o", markersize=4, label=strategy)
        if strategy == "foreground" and len(dice) > 1:
            mean, spread = dice.mean(axis=0), dice.std(axis=0, ddof=1)
            axes.fill_between(labels, mean - spread, mean + spread, color=line.get_color(), alpha=0.15, linewidth=0)
    axes.set_xlabel("labelled cases")
    axes.set_ylabel("Dice, mean over structures")
    axes.grid(alpha=0.3)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()
