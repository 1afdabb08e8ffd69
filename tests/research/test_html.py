"""Figures in reports, and content of the file."""

from __future__ import annotations

import math
from pathlib import Path

from samstudent.research.html import (
    Cell,
    Code,
    Columns,
    Heading,
    Picture,
    Section,
    Table,
    Text,
    cells,
    data_uri,
    duration,
    installed_versions,
    percent,
    points,
    reproduction,
    write_page,
)


def test_figures_as_text() -> None:
    assert [percent(0.8312), percent(1), percent(math.nan)] == ["83.1", "100.0", "–"]
    assert [points(0.0312), points(-0.5), points(math.nan)] == ["+3.1", "−50.0", "–"]
    assert [duration(s) for s in (0.314, 12.4, 60, 75.4, 7500)] == [
        "0.31 s", "12 s", "1 min 00 s", "1 min 15 s", "2 h 05 min",
    ]  # fmt: skip


def test_pictures_are_embedded_in_the_page() -> None:
    assert data_uri(b"abc") == "data:image/png;base64,YWJj"


def test_versions_of_relevant_packages_are_listed() -> None:
    assert {"Python", "monai", "torch", "monailabel"} <= set(installed_versions())


def test_every_kind_of_block_is_on_the_page_and_escaped(tmp_path: Path) -> None:
    table = Table(cells(["a", "b"]), [[Cell("1 < 2", "best"), Cell("3")]], [Cell(""), Cell("group", "first", 2)])
    blocks = [
        Text("a & b", "soft"),
        Heading("part"),
        Code("run <it>"),
        Columns([table]),
        Picture("seen", b"abc", "why"),
    ]
    write_page(tmp_path / "out" / "page.html", "Title <1>", [Section("First", blocks), Section("Empty", [])])
    html = (tmp_path / "out" / "page.html").read_text(encoding="utf-8")
    for text in (
        "<title>Title &lt;1&gt;</title>", "<h2>First</h2>", '<p class="soft">a &amp; b</p>', "<h3>part</h3>",
        "<pre>run &lt;it&gt;</pre>", '<td class="best">1 &lt; 2</td>', 'colspan="2"', "base64,YWJj", "why</figcaption>",
    ):  # fmt: skip
        assert text in html
    assert "Empty" not in html


def test_page_has_its_command_and_versions() -> None:
    section = reproduction("make it", {"torch": "2.1"}, Table(cells(["step"]), []))
    assert section.blocks[0] == Code("make it")
    columns = section.blocks[1]
    assert isinstance(columns, Columns)
    assert [table.header[0].text for table in columns.tables] == ["step", "software"]
    assert [cell.text for cell in columns.tables[1].rows[0]] == ["torch", "2.1"]
