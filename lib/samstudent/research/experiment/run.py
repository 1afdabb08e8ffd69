"""An experiment from the command to the report: the setting, the plan, and processes that share its jobs."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import psutil
import torch
from filelock import FileLock, Timeout
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from samstudent.errors import Conflict, UserError
from samstudent.research.experiment import nnunet, work
from samstudent.research.experiment.data import Folder, derive_task, open_folder
from samstudent.research.experiment.methods import METHODS, Planner, chosen
from samstudent.research.experiment.plan import Job, Options, Setting, in_order
from samstudent.task import Task, load_task
from samstudent.util.files import atomic_write

console = Console()

#: Bytes that a process takes at most, as measured: SAM, a student in training, the cases of the search.
_MEMORY = 4 << 30
#: Seconds that a job of a kind may take, as long as none was done here.
_GUESS = {
    "prepare": 10.0, "embed": 40.0, "student": 180.0, "students": 540.0, "heads": 60.0, "policy": 400.0,
    "pseudo": 90.0, "trusted": 200.0, "evaluate": 40.0, "nnunet": 40000.0,
}  # fmt: skip


def run_experiment(options: Options) -> dict[str, Any]:
    """Do what is not done yet, then write ``results.json`` and ``report.html``.

    Returns:
        The content of results.json.

    Raises:
        UserError: options that do not fit the folder; a folder or task that cannot be read.
        Conflict: another run works in the same output folder.
    """
    from samstudent.research.experiment.report import write_results

    (options.output / "work").mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(options.output / "experiment.lock", timeout=0):
            setting = make_setting(options)
            jobs = in_order(planned(setting, options))
            plan_path = options.output / "plan.json"
            atomic_write(plan_path, json.dumps(_as_json(setting, jobs)))
            started = time.monotonic()
            failed = Runner(setting, jobs, plan_path, options.jobs).run()
            console.print(f"writing the report after {_duration(time.monotonic() - started)}")
            results = write_results(setting, options, jobs, failed)
    except Timeout as error:
        raise Conflict(f"{options.output}: another experiment is running in this folder") from error
    return results


def make_setting(options: Options) -> Setting:
    """Folder, task and cases of an experiment. Raises UserError where they do not fit together."""
    if "nnunet" in options.methods:
        nnunet.require()
    given = load_task(options.task) if options.task else None
    folder = open_folder(options.folder, None if given is None else given.overlap)
    train = folder.labelled("train")
    if not options.labels or max(options.labels) >= len(train) or min(options.labels) < 1:
        raise UserError(
            f"--labels: numbers from 1 to {len(train) - 1}; {options.folder} has {len(train)} labelled train cases"
        )
    if options.split not in ("test", "val"):
        raise UserError(f"--split is test or val, not {options.split!r}")
    if given is None:
        task, folder = _derived(options, folder, train)
    else:
        task = given
        if options.size:
            task = _with_size(task, options.size)
    most = max(options.labels)
    rest = [case for case in folder.order if case not in set(train[:most])]
    pool = [case for case in folder.order if case in {*train[:most], *rest[: options.unlabelled]}]
    test = folder.labelled("test" if options.split == "test" else "val")[: options.test_cases]
    if not test:
        raise UserError(f"{options.folder / 'split.csv'}: no {options.split} case has a label")
    return Setting(
        folder=folder,
        task=task,
        output=options.output.resolve(),
        embeddings=(options.embeddings or options.output / "embeddings").resolve(),
        pool=tuple(pool),
        unlabelled=options.unlabelled,
        test=tuple(test),
        split=options.split,
        steps=options.steps or task.training.steps,
        stamp=folder.stamp([*pool, *test]),
    )


def _derived(options: Options, folder: Folder, train: Sequence[str]) -> tuple[Task, Folder]:
    """``derive_task``, or what it said the last time of the same files: it reads every label."""
    path, first = options.output / "task.json", train[: min(options.labels)]
    asked = [folder.stamp(folder.order), list(first), options.size]
    if path.is_file():
        kept = json.loads(path.read_text())
        if kept["asked"] == json.loads(json.dumps(asked)):
            return Task.model_validate(kept["task"]), replace(folder, meaning=tuple(kept["meaning"]))
    console.print(f"no --task: looking at the labels of {options.folder}")
    task, folder = derive_task(folder, first, options.size)
    kept = {"asked": asked, "task": task.model_dump(mode="json"), "meaning": folder.meaning}
    atomic_write(path, json.dumps(kept, indent=1))
    return task, folder


def _with_size(task: Task, size: Sequence[int]) -> Task:
    content = task.model_dump(mode="json")
    content["student"]["size"] = list(size)
    try:
        return Task.model_validate(content)
    except ValueError as error:
        raise UserError(f"--size {','.join(map(str, size))}: {error}") from error


def planned(setting: Setting, options: Options) -> list[Job]:
    """The measurements that were asked for: seeds outermost, so that every method is told of early."""
    planner, jobs = Planner(setting), []
    for seed in options.seeds:
        for name, method in chosen(options.methods).items():
            for n in sorted(set(options.labels)) if method.per_labels else [None]:
                jobs.append(planner.evaluation(method.build(planner, n, seed), name, n, seed))
                if method.quality is not None and n is not None:
                    jobs.append(method.quality(planner, n, seed))
    return jobs


def _as_json(setting: Setting, jobs: Mapping[str, Job]) -> dict[str, Any]:
    return {
        "setting": setting.as_json(),
        "jobs": {
            key: {
                "kind": job.kind,
                "label": job.label,
                "params": dict(job.params),
                "needs": {name: needed.key for name, needed in job.needs.items()},
            }
            for key, job in jobs.items()
        },
    }


@dataclass
class _Worker:
    """A process and the job that it does."""

    number: int
    process: subprocess.Popen[str]
    key: str | None = None
    since: float = 0.0
    share: float = 0.0
    bar: TaskID | None = None


@dataclass
class Runner:
    """Shares jobs among processes until all are done or none can go on.

    Attributes:
        setting, jobs: what to do, each job after what it needs.
        plan_path: where the worker processes read the same.
        processes: how many; None: one a GPU, or half the cores; 0: do everything in this process, for tests.
    """

    setting: Setting
    jobs: Mapping[str, Job]
    plan_path: Path
    processes: int | None = None
    failed: dict[str, str] = field(default_factory=dict)
    seconds: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))

    def run(self) -> dict[str, str]:
        """Returns: what went wrong, by the key of the job."""
        self.done = {key for key in self.jobs if self._is_done(key)}
        todo = len(self.jobs) - len(self.done)
        console.print(f"{len(self.jobs)} jobs, {len(self.done)} of them done already")
        if todo and self.processes == 0:
            self._run_here()
        elif todo:
            self._run_in_processes()
        return self.failed

    def _is_done(self, key: str) -> bool:
        job = self.jobs[key]
        try:
            done = json.loads((self.setting.work_folder(job.kind, key) / "done.json").read_text())
            if job.kind == "evaluate":
                result = json.loads(work.result_path(self.setting.output, job.params).read_text())
                if not result["key"].endswith(key):
                    return False
        except (OSError, ValueError, KeyError):
            return False
        self.seconds[job.kind].append(float(done["seconds"]))
        return True

    def _ready(self, busy: set[str]) -> str | None:
        """The first job that can be done now. Those whose needs failed never can."""
        for key, job in self.jobs.items():
            if key in self.done or key in self.failed or key in busy:
                continue
            needs = [needed.key for needed in job.needs.values()]
            if bad := [k for k in needs if k in self.failed]:
                self.failed[key] = f"needs: {self.jobs[bad[0]].label}"
            elif all(k in self.done for k in needs):
                return key
        return None

    def _run_here(self) -> None:
        while key := self._ready(set()):
            job = self.jobs[key]
            needs = {name: self.setting.work_folder(needed.kind, needed.key) for name, needed in job.needs.items()}
            folder = self.setting.work_folder(job.kind, key)
            work.do(self.setting, job.kind, job.params, needs, folder, lambda done, total: None)
            self.done.add(key)

    def _run_in_processes(self) -> None:
        count = self.processes or default_processes()
        count = max(1, min(count, len(self.jobs) - len(self.done)))
        self.events: queue.Queue[tuple[_Worker, dict[str, Any]]] = queue.Queue()
        workers = [self._start(number, count) for number in range(count)]
        started = time.monotonic()
        columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f}%"))
        try:
            with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bars:
                whole = bars.add_task("", total=1.0)
                while True:
                    for worker in workers:
                        if worker.key is None and (key := self._ready({w.key for w in workers if w.key})):
                            self._give(worker, key, bars)
                    if not any(worker.key for worker in workers):
                        break
                    try:
                        worker, event = self.events.get(timeout=1.0)
                        if self._handle(worker, event, bars) == "ended":
                            workers[workers.index(worker)] = self._start(worker.number, count)
                    except queue.Empty:
                        pass
                    finished = len(self.done) + len(self.failed)
                    text = f"{finished} of {len(self.jobs)} jobs, about {_duration(self._left(workers))} left"
                    bars.update(whole, completed=finished / len(self.jobs), description=text)
        finally:
            for worker in workers:
                worker.process.kill()
            for worker in workers:
                worker.process.wait()
        console.print(f"{len(self.done)} jobs done in {_duration(time.monotonic() - started)}")

    def _start(self, number: int, count: int) -> _Worker:
        environment = os.environ | worker_environment(number, count)
        log = (self.setting.output / "work" / f"worker{number}.log").open("a")
        command = [sys.executable, "-m", "samstudent.research.experiment.worker", str(self.plan_path)]
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, env=environment, text=True, bufsize=1
        )
        log.close()
        worker = _Worker(number, process)
        threading.Thread(target=self._listen, args=(worker,), daemon=True).start()
        return worker

    def _listen(self, worker: _Worker) -> None:
        assert worker.process.stdout is not None
        for line in worker.process.stdout:
            self.events.put((worker, json.loads(line)))
        self.events.put((worker, {"ended": True}))

    def _give(self, worker: _Worker, key: str, bars: Progress) -> None:
        assert worker.process.stdin is not None
        worker.key, worker.since, worker.share = key, time.monotonic(), 0.0
        worker.bar = bars.add_task(f"  {self.jobs[key].label}", total=1.0)
        with contextlib.suppress(OSError):  # It has ended; the event that says so is on its way.
            worker.process.stdin.write(key + "\n")

    def _handle(self, worker: _Worker, event: Mapping[str, Any], bars: Progress) -> str | None:
        key = worker.key
        if "share" in event and worker.bar is not None:
            worker.share = event["share"]
            bars.update(worker.bar, completed=worker.share)
        if key is None or not {"done", "error", "ended"} & set(event):
            return "ended" if "ended" in event else None
        job, took = self.jobs[key], time.monotonic() - worker.since
        if worker.bar is not None:
            bars.remove_task(worker.bar)
        worker.key = worker.bar = None
        if "done" in event:
            self.done.add(key)
            self.seconds[job.kind].append(took)
            console.print(f"{len(self.done)}/{len(self.jobs)} {job.label}: {_duration(took)}", highlight=False)
            return None
        log = self.setting.output / "work" / f"worker{worker.number}.log"
        self.failed[key] = event.get("error") or f"its process ended (out of memory?); see {log}"
        console.print(f"[red]failed[/] {job.label}: {self.failed[key]} (see {log})", highlight=False, soft_wrap=True)
        return "ended" if "ended" in event else None

    def _left(self, workers: Sequence[_Worker]) -> float:
        """Seconds until the end, by what jobs of each kind took so far."""
        mean = {kind: sum(s) / len(s) for kind, s in self.seconds.items() if s}
        cost = {k: mean.get(j.kind, _GUESS.get(j.kind, 60.0)) for k, j in self.jobs.items()}
        total = sum(cost[key] for key in self.jobs if key not in self.done and key not in self.failed)
        total -= sum(min(cost[w.key], time.monotonic() - w.since) for w in workers if w.key)
        return max(0.0, total / len(workers))


def default_processes() -> int:
    """One a GPU; without any, one a core, of which a second brings a small student's training little, as far as there
    is memory."""
    gpus = torch.cuda.device_count()
    return gpus or max(1, min(os.cpu_count() or 1, psutil.virtual_memory().available // _MEMORY))


def worker_environment(number: int, count: int) -> dict[str, str]:
    """Variables of a worker: its share of the cores, its GPU; threads that wait sleep."""
    cores = max(1, (os.cpu_count() or 1) // count)
    threads = min(cores, int(os.environ.get("OMP_NUM_THREADS", cores)))
    variables = {"OMP_WAIT_POLICY": "PASSIVE", "OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    if gpus := torch.cuda.device_count():
        given = os.environ.get("CUDA_VISIBLE_DEVICES")
        names = given.split(",") if given else [str(i) for i in range(gpus)]
        variables["CUDA_VISIBLE_DEVICES"] = names[number % gpus]
    return variables


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"


def method_names() -> list[str]:
    """All methods, in the order of the registry."""
    return list(METHODS)
