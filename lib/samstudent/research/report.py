"""Report of the demo: procedure, Dice of each student, rounds, pictures, timings, versions, command.

The HTML file is self-contained: pictures are embedded, and no other file is loaded.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from samstudent.errors import UserError
from samstudent.metrics import mean_of
from samstudent.research.html import (
    DASH,
    Block,
    Cell,
    Picture,
    Section,
    Table,
    Text,
    cells,
    duration,
    installed_versions,
    percent,
    reproduction,
    write_page,
)

#: Maximum number of columns that fit on the page; tables with more are transposed: one row per structure.
_MAX_COLUMNS = 9
_ROUNDS_NOTE = (
    "Challenger: student that the round trained. Champion: student that was served before. Figures: mean Dice in "
    "percent on the hold-out, by which the round decides whether the challenger is promoted."
)


@dataclass(frozen=True)
class Method:
    """Dice of a student by structure, 0 to 1; nan: not measured.

    The key ``mean``, if there is one, is used instead of the mean over the structures.
    """

    name: str
    dice: Mapping[str, float]
    note: str = ""

    @property
    def mean(self) -> float:
        """Mean Dice."""
        return self.dice["mean"] if "mean" in self.dice else mean_of(self.dice.values())


@dataclass(frozen=True)
class RoundLine:
    """Row of the table of rounds; challenger and champion: mean Dice over structures on the hold-out, nan: unknown."""

    id: str
    reason: str
    labels: int
    pseudo: int
    challenger: float
    champion: float
    promoted: bool
    decision: str = ""


@dataclass(frozen=True)
class Report:
    """Content of the report.

    Attributes:
        title: headline.
        procedure: paragraphs that describe what was done.
        command: command line that repeats it.
        structures: names of the structures, in the order of the columns.
        methods: rows of the table of Dice.
        holdout: number of hold-out cases.
        rounds: rows of the table of rounds, oldest first.
        pictures: pictures of cases, e.g. of ``pictures.best_median_worst``.
        timings: durations in seconds by name.
        versions: versions of software; None: installed versions.
        warnings: limits of the figures, shown first.
    """

    title: str
    procedure: Sequence[str]
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
    """Write the report as one self-contained HTML file, atomically. Returns its path."""
    for method in report.methods:
        if unknown := set(method.dice) - set(report.structures) - {"mean"}:
            raise UserError(f"method {method.name!r} has Dice of {sorted(unknown)}, which are not among the structures")
    path = Path(path)
    versions = installed_versions() if report.versions is None else report.versions
    timings = Table(cells(["step", "time"]), [cells([name, duration(s)]) for name, s in report.timings.items()])
    when = Text(time.strftime("%Y-%m-%d %H:%M %Z"), "soft")
    write_page(
        path,
        report.title,
        [
            Section("", [when, *(Text(text, "warning") for text in report.warnings)]),
            Section("Procedure", [Text(text) for text in report.procedure]),
            _dice(report),
            Section("Rounds", [_rounds(report.rounds), Text(_ROUNDS_NOTE, "soft")] if report.rounds else []),
            Section("Cases", report.pictures),
            reproduction(report.command, versions, *([timings] if report.timings else [])),
        ],
    )
    return path


def _dice(report: Report) -> Section:
    columns = [*report.structures, "mean"]
    rows = dice_cells(report.methods, columns)
    names = [method.name for method in report.methods]
    if len(columns) > _MAX_COLUMNS:
        marks = ["mark" if column == "mean" else "" for column in columns]
        header = cells(["structure", *names])
        body = [
            [Cell(column, mark), *(Cell(row[i].text, f"{mark} {row[i].style}".strip()) for row in rows)]
            for i, (column, mark) in enumerate(zip(columns, marks, strict=True))
        ]
    else:
        header = [*cells(["student", *columns[:-1]]), Cell("mean", "mark")]
        body = [
            [Cell(name), *row[:-1], Cell(row[-1].text, f"mark {row[-1].style}".strip())]
            for name, row in zip(names, rows, strict=True)
        ]
    note = (
        f"Dice in percent, mean over the {report.holdout} hold-out cases, which are never used for training. Bold: "
        "highest of the structure. Dash: not measured."
    )
    blocks: list[Block] = [Table(header, body), Text(note, "soft")]
    blocks += [Text(f"{method.name}: {method.note}", "soft") for method in report.methods if method.note]
    return Section("Dice on the hold-out", blocks)


def _rounds(rounds: Sequence[RoundLine]) -> Table:
    header = [
        Cell("round"), Cell("started by", "text"), *cells(["labels", "pseudo labels", "challenger", "champion"]),
        Cell("served", "text"), Cell("decision", "text"),
    ]  # fmt: skip
    return Table(
        header,
        [
            [
                Cell(line.id), Cell(line.reason, "text"), Cell(str(line.labels)), Cell(str(line.pseudo)),
                Cell(percent(line.challenger)), Cell(percent(line.champion)),
                Cell("✓ promoted", "text yes") if line.promoted else Cell("✗ not promoted", "text no"),
                Cell(line.decision, "text"),
            ]
            for line in rounds
        ],
    )  # fmt: skip


def dice_cells(methods: Sequence[Method], columns: Sequence[str]) -> list[list[Cell]]:
    """Cells of the table, one row per method; the highest of each column have the style ``best``.

    The printed figures are compared, so equal ones are all highlighted.
    """
    values = [[method.mean if c == "mean" else method.dice.get(c, math.nan) for c in columns] for method in methods]
    texts = [[percent(value) for value in row] for row in values]
    best = [
        percent(max((v for v in column if not math.isnan(v)), default=math.nan)) for column in zip(*values, strict=True)
    ]
    return [
        [
            Cell(text, "best" if text == top and len(methods) > 1 and text != DASH else "")
            for text, top in zip(row, best, strict=True)
        ]
        for row in texts
    ]
