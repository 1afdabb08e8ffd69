"""Jobs of an experiment on an engine: each is submitted when the jobs that it needs are done."""

from __future__ import annotations

import json
import time
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field

from rich.console import Console
from rich.progress import BarColumn, TaskID, TextColumn
from rich.progress import Progress as Bars

from samstudent.engine.protocol import Engine, Outcome, Work, run_shards, shards_of
from samstudent.research.experiment.plan import Job
from samstudent.research.experiment.work import JobWork
from samstudent.research.html import duration
from samstudent.research.setting import Setting
from samstudent.util.progress import Progress

console = Console()

#: Estimated seconds of a job by kind, until one was done here.
_GUESS = {"student": 180.0, "pseudo": 90.0, "round": 1200.0, "evaluate": 40.0, "nnunet": 40000.0}
#: Cases in a shard of preparation and embedding.
_SHARD = 8


def run_items(engine: Engine, work: Work, keys: Mapping[str, str], title: str) -> dict[str, str]:
    """Run independent items with one bar.

    Args:
        engine: an engine with nothing in flight.
        work: function of an item.
        keys: content key -> name for users.
        title: title of the progress bar.

    Returns:
        Name -> reason, for failed items.
    """
    waiting = [key for key in keys if not work.is_done(key)]
    failed = {}
    with _bars() as bars:
        bar = bars.add_task(title, total=len(waiting), visible=bool(waiting))
        for outcome in run_shards(engine, work, shards_of(waiting, _SHARD)):
            bars.advance(bar)
            if outcome.state == "failed":
                failed[keys[outcome.key]] = outcome.reason or ""
    return failed


@dataclass
class Runner:
    """Runs jobs until all are done or no other can be done.

    Attributes:
        setting: setting of the experiment.
        jobs: jobs by key, each after those that it needs.
        engine: an engine with nothing in flight.
        failed: key -> reason, for jobs that failed or cannot be done.
    """

    setting: Setting
    jobs: Mapping[str, Job]
    engine: Engine
    failed: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._seconds: dict[str, list[float]] = defaultdict(list)
        self._running: dict[str, tuple[float, TaskID]] = {}
        self._done = {key for key in self.jobs if self._is_done(key)}

    def run(self) -> dict[str, str]:
        """Returns: ``failed``."""
        console.print(f"{len(self.jobs)} jobs, {len(self._done)} of them done already")
        if len(self._done) == len(self.jobs):
            return self.failed
        started = time.monotonic()
        with _bars() as self._bars:
            total = self._bars.add_task("", total=1.0)
            while True:
                while len(self._running) < self.engine.workers and (key := self._ready()):
                    self._start(key)
                if not self._running:
                    break
                if (outcome := self.engine.collect(timeout=1.0)) is not None:
                    self._end(outcome)
                finished = len(self._done) + len(self.failed)
                text = f"{finished} of {len(self.jobs)} jobs, about {duration(self._left())} left"
                self._bars.update(total, completed=finished / len(self.jobs), description=text)
        console.print(f"{len(self._done)} jobs done after {duration(time.monotonic() - started)}")
        return self.failed

    def _is_done(self, key: str) -> bool:
        job = self.jobs[key]
        try:
            done = json.loads((job.folder(self.setting.work) / "done.json").read_text())
        except (OSError, ValueError):
            return False
        self._seconds[job.kind].append(float(done["seconds"]))
        return True

    def _ready(self) -> str | None:
        """Key of the first job that can be done now. Jobs that need a failed one are marked as failed."""
        for key, job in self.jobs.items():
            if key in self._done or key in self.failed or key in self._running:
                continue
            if bad := [needed for needed in job.needs.values() if needed.key in self.failed]:
                self.failed[key] = f"needs: {bad[0].label}"
            elif all(needed.key in self._done for needed in job.needs.values()):
                return key
        return None

    def _start(self, key: str) -> None:
        bar = self._bars.add_task(f"  {self.jobs[key].label}", total=None)
        self._running[key] = time.monotonic(), bar
        self.engine.submit(JobWork(self.setting, self.jobs[key]), [key], self._show)

    def _show(self, key: str, progress: Progress) -> None:
        _, bar = self._running[key]
        label = f"  {self.jobs[key].label}: {progress.step}"
        self._bars.update(bar, description=label, completed=progress.done, total=progress.total)

    def _end(self, outcome: Outcome) -> None:
        job = self.jobs[outcome.key]
        started, bar = self._running.pop(outcome.key)
        self._bars.remove_task(bar)
        if outcome.state in ("done", "skipped"):
            self._done.add(outcome.key)
            self._seconds[job.kind].append(time.monotonic() - started)
            console.print(
                f"{len(self._done)}/{len(self.jobs)} {job.label}: {duration(outcome.seconds)}", highlight=False
            )
            return
        self.failed[outcome.key] = outcome.reason or outcome.state
        console.print(f"[red]failed[/] {job.label}: {self.failed[outcome.key]}", highlight=False, soft_wrap=True)

    def _left(self) -> float:
        """Estimated seconds until the end, by the mean duration of jobs of each kind."""
        mean = {kind: sum(s) / len(s) for kind, s in self._seconds.items() if s}
        cost = {key: mean.get(job.kind, _GUESS.get(job.kind, 60.0)) for key, job in self.jobs.items()}
        total = sum(cost[key] for key in self.jobs if key not in self._done and key not in self.failed)
        total -= sum(min(cost[key], time.monotonic() - since) for key, (since, _) in self._running.items())
        return max(0.0, total / self.engine.workers)


def _bars() -> Bars:
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f}%"))
    return Bars(*columns, console=console, transient=True, disable=not console.is_terminal)
