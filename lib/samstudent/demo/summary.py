"""What the demo shows at its end: the table on the terminal and report.html."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from samstudent.task import Task

if TYPE_CHECKING:
    from samstudent.demo.server import Annotator

Arms = dict[str, dict[str, Any]]


def scores(record: dict[str, Any]) -> dict[str, float]:
    """Dice per structure and "mean" of a round's own student on the hold-out."""
    return {name: math.nan if v is None else float(v) for name, v in record["dice"]["challenger"].items()}


def show_table(console: Console, task: Task, arms: Arms) -> None:
    """Print Dice on the hold-out: a row a structure, a column a student."""
    table = Table(title=f"Dice on the hold-out ({len(next(iter(arms.values()))['holdout_ids'])} cases), in %")
    table.add_column("structure")
    for arm in arms:
        table.add_column(arm, justify="right")
    columns = [scores(record) for record in arms.values()]
    for name in [*task.names, "mean"]:
        cells = [f"{100 * column.get(name, math.nan):.1f}" for column in columns]
        table.add_row(name, *cells, style="bold" if name == "mean" else None)
    console.print(table)
