"""``samstudent simulate``: conversion of its arguments to options."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Any

from rich.console import Console

from samstudent.research.experiment.command import folder_options, whole_numbers
from samstudent.research.simulation.options import Simulation
from samstudent.research.simulation.run import simulate
from samstudent.util.signals import stop

console = Console()
#: Arguments that are fields of ``Simulation`` without conversion.
_NUMBERS = ("start", "batch", "rounds", "noise")


def run(folder: Path, output: Path, *, strategies: str, seeds: str, pool: int | None, **more: Any) -> dict[str, Any]:
    """Run a simulation and print the path of its report.

    Args:
        folder, output: as in ``FolderOptions``.
        strategies: names separated by commas.
        seeds: whole numbers separated by commas.
        pool: largest number of train cases; None: all.
        more: other fields of ``Simulation`` and ``FolderOptions``.

    Returns:
        The content of results.json.
    """
    numbers = {name: more.pop(name) for name in _NUMBERS}
    unlabelled = None if pool is None else max(pool - numbers["start"], 0)
    options = Simulation(
        folder_options(folder, output, unlabelled=unlabelled, **more),
        strategies=tuple(dict.fromkeys(word.strip() for word in strategies.split(",") if word.strip())),
        seeds=tuple(dict.fromkeys(whole_numbers("--seeds", seeds))),
        pool=pool,
        command=shlex.join(["samstudent", *sys.argv[1:]]),
        **numbers,
    )
    stop.message = "stopped; repeat the command to continue"
    content = simulate(options)
    console.print(f"results.json and report.html are in {output}")
    return content
