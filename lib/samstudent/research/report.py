"""One HTML file that tells a run: what was done, the table, the rounds, pictures, timings, versions, the command.

The file holds everything: pictures are embedded, nothing is loaded from elsewhere, and it prints.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from samstudent.errors import UserError
from samstudent.metrics import mean_of
from samstudent.research.html import DASH, installed_versions, percent, render
from samstudent.util.files import atomic_write


@dataclass(frozen=True)
class Method:
    """One row of the table: Dice per structure, 0 to 1, nan where nothing could be measured.

    A key ``mean`` is used as it is; without one the mean over the structures is shown.
    """

    name: str
    dice: Mapping[str, float]
    note: str = ""

    @property
    def mean(self) -> float:
        """The overall mean."""
        return self.dice["mean"] if "mean" in self.dice else mean_of(self.dice.values())


@dataclass(frozen=True)
class RoundLine:
    """One round as the report tells it; dice are means over structures on the hold-out, nan if unknown."""

    id: str
    reason: str
    labels: int
    pseudo: int
    challenger: float
    champion: float
    promoted: bool
    decision: str = ""


@dataclass(frozen=True)
class Picture:
    """PNG bytes with what they show."""

    title: str
    png: bytes
    caption: str = ""


@dataclass(frozen=True)
class Report:
    """What ``write_report`` writes.

    Attributes:
        title: the headline.
        done: what was done, a paragraph each.
        command: that makes this report again.
        structures: names, in the order of the table's columns.
        methods: the table's rows.
        holdout: number of cases that the table is measured on.
        rounds: oldest first.
        pictures: of a few cases; ``best_median_worst`` chooses.
        timings: what took how many seconds.
        versions: of software; None: what is installed here.
        warnings: what the reader must know before believing a figure.
    """

    title: str
    done: Sequence[str]
    command: str
    structures: Sequence[str]
    methods: Sequence[Method]
    holdout: int
    rounds: Sequence[RoundLine] = ()
    pictures: Sequence[Picture] = ()
    timings: Mapping[str, float] = field(default_factory=dict)
    versions: Mapping[str, str] | None = None
    warnings: Sequence[str] = ()


def write_report(path: str | Path, report: Report) -> Path:
    """Write the report as one self-contained HTML file, in one step; the path comes back."""
    for method in report.methods:
        if unknown := set(method.dice) - set(report.structures) - {"mean"}:
            raise UserError(f"method {method.name!r} has Dice of {sorted(unknown)}, which are not among the structures")
    columns = [*report.structures, "mean"]
    rows = table_cells(report.methods, columns)
    html = render(
        "report.html",
        report=report,
        columns=columns,
        rows=rows,
        versions=installed_versions() if report.versions is None else report.versions,
        when=time.strftime("%Y-%m-%d %H:%M %Z"),
    )
    path = Path(path)
    atomic_write(path, html)
    return path


def best_median_worst(scores: Mapping[str, float]) -> dict[str, str]:
    """Which cases to show: ``{"best": case, "median": case, "worst": case}`` by score, nan left out.

    With fewer than three cases those that there are, best first.
    """
    ranked = sorted((case for case, score in scores.items() if not math.isnan(score)), key=lambda c: (-scores[c], c))
    if len(ranked) < 3:
        return dict(zip(("best", "worst"), ranked, strict=False))
    return {"best": ranked[0], "median": ranked[len(ranked) // 2], "worst": ranked[-1]}


def table_cells(methods: Sequence[Method], columns: Sequence[str]) -> list[list[tuple[str, bool]]]:
    """What the table shows, a row for each method: (text, whether it is the best of its column).

    Figures are compared as they are printed, so equal ones are all best.
    """
    values = [[method.mean if c == "mean" else method.dice.get(c, math.nan) for c in columns] for method in methods]
    texts = [[percent(value) for value in row] for row in values]
    best = [
        percent(max((v for v in column if not math.isnan(v)), default=math.nan)) for column in zip(*values, strict=True)
    ]
    return [
        [(text, text == top and len(methods) > 1 and text != DASH) for text, top in zip(row, best, strict=True)]
        for row in texts
    ]
