"""Memory and start of a job: forks of the server's process against Python's own fork server with preload.

    python benchmarks/job_start.py fork
    python benchmarks/job_start.py context

Prints the CPU seconds of the start, the seconds until the first and the second job work, and the anonymous memory of
all processes as Linux shares it out (PSS), in MB. Linux only.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import psutil
import torch

from samstudent.server.jobs import fork_server, start_methods
from samstudent.server.jobs.runner import JobRunner
from samstudent.util.progress import Progress, Report

METHODS = {"fork": fork_server.ForkServer, "context": start_methods.by_context}


def train(kind: str, request: dict[str, Any], report: Report) -> None:
    """Some steps of a small network, then wait to be measured."""
    network, pixels = torch.nn.Conv2d(8, 8, 3), torch.rand(4, 8, 64, 64)
    for _ in range(20):
        network(pixels).sum().backward()
    report(Progress("waiting"))
    time.sleep(600)


def anonymous_memory(pid: int) -> float:
    """Anonymous memory of a process, shared pages by their share, in MB."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("Pss_Anon"))


def seconds_until_it_works(jobs: JobRunner) -> float:
    """Start a job and wait until it has done its steps."""
    began = time.monotonic()
    jobs.start("train", {})
    while not (jobs.active("train") and jobs.active("train")[0].current):
        time.sleep(0.01)
    return time.monotonic() - began


def main(method: str) -> None:
    """Measure one of ``METHODS``."""
    import samstudent.server.app  # noqa: F401 (what a server has imported)

    jobs = JobRunner(train, METHODS[method]())
    me = psutil.Process()
    try:
        for which in ("first", "next"):
            print(f"{which} job works after {seconds_until_it_works(jobs):.2f} s")
            if which == "first":
                jobs.stop("train")
        family = [me, *me.children(recursive=True)]
        for process in family:
            cpu = sum(process.cpu_times()[:2])
            print(f"  {process.name():16} {anonymous_memory(process.pid):6.0f} MB, {cpu:5.1f} s of CPU")
        print(f"all: {sum(anonymous_memory(process.pid) for process in family):.0f} MB")
    finally:
        jobs.end_all(time.monotonic())


if __name__ == "__main__":
    main(sys.argv[1])
