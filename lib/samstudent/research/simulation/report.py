"""``results.json``, ``report.html`` and the table of a simulation."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.table import Table as TerminalTable

from samstudent.research.html import (
    Block,
    Cell,
    Picture,
    Section,
    Table,
    Text,
    cells,
    installed_versions,
    percent,
    reproduction,
    write_page,
)
from samstudent.research.setting import Setting
from samstudent.research.simulation.curves import Curves, compared, curves_of, draw_curves
from samstudent.research.simulation.options import BASELINES, Simulation
from samstudent.util.files import atomic_write

console = Console()


def write_results(options: Simulation, setting: Setting) -> dict[str, Any]:
    """Collect the rounds' files, write ``results.json`` and ``report.html``, print the table.

    Returns:
        The content of results.json.
    """
    output = options.folder.output
    paths = [
        output / "results" / f"{strategy}-s{seed}-r{number}.json"
        for strategy in options.strategies
        for seed in options.seeds
        for number in range(options.rounds + 1)
    ]
    rounds = [json.loads(path.read_text()) for path in paths if path.is_file()]
    curves = curves_of(rounds, options.rounds)
    table = compared(curves)
    content = {
        "command": options.command,
        "when": time.strftime("%Y-%m-%d %H:%M %Z"),
        "versions": installed_versions(),
        "options": asdict(options) | {"folder": options.folder.as_json()},
        "split": setting.split,
        "test_cases": len(setting.test),
        "steps": setting.steps,
        "table": table,
        "rounds": rounds,
    }
    atomic_write(output / "results.json", json.dumps(content, indent=1))
    _write_page(options, setting, content, curves)
    _print(table)
    return content


def _write_page(options: Simulation, setting: Setting, content: Mapping[str, Any], curves: Curves) -> None:
    seeds = len(options.seeds)
    missing = len(options.strategies) * seeds - sum(len(finished) for finished in curves.values())
    head: list[Block] = []
    if missing:
        text = f"{missing} runs are not finished and are left out. Repeat the command to continue them."
        head.append(Text(text, "warning"))
    if seeds < 3:
        head.append(Text(f"{seeds} seeds: differences between strategies may be chance.", "warning"))
    length = "until it had converged" if setting.steps == "auto" else f"for {setting.steps} steps"
    head.append(
        Text(
            f"For each strategy and seed a student was trained on {options.start} cases; {options.rounds} times "
            f"{options.batch} more were selected and labelled with the truth, and a new student was trained "
            f"{length}. All strategies of a seed start with the same cases. Dice is measured on "
            f"{len(setting.test)} cases of the {setting.split} split; a false positive (a predicted "
            "structure that is absent) counts 0."
        )
    )
    areas = Table(
        cells(["strategy", "area", "last round", "over random", "over foreground-aware random"]),
        [cells([row["strategy"], *_texts(row)]) for row in content["table"]],
    )
    area_note = (
        f"The mean Dice between the first and the last number of labels, in percent, with the standard deviation over "
        f"{seeds} seeds. Differences are between equal seeds; then, in how many of them the strategy was ahead."
    )
    curve_note = (
        "Means over seeds. Dashed: the baselines; the band is one standard deviation about foreground-aware random."
    )
    chosen = Table(
        [*cells(["strategy", "seed", "labels", "Dice"]), Cell("next", "text")],
        [
            [
                *cells([entry["strategy"], str(entry["seed"]), str(len(entry["labelled"])), f"{entry['dice']:.3f}"]),
                Cell(", ".join(entry["next"]), "text"),
            ]
            for entry in content["rounds"]
            if entry["next"]
        ],
    )
    curve = Picture("Dice by number of labelled cases, a line for each strategy", draw_curves(curves), curve_note)
    write_page(
        options.folder.output / "report.html",
        f"Active learning on {options.folder.folder.name}",
        [
            Section("", head),
            Section("Area under the learning curve", [Text(area_note), areas]),
            Section("Learning curves", [curve]),
            Section("Selected cases", [chosen]),
            reproduction(options.command, content["versions"]),
        ],
    )


def _texts(row: Mapping[str, Any]) -> list[str]:
    texts = [_with_spread(row), percent(row["last"])]
    for baseline in BASELINES:
        gain = row.get(f"over_{baseline}")
        texts.append("" if gain is None else f"{_with_spread(gain, sign=True)}, {gain['ahead']} of {gain['seeds']}")
    return texts


def _with_spread(value: Mapping[str, Any], sign: bool = False) -> str:
    mean = f"{100 * value['mean']:+.1f}" if sign and not math.isnan(value["mean"]) else percent(value["mean"])
    return mean if value["spread"] is None else f"{mean} ± {percent(value['spread'])}"


def _print(table: Sequence[Mapping[str, Any]]) -> None:
    shown = TerminalTable("strategy", "area", "last", "over random", "over foreground", title="Dice in percent")
    for row in table:
        shown.add_row(row["strategy"], *_texts(row))
    console.print(shown)
