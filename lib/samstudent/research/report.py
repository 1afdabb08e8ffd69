"""Report of a run of rounds: what was done, Dice of each student, the rounds, pictures, timings, versions, the command.

The demo writes it. The file holds everything: pictures are embedded, nothing is loaded from elsewhere, and it prints.
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

#: More columns than this make a table wider than the page: then structures run down and students across.
_WIDEST = 9
_ROUNDS_NOTE = (
    "Challenger: the student that the round trained. Champion: the student that was served until then. Both: mean Dice "
    "in percent on the hold-out, on which the round decides whether the challenger is served."
)


@dataclass(frozen=True)
class Method:
    """Dice of one student per structure, 0 to 1, nan where nothing could be measured.

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
    """One round as a row of the table; dice are means over structures on the hold-out, nan if unknown."""

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
    """Content of the page.

    Attributes:
        title: the headline.
        done: what was done, a paragraph each.
        command: that makes this report again.
        structures: names, in the order of the table's columns.
        methods: the table's rows.
        holdout: number of cases that the table is measured on.
        rounds: oldest first.
        pictures: of a few cases; ``pictures.best_median_worst`` chooses.
        timings: seconds by what took them.
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
    path = Path(path)
    versions = installed_versions() if report.versions is None else report.versions
    timings = Table(cells(["step", "time"]), [cells([name, duration(s)]) for name, s in report.timings.items()])
    when = Text(time.strftime("%Y-%m-%d %H:%M %Z"), "soft")
    write_page(
        path,
        report.title,
        [
            Section("", [when, *(Text(text, "warning") for text in report.warnings)]),
            Section("What was done", [Text(text) for text in report.done]),
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
    if len(columns) > _WIDEST:
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
        f"Dice in percent, mean over the {report.holdout} cases of the hold-out, which never train. Bold: highest of "
        "its structure. A dash: nothing to measure."
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
    """Cells of the table, a row for each method; the best of each column has style ``best``.

    Figures are compared as they are printed, so equal ones are all best.
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
