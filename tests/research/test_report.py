"""Report: one complete file, with the best of each column in bold."""

from __future__ import annotations

import base64
import math
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from samstudent.errors import UserError
from samstudent.research.html import Picture
from samstudent.research.report import Method, Report, RoundLine, dice_cells, write_report

PNG = b"\x89PNG not really"


def report(structures: list[str], **changes: object) -> Report:
    few = Method("5 labels", dict.fromkeys(structures, 0.6), note="labels alone")
    more = Method("SAM <pseudo>", dict.fromkeys(structures, 0.7) | {structures[0]: 0.55})
    content: dict[str, object] = {
        "title": "A & B",
        "procedure": ["Five were labelled.", "A student was trained."],
        "command": "make demo",
        "structures": structures,
        "methods": [few, more],
        "holdout": 10,
        "rounds": [RoundLine("r0001", "manual", 5, 0, 0.61, math.nan, True, "the first"),
                   RoundLine("r0002", "3 new labels", 8, 30, 0.6, 0.61, False, "worse")],
        "pictures": [Picture("worst: case_7", PNG, "prompts of SAM")],
        "timings": {"training": 75.4},
    }  # fmt: skip
    return Report(**(content | changes))  # type: ignore[arg-type]


class Outline(HTMLParser):
    """Texts of cells, whether bold, and every address that the page asks for."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.bold: list[str] = []
        self.cells: list[str] = []
        self.addresses: list[str] = []
        self._bold = False
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.addresses += [v for k, v in values.items() if k in ("src", "href") and v]
        if tag not in ("meta", "img"):
            self.open.append(tag)
        self._bold = "best" in (values.get("class") or "").split()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] in ("td", "th"):
            self.cells.append(data.strip())
            if self._bold:
                self.bold.append(data.strip())


@pytest.mark.parametrize("count", [2, 17], ids=["structures across", "structures down"])
def test_page_is_complete_and_has_no_external_resources(tmp_path: Path, count: int) -> None:
    path = write_report(tmp_path / "out" / "report.html", report([f"s{i}" for i in range(count)]))
    html = path.read_text(encoding="utf-8")
    page = Outline(html)
    assert page.open == []
    assert page.addresses == ["data:image/png;base64," + base64.b64encode(PNG).decode()]
    assert not re.search(r"https?://|@import|url\(", html)
    for text in ("A &amp; B", "Five were labelled.", "SAM &lt;pseudo&gt;", "make demo", "3 new labels", "1 min 15 s",
                 "prompts of SAM", "labels alone", "monailabel"):  # fmt: skip
        assert text in html
    # The first structure and the others have different winners.
    assert page.bold.count("60.0") == 1
    assert page.bold.count("70.0") == count - 1
    assert len(page.bold) == count + 1  # and the mean
    assert "–" in page.cells


def test_empty_parts_leave_no_headings(tmp_path: Path) -> None:
    html = write_report(tmp_path / "r.html", report(["a"], rounds=[], pictures=[], timings={})).read_text("utf-8")
    assert "<h2>Rounds" not in html
    assert "<h2>Cases" not in html


def test_best_method_is_chosen_by_rounded_figures() -> None:
    methods = [Method("a", {"x": 0.70001}), Method("b", {"x": 0.70004}), Method("c", {"x": math.nan})]
    cells = [row[0] for row in dice_cells(methods, ["x"])]
    assert [(cell.text, cell.style) for cell in cells] == [("70.0", "best"), ("70.0", "best"), ("–", "")]


def test_single_method_is_not_marked_as_best() -> None:
    assert [cell.style for cell in dice_cells([Method("a", {"x": 0.7})], ["x", "mean"])[0]] == ["", ""]


def test_mean_is_given_or_computed() -> None:
    assert Method("a", {"x": 0.5, "y": 0.7, "z": math.nan}).mean == pytest.approx(0.6)
    assert Method("a", {"x": 0.5, "mean": 0.4}).mean == 0.4


def test_unknown_structure_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="'tooth'"):
        write_report(tmp_path / "r.html", report(["a"], methods=[Method("m", {"tooth": 1.0})]))
    assert not (tmp_path / "r.html").exists()
