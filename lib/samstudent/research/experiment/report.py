"""``report.html`` of an experiment: tables, curves and pictures from the content of ``results.json``."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from samstudent.research.experiment.curves import learning_curves
from samstudent.research.experiment.methods import METHODS
from samstudent.research.experiment.published import published_note, published_table
from samstudent.research.html import (
    DASH,
    Block,
    Cell,
    Heading,
    Picture,
    Section,
    Table,
    Text,
    cells,
    duration,
    percent,
    points,
    reproduction,
    write_page,
)
from samstudent.research.pictures import reliability_picture
from samstudent.research.result_tables import quality_texts
from samstudent.task import Steps

Content = Mapping[str, Any]
#: A line of ``summary.table`` as in the JSON.
Line = Mapping[str, Any]


def write_report(path: Path, content: Content, pictures: Sequence[Picture] = ()) -> None:
    """Write the page.

    Args:
        path: path of the HTML file.
        content: content of results.json.
        pictures: pictures of cases.
    """
    page = _Page(content)
    names = f"{len(page.methods)} method{'s' if len(page.methods) != 1 else ''}"
    work = [cells([name, str(entry["jobs"]), duration(entry["seconds"])]) for name, entry in content["seconds"].items()]
    write_page(
        path,
        f"{content['task']['name']}: {names}, {' and '.join(map(str, page.labels))} labels",
        [
            page.head(),
            page.methods_compared(),
            page.dice(),
            page.published(),
            page.pairs(),
            page.other_measures(),
            page.structures(),
            page.pseudo_labels(),
            Section("Cases", pictures),
            reproduction(content["command"], content["versions"], Table(cells(["work", "jobs", "time"]), work)),
        ],
    )


class _Page:
    """Sections from the content of results.json."""

    def __init__(self, content: Content) -> None:
        self.content = content
        self.lines: dict[tuple[str, int | None], Line] = {(x["method"], x["labels"]): x for x in content["table"]}
        self.methods = list(dict.fromkeys(method for method, _ in self.lines))
        self.labels = sorted({n for _, n in self.lines if n is not None}) or sorted(content["options"]["labels"])

    def head(self) -> Section:
        """Time and folder, failed jobs, warnings, and the main finding."""
        content = self.content
        blocks = [Text(f"{content['when']} · {content['options']['folder']['folder']}", "soft")]
        blocks += [Text(f"Failed: {failure['job']}: {failure['reason']}", "warning") for failure in content["failed"]]
        blocks += [Text(text, "warning") for text in content["warnings"]]
        blocks += [Text(text, "finding") for text in findings(content["pairs"], content["table"])]
        return Section("", blocks)

    def methods_compared(self) -> Section:
        """Training and test cases, and the description of each method."""
        content, student, cases = self.content, self.content["task"]["student"], self.content["cases"]
        split = content["options"]["folder"]["split"]
        unlabelled = ", ".join(str(cases["unlabelled"][str(n)]) for n in self.labels)
        text = (
            f"Students with the same network ({student['network']}, {' x '.join(map(str, student['size']))} pixels) "
            f"were trained on the first {', '.join(map(str, self.labels))} of {cases['all']} labelled training cases; "
            f"the labels of the others ({unlabelled}) were hidden, and only their images used. "
            f"{_length(content['steps'])} A seed changes the initial weights, the order of the cases and their "
            "augmentation. "
            f"Seeds: {', '.join(map(str, content['options']['seeds']))}. Measured on {len(cases[split])} "
            f"{split} cases, which were not used for training or selection."
        )
        descriptions = {name: method.description for name, method in METHODS.items()}
        header = [Cell("method"), Cell("training data of its student", "text")]
        rows = [[self._name(name), Cell(descriptions.get(name, ""), f"text {_mark(name)}")] for name in self.methods]
        return Section("Compared methods", [Text(text), Table(header, rows)])

    def dice(self) -> Section:
        """Dice, standard deviation, closed gap, and the curves."""
        if not self.lines:
            return Section("Dice", [])
        table = self._table(["Dice", "spread", "gap closed"], self._dice_cells)
        seeds = len(self.content["options"]["seeds"])
        note = (
            "Dice in percent: mean over structures, each over its cases; a false positive (a predicted structure "
            f"that is absent) counts 0. Spread: standard deviation over {seeds} seed{'s' if seeds > 1 else ''}. Gap "
            "closed: share of the difference between labels only and all labels."
        )
        curves = Picture("Dice over the number of labels", learning_curves(self.content["table"]))
        return Section("Dice", [table, Text(note, "soft"), curves])

    def published(self) -> Section:
        """Figures of a publication beside the measured ones."""
        if self.content["published"] is None:
            return Section("", [])
        columns, rows = published_table(self.content)
        table = Table(cells(columns), [cells(row) for row in rows])
        return Section("Published and measured", [table, Text(published_note(self.content), "soft")])

    def pairs(self) -> Section:
        """Differences between the first method and the others on the same cases."""
        found = {(pair["other"], pair["labels"]): pair for pair in self.content["pairs"]}
        if not found:
            return Section("", [])
        main = self.content["pairs"][0]["method"]
        columns = [Cell("compared with")]
        for n in self.labels:
            columns += [Cell(f"{n} labels", "first"), Cell("95 % interval")]
        rows = []
        for other in self.methods:
            if other != main:
                row = [Cell(other)]
                for n in self.labels:
                    row += _pair_cells(found.get((other, n)))
                rows.append(row)
        note = (
            "Difference of the Dice above in percentage points, on the same cases and seeds. Intervals by bootstrap "
            "over cases and seeds; coloured if they do not contain zero. With few seeds they tend "
            "to be too narrow."
        )
        return Section(f"{main} against the others, case by case", [Table(columns, rows), Text(note, "soft")])

    def other_measures(self) -> Section:
        """The paper's Dice, surface distance, missed structures, false positives."""
        columns = ["Dice as in the paper", "surface distance", "missed", "false positives"]
        note = (
            "Dice as in the paper: only cases whose label has the structure. Surface distance: mean over both borders, "
            "in mm, or in pixels if files have no spacing; cases where both contain the structure. Missed and false "
            "positives: number of structures in all cases, mean over seeds."
        )
        return Section("Other measures", [self._table(columns, _measure_cells), Text(note, "soft")])

    def structures(self) -> Section:
        """Dice of each structure, a table for each number of labels."""
        blocks: list[Block] = []
        for n in self.labels:
            columns = [self._line(method, n) for method in self.methods]
            rows = [
                [
                    Cell(name),
                    *(
                        Cell(percent(line["structures"][name]) if line else DASH, _mark(method))
                        for method, line in zip(self.methods, columns, strict=True)
                    ),
                ]
                for name in self.content["task"]["structures"]
            ]
            blocks += [Heading(f"{n} labels"), Table(cells(["structure", *self.methods]), rows)]
        note = Text("Dice in percent, mean over cases and seeds; a false positive counts 0.", "soft")
        return Section("Structures", [*blocks, note])

    def pseudo_labels(self) -> Section:
        """Quality of the pseudo labels."""
        qualities = self.content["quality"]
        if not qualities:
            return Section("", [])
        columns = ["method", "labels", "teacher's mask", "pseudo label", "accepted masks", "accepted"]
        rows = [cells([*quality_texts(quality), quality["targets"] or DASH]) for quality in qualities]
        note = (
            "Dice in percent against the hidden labels of the unlabelled cases, all seeds: masks of the teacher, all "
            "masks of the pseudo labels, accepted masks; share of accepted masks. Correlation and calibration error: "
            "estimated and true Dice of a mask. Coverage of the bound: share of the masks whose Dice is at least the "
            "lower bound, mean over cases; it states a certainty of 90 %. Bound ≥ 0.9: share of such masks; true of "
            "these: share of them with a Dice of at least 0.9. Targets: training targets of the student."
        )
        columns += ["correlation", "calibration error", "coverage of the bound", "bound ≥ 0.9", "true of these"]
        table = Table(cells([*columns, "targets"]), rows)
        blocks: list[Block] = [table, Text(note, "soft")]
        reliable = {
            f"{q['labels']} labels": q["reliability"] for q in qualities if q["reliability"] and q["method"] == "ours"
        }
        if reliable:
            blocks.append(Picture("Estimated and true Dice of pseudo labels", reliability_picture(reliable)))
        return Section("Pseudo labels", blocks)

    def _table(self, columns: Sequence[str], cells_of: Callable[[str, Line, int], list[Cell]]) -> Table:
        """A row for each method, a group of columns for each number of labels."""
        groups, header = [Cell("")], [Cell("method")]
        for n in self.labels:
            groups.append(Cell(f"{n} labels", "first", len(columns)))
            header += [Cell(columns[0], "first"), *cells(columns[1:])]
        rows = []
        for method in self.methods:
            row = [self._name(method)]
            for n in self.labels:
                line = self._line(method, n)
                found = cells([DASH] * len(columns)) if line is None else cells_of(method, line, n)
                row += [Cell(cell.text, f"{_mark(method)} {'' if i else 'first'}") for i, cell in enumerate(found)]
            rows.append(row)
        return Table(header, rows, groups)

    def _dice_cells(self, method: str, line: Line, n: int) -> list[Cell]:
        mean, spread = line["dice"]
        closed = line["gap_closed"]
        known = closed is not None and (method == "labels" or ("labels", n) in self.lines)
        texts = [percent(mean), DASH if spread is None else f"± {percent(spread)}"]
        return cells([*texts, f"{100 * closed:.0f} %" if known else DASH])

    def _line(self, method: str, n: int) -> Line | None:
        return self.lines.get((method, n)) or self.lines.get((method, None))

    def _name(self, method: str) -> Cell:
        return Cell(method, _mark(method))


