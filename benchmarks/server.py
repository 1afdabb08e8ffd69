"""How the real server answers while it trains, and how much memory it holds when idle.

    python benchmarks/server.py

Starts the server on drawn films, measures /info and next sample when idle and while a training runs in its child,
in turns within one run, and the server's memory after SAM has drawn once.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import yaml
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "lib"))

from samstudent.demo.server import Annotator, Server
from samstudent.demo.study import make_phantom_study
from samstudent.task import load_task


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=40, help="of each endpoint, idle and busy")
    options = parser.parse_args()
    task = load_task("phantom")
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        study = make_phantom_study(root, 8, seed=0)
        content = task.model_dump(mode="json", exclude_none=True) | {"schedule": {}}
        (root / "task.yaml").write_text(yaml.safe_dump(content))
        server = Server(study.folder, root / "task.yaml", root / "server.log")
        try:
            server.wait_until_up()
            measure(Annotator(server, study, task), server, options.calls)
        finally:
            server.stop()


def measure(annotator: Annotator, server: Server, calls: int) -> None:
    for case in study_cases(annotator):
        annotator.submit(case)
    annotator.client.infer("sam", annotator.study.holdout[0], {"foreground": [[100, 150, 0]], "label": "radius"})
    wait_for_quiet(annotator)
    memory = psutil.Process(server.process.pid).memory_info().rss / 2**30
    endpoints: dict[str, Callable[[], object]] = {
        "GET /info/": annotator.client.info,
        "next sample": annotator.ask,
    }
    idle = {name: timed(call, calls) for name, call in endpoints.items()}
    annotator.client.train_start("student", {"pseudo_labels": "off", "steps": 5000})
    while not any(r.get("step") for r in annotator.get("samstudent/rounds")["rounds"]):
        time.sleep(1)
    busy = {name: timed(call, calls) for name, call in endpoints.items()}
    annotator.client.train_stop()
    table = Table("", "idle, median", "95 %", "training, median", "95 %", "ratio of medians")
    for name in endpoints:
        (m0, p0), (m1, p1) = idle[name], busy[name]
        table.add_row(name, *(f"{1000 * v:.1f} ms" for v in (m0, p0, m1, p1)), f"{m1 / m0:.2f}")
    Console().print(table)
    Console().print(f"memory of the idle server with LiteMedSAM loaded: {memory:.2f} GiB")


def study_cases(annotator: Annotator) -> list[str]:
    return [*annotator.study.holdout, *annotator.study.train[:3]]


def wait_for_quiet(annotator: Annotator) -> None:
    """Scores are computed once at the start; wait until their process has ended."""
    time.sleep(40)  # the host's timer starts it within 30 s
    while annotator.get("scoring/")["status"] in ("SUBMITTED", "RUNNING"):
        time.sleep(1)


def timed(call: Callable[[], object], calls: int) -> tuple[float, float]:
    """Median and 95th percentile, in seconds."""
    seconds = []
    for _ in range(calls):
        started = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - started)
        time.sleep(0.05)
    return statistics.median(seconds), statistics.quantiles(seconds, n=20)[-1]


if __name__ == "__main__":
    main()
