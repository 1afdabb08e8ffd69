"""Published results and the page of tables."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from samstudent.errors import UserError
from samstudent.research.result_tables import trimmed, write_tables


def experiment() -> dict[str, Any]:
    line = {"method": "labels", "labels": 5, "dice": [0.5, 0.01], "paper_dice": [0.55, None], "gap_closed": 0.0}
    ours = {"method": "ours", "labels": 5, "dice": [0.6, None], "gap_closed": 0.5, "distance": 1.234}
    return {
        "command": "samstudent experiment DIR", "when": "2026-12-01", "versions": {"torch": "2"}, "steps": 100,
        "options": {"seeds": [0, 1]}, "table": [line, ours],
        "pairs": [{"method": "ours", "other": "labels", "labels": 5, "difference": 0.1, "interval": [-0.02, 0.2]}],
        "cases": {"labelled": {"5": ["a", "b"]}, "unlabelled": {"5": 3}, "test": ["c"]},
        "results": [{"cases": {"c": {}}}], "failed": [],
    }  # fmt: skip


def test_result_is_published_without_cases_as_tables(tmp_path: Path) -> None:
    kept = trimmed(experiment(), "Wrists", "Two cores.")
    assert "results" not in kept and kept["cases"] == {"labelled": {"5": 2}, "unlabelled": {"5": 3}, "test": 1}
    assert kept["versions"] == {"torch": "2"} and kept["kind"] == "experiment"
    (tmp_path / "wrists.json").write_text(json.dumps(kept))
    page = write_tables(tmp_path).read_text()
    for text in (
        "## Wrists", "samstudent experiment DIR", "Measured 2026-12-01, seeds 0, 1, 100 training steps. Two cores.",
        "| labels | 5 | 50.0 ± 1.0 | 55.0 | – | – |", "| ours | 5 | 60.0 | – | 50 % | 1.23 |",
        "| labels | 5 | +10.0 | −2.0 to +20.0 |",
    ):  # fmt: skip
        assert text in page


def test_simulation_table_has_gains(tmp_path: Path) -> None:
    gain = {"mean": 0.05, "spread": 0.01, "ahead": 2, "seeds": 2}
    rows = [
        {"strategy": "mixed", "mean": 0.3, "spread": 0.02, "last": 0.4, "over_random": gain},
        {"strategy": "random", "mean": 0.25, "spread": None, "last": 0.3},
    ]
    options = {"seeds": [0], "strategies": ["mixed", "random"]}
    content = {"command": "c", "when": "today", "options": options, "table": rows, "rounds": [1]}
    (tmp_path / "a.json").write_text(json.dumps(trimmed(content, "Strategies")))
    page = write_tables(tmp_path).read_text()
    assert "| mixed | 30.0 ± 2.0 | 40.0 | 5.0 ± 1.0, 2 of 2 |  |" in page
    assert "| random | 25.0 | 30.0 |  |  |" in page


def test_invalid_result_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "other.json").write_text("{}")
    with pytest.raises(UserError, match=r"other\.json: no result"):
        write_tables(tmp_path)


def test_every_published_result_has_tables(tmp_path: Path) -> None:
    published = Path(__file__).resolve().parents[2] / "docs" / "results"
    for path in published.glob("*.json"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    page = write_tables(tmp_path).read_text()
    assert page.count("\n## ") == len(list(published.glob("*.json"))) > 0