def findings(pairs: Sequence[Content], lines: Sequence[Line]) -> list[str]:
    """Comparison of ours with labels only, one sentence per number of labels."""
    sentences = []
    for pair in pairs:
        if {pair["method"], pair["other"]} != {"ours", "labels"}:
            continue
        low, high = pair["interval"]
        verdict = "above" if low > 0 else "below" if high < 0 else "not distinguishable from"
        line = next(x for x in lines if (x["method"], x["labels"]) == ("ours", pair["labels"]))
        closed = line["gap_closed"]
        gap = "" if closed is None else f"; {100 * closed:.0f} % of the gap to all labels"
        sentences.append(
            f"At {pair['labels']} labels, ours is {verdict} labels only: {points(pair['difference'])} points of Dice "
            f"(95 % interval {points(low)} to {points(high)}){gap}."
        )
    return sentences


def _measure_cells(method: str, line: Line, n: int) -> list[Cell]:
    distance = DASH if line["distance"] is None else f"{line['distance']:.2f}"
    counts = [f"{line[key]:.1f}" for key in ("missed", "false_positives")]
    return cells([percent(line["paper_dice"][0]), distance, *counts])


def _pair_cells(pair: Content | None) -> list[Cell]:
    if pair is None:
        return [Cell(DASH, "first"), Cell(DASH)]
    low, high = pair["interval"]
    style = "yes" if low > 0 else "no" if high < 0 else ""
    return [Cell(points(pair["difference"]), f"first {style}"), Cell(f"{points(low)} to {points(high)}")]


def _mark(method: str) -> str:
    return "mark" if method == "ours" else ""


def _length(steps: Steps) -> str:
    if steps == "auto":
        return (
            "All students were trained until they had converged, or until a budget of time ended (see the warnings; it "
            "is that of the clock, so that it allows fewer steps where several trainings run at once). Students with "
            "pseudo labels continue from a labels-only student (the teacher)."
        )
    return (
        f"All students of a table were trained for {steps} steps. Students with pseudo labels continue from a "
        "labels-only student (the teacher) that was trained for half of the steps; the method labels was trained on "
        "the labels for all steps."
    )
