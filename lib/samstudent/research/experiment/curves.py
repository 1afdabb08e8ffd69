"""Learning curves of an experiment: Dice over the number of labels, as PNG."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure


def learning_curves(lines: Sequence[Mapping[str, Any]]) -> bytes:
    """A curve for each method with its spread over seeds, as PNG.

    Args:
        lines: lines of ``summary.table``, as in results.json.
    """
    figure = Figure(figsize=(8.4, 4.2), dpi=110, layout="constrained")
    axes = figure.subplots()
    curves = [line for line in lines if line["labels"] is not None]
    methods = list(dict.fromkeys(line["method"] for line in curves))
    for number, method in enumerate(methods):
        own = sorted((line for line in curves if line["method"] == method), key=lambda line: int(line["labels"]))
        # Side by side: error bars at one number of labels would hide each other.
        offset = 1 + 0.02 * (number - (len(methods) - 1) / 2)
        axes.errorbar(
            [line["labels"] * offset for line in own],
            [100 * (line["dice"][0] or math.nan) for line in own],
            [100 * (line["dice"][1] or 0.0) for line in own],
            marker="o",
            ms=5 if method in ("ours", "labels") else 3.5,
            linewidth=2.2 if method == "ours" else 1.1,
            color="black" if method == "labels" else f"C{number % 10}",
            linestyle="--" if number >= 10 else "-",
            capsize=2,
            label=method,
        )
    for line in lines:
        if line["labels"] is None:
            mean, spread = 100 * (line["dice"][0] or math.nan), line["dice"][1]
            axes.axhline(mean, color="0.5", linestyle=":", linewidth=1.2, label=f"{line['method']} labels")
            if spread is not None:
                axes.axhspan(mean - 100 * spread, mean + 100 * spread, color="0.5", alpha=0.12, linewidth=0)
    ticks = sorted({line["labels"] for line in curves})
    if len(ticks) > 1:
        axes.set_xscale("log")
    elif ticks:  # methods are drawn side by side, not from end to end
        axes.set_xlim(0.5 * ticks[0], 1.5 * ticks[0])
    axes.set_xticks(ticks, [str(n) for n in ticks])
    axes.minorticks_off()
    axes.set(xlabel="labelled cases", ylabel="Dice (%), mean and spread over seeds")
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside right upper", fontsize=8, frameon=False)
    stream = io.BytesIO()
    figure.savefig(stream, format="png", facecolor="white")
    return stream.getvalue()
