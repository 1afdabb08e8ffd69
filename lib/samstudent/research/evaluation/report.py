"""HTML report of an evaluation."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from samstudent.research.evaluation.summary import Difference, Distances, Summary
from samstudent.research.html import (
    DASH,
    Block,
    Cell,
    Picture,
    Section,
    Table,
    Text,
    cells,
    installed_versions,
    percent,
    points,
    reproduction,
    write_page,
)
from samstudent.rounds.fair import LEVEL, Change, Comparison
from samstudent.rounds.round_record import DiceTable

#: Largest number of rows in the table of differences.
_MOST_ROWS = 20


@dataclass(frozen=True)
class Facts:
    """What was measured, for the report.

    Attributes:
        command: command line.
        task: name of the task.
        cases: description of the cases.
        models: description of each model by its name.
        failed: case id -> reason.
    """

    command: str
    task: str
    cases: str
    models: Mapping[str, str]
    failed: Mapping[str, str]


def write_report(path: Path, summary: Summary, facts: Facts, pictures: Sequence[Picture]) -> None:
    """Write the report as one self-contained HTML file, atomically."""
    title = f"Evaluation of {' and '.join(summary.models)}, task {facts.task}"
    rows = [[Cell(name), Cell(text, "text")] for name, text in facts.models.items()]
    measured: list[Block] = [
        Text(f"{summary.cases} cases: {facts.cases}."),
        Text(training_statement(summary)),
        Table([Cell("model"), Cell("made of", "text")], rows),
    ]
    left_out: list[Block] = [
        Table(
            [Cell("case"), Cell("reason", "text")],
            [[Cell(case), Cell(reason, "text")] for case, reason in facts.failed.items()],
        )
    ]
    write_page(
        path,
        title,
        [
            Section("", [Text(time.strftime("%Y-%m-%d %H:%M %Z"), "soft"), *_warnings(summary, facts)]),
            Section("What was measured", measured),
            Section("Dice", _dice(summary)),
            Section("Surface distance", [block for part in _by_unit(summary) for block in _distances(part, summary)]),
            Section("Difference", _comparison(summary)),
            Section("Where they differ most" if len(summary.models) == 2 else "Lowest Dice", _differences(summary)),
            Section("Cases", pictures),
            Section("Cases that were not measured", left_out if facts.failed else []),
            reproduction(facts.command, installed_versions()),
        ],
    )


def training_statement(summary: Summary) -> str:
    """Sentence that says whether the measured cases trained the models."""
    models = " or ".join(summary.models)
    if summary.is_seen:
        return f"All {summary.trained} cases were used to train {models}: the figures do not hold for new images."
    if summary.trained:
        return f"{summary.trained} more cases are not counted, because they were used to train {models}."
    return f"None of the cases was used to train {models}."


def _warnings(summary: Summary, facts: Facts) -> list[Text]:
    texts = [training_statement(summary)] if summary.is_seen else []
    if facts.failed:
        texts.append(f"{len(facts.failed)} cases could not be measured.")
    return [Text(text, "warning") for text in texts]


def _dice(summary: Summary) -> list[Block]:
    tables = [summary.dice[model] for model in summary.models]
    header = cells(["structure", "cases", *summary.models])
    body = [
        [Cell(name), Cell(str(summary.cases_of[name])), *(Cell(percent(table[name])) for table in tables)]
        for name in summary.structures
    ]
    body.append(
        [Cell("mean", "mark"), Cell("", "mark"), *(Cell(percent(table["mean"]), "mark best") for table in tables)]
    )
    note = (
        "Percent, mean over the cases in which label or mask show the structure: a missed structure and one that the"
        " label lacks count 0. The last row is the mean over the structures."
    )
    return [Table(header, body), Text(note, "soft")]


def _by_unit(summary: Summary) -> list[list[Distances]]:
    units = dict.fromkeys(part.unit for part in summary.distances)
    return [[part for part in summary.distances if part.unit == unit] for unit in units]


def _distances(parts: Sequence[Distances], summary: Summary) -> list[Block]:
    unit = parts[0].unit
    header = [Cell("structure"), *(cell for _ in parts for cell in (Cell("mean", "first"), Cell("95 %")))]
    groups = [Cell(""), *(Cell(part.model, "first", 2) for part in parts)]
    body = [
        [
            Cell(name),
            *(cell for part in parts for cell in (_length(part.mean, name), _length(part.percentile_95, name))),
        ]
        for name in [*summary.structures, "mean"]
    ]
    spacing = "" if unit == "mm" else " Their files have no spacing."
    note = (
        f"{unit}, of {parts[0].cases} cases, where label and mask both have the structure: mean distance of the two"
        f" surfaces, and its 95th percentile (HD95), means over the cases.{spacing}"
    )
    return [Table(header, body, groups), Text(note, "soft")]


def _length(table: DiceTable, name: str) -> Cell:
    value = table[name]
    return Cell(DASH if value is None else f"{value:.2f}")


def _comparison(summary: Summary) -> list[Block]:
    if len(summary.models) < 2:
        return []
    comparison = summary.comparison
    if comparison is None:
        return [Text("There is no case that both models can be compared on.", "warning")]
    first, second = summary.models
    header = cells(["structure", "cases", f"{second} less {first}", f"{100 * LEVEL:.0f} % interval", ""])
    body = [_change(name, change, "") for name, change in comparison.structures.items()]
    body.append(_change("mean", comparison.mean, "mark"))
    note = (
        "Percentage points of Dice, from pairs: one case, one structure, both models. An absent structure that only one"
        " model predicts counts 1 for the other. The interval is a bootstrap over cases; those of the structures hold"
        " jointly, so that of many structures none differs by chance."
    )
    return [Text(finding(comparison, first, second), "finding"), Table(header, body), Text(note, "soft")]


def finding(comparison: Comparison, first: str, second: str) -> str:
    """Sentence about the mean difference of two models."""
    mean = comparison.mean
    low, high = mean.interval
    figures = f"{points(mean.difference)} points, {100 * LEVEL:.0f} % interval {points(low)} to {points(high)}"
    if low > 0:
        return f"{second} is better than {first}: {figures}."
    if high < 0:
        return f"{second} is worse than {first}: {figures}."
    return f"No difference of {second} and {first} is shown: {figures}."


def _change(name: str, change: Change, style: str) -> list[Cell]:
    low, high = change.interval
    verdict, colour = ("better", "yes") if low > 0 else ("worse", "no") if high < 0 else ("", "")
    texts = [str(change.cases), points(change.difference), f"{points(low)} to {points(high)}"]
    return [Cell(name, style), *cells(texts, style), Cell(verdict, f"{style} {colour}".strip())]


def _differences(summary: Summary) -> list[Block]:
    shown = list(summary.differences[:_MOST_ROWS])
    if len(summary.models) == 2:
        shown = [one for one in shown if one.change]
    if not shown:
        return [Text("The masks of both models have the same Dice in all cases.")]
    header = cells(["case", "structure", *summary.models])
    if len(summary.models) == 2:
        header.append(Cell("difference"))
    header[1] = Cell("structure", "text")
    return [Table(header, [_difference(one) for one in shown])]


def _difference(one: Difference) -> list[Cell]:
    row = [Cell(one.case), Cell(one.structure, "text"), *(Cell(percent(value)) for value in one.dice)]
    return [*row, Cell(points(one.change))] if len(one.dice) == 2 else row
