"""``samstudent simulate``: from the words of the command line to options."""

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
#: Words of the command line that are fields of ``Simulation`` as they are.
_NUMBERS = ("start", "batch", "rounds")


def run(folder: Path, output: Path, *, strategies: str, seeds: str, pool: int | None, **more: Any) -> dict[str, Any]:
    """Run a simulation and print where its report is.

    Args:
        folder, output: as of ``FolderOptions``.
        strategies: names with commas between.
        seeds: whole numbers with commas between.
        pool: the most train cases that are used.
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
    stop.message = "stopped; the same command goes on from here"
    content = simulate(options)
    console.print(f"results.json and report.html are in {output}")
    return content
