"""Published figures beside measured ones."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from samstudent.research.experiment.published import Published, published_note, published_table


def line(method: str, labels: int | None, mean: float | None, spread: float | None = None) -> dict[str, Any]:
    return {"method": method, "labels": labels, "paper_dice": [mean, spread], "dice": [0.1, 0.1]}


def test_most_labels_are_compared_and_methods_without_a_figure_are_listed() -> None:
    published = Published("A paper, table 1", 43, {"labels": 0.7429, "paper": 0.8417, "nnunet": 0.8, "raw": 0.75})
    lines = [
        line("labels", 5, 0.5), line("labels", 43, 0.75, 0.012), line("paper", 5, 0.6), line("paper", 43, None),
        line("ours", 5, 0.7), line("ours", 43, 0.861), line("all", None, 0.9),
        line("raw", 10, 0.7),
    ]  # fmt: skip
    content = {"published": asdict(published), "table": lines}
    columns, rows = published_table(content)
    assert columns == ["method", "published, 43 labels", "labels", "measured", "difference"]
    assert rows == [
        ["labels", "74.29", "43", "75.0 ± 1.2", "+0.7"],
        ["paper", "84.17", "43", "–", "–"],
        ["ours", "–", "43", "86.1", "–"],
        ["all", "–", "all", "90.0", "–"],
        ["raw", "75.00", "10", "70.0", "–"],
        ["nnunet", "80.00", "–", "–", "–"],
    ]
    assert "A paper, table 1" in published_note(content)
