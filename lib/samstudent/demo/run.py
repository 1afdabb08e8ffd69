"""The demo: draws a study, starts a server, walks through the loop as a client would, and writes the report."""

from __future__ import annotations

import shlex
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import yaml
from rich.console import Console

from samstudent.server.pacs.orthanc import Orthanc, find_orthanc
from samstudent.demo.pacs import PACS_CASES, make_pacs_study, what_lies_in
from samstudent.demo.server import Annotator, DemoError, Server
from samstudent.demo.study import DemoStudy, check_empty, make_phantom_study, prepare_study, task_with
from samstudent.demo.walk import RESUBMITTED, Parts, walk, walk_on_pacs
from samstudent.errors import UserError
from samstudent.task import load_task
from samstudent.util.progress import Progress
from samstudent.util.progress_bar import ProgressBars

console = Console()


@dataclass(frozen=True)
class DemoOptions:
    """Options of the demo.

    Attributes:
        studies: folder with images and labels; None: films are drawn.
        task: shipped task name or task file.
        output: folder for the study, the logs and the report.
        labels: number of cases that the annotator labels.
        limit: largest number of training cases.
        steps: optimisation steps of a student; None: the task's.
        seed: of the drawn films.
        keep: whether the server stays at the end.
        pacs: whether the study is a PACS.
    """

    studies: Path | None
    task: str
    output: Path
    labels: int
    limit: int
    steps: int | None
    seed: int
    keep: bool
    pacs: bool = False


def run_demo(options: DemoOptions) -> None:
    """Run the demo and write ``<output>/report.html``.

    Raises:
        UserError: the task, the study folder or the output folder is not usable.
        DemoError: the server answered with an error or did not start.
    """
    if options.pacs:
        run_on_pacs(options)
        return
    started = time.monotonic()
    task = task_with(load_task(options.task), options.steps, RESUBMITTED)
    check_empty(options.output)
    parts = Parts(console, 6)
    parts.begin("a study and a server")
    study = _study(options)
    labels = min(options.labels, len(study.train) - 1)
    task_file = options.output / "task.yaml"
    task_file.write_text(yaml.safe_dump(task.model_dump(mode="json", exclude_none=True), sort_keys=False))
    server = Server(study.folder, task_file, options.output / "server.log")
    keep = False
    try:
        _wait_for(server)
        annotator = Annotator(server, study, task)
        arms = walk(annotator, labels, task.training.steps, parts)
        parts.begin("table and report")
        from samstudent.demo.summary import show_table, write_demo_report  # imports MONAI: seconds

        report = options.output / "report.html"
        timings = {name: record["finished"] - record["started"] for name, record in arms.items()}
        timings["everything"] = time.monotonic() - started
        with ProgressBars(console) as bars:
            write_demo_report(report, annotator, arms, shlex.join(["samstudent", *sys.argv[1:]]), timings, bars)
        show_table(console, task, arms)
        console.print(f"report: {report.resolve()}   ({time.monotonic() - started:.0f} s in all)")
        keep = options.keep
    finally:
        if not keep:
            server.stop()
    if keep:
        _explain_keep(server)


def run_on_pacs(options: DemoOptions) -> None:
    """A shorter walk, with a PACS as the study: what goes to and fro is DICOM. Raises as ``run_demo``."""
    if options.studies is not None:
        raise UserError("--pacs draws its own films; leave out --studies")
    find_orthanc()  # before anything is drawn
    started = time.monotonic()
    task = task_with(load_task(options.task), options.steps, RESUBMITTED)
    check_empty(options.output)
    orthanc = Orthanc(options.output / "orthanc")
    task_file = options.output / "task.yaml"
    task_file.write_text(yaml.safe_dump(task.model_dump(mode="json", exclude_none=True), sort_keys=False))
    server = None
    keep = False
    try:
        parts = Parts(console, 4)
        parts.begin("a PACS with synthetic wrist radiographs, and a server")
        with ProgressBars(console) as bars:
            bars(Progress("starting Orthanc"))
            orthanc.start()
            study = make_pacs_study(options.output, orthanc, min(options.limit, PACS_CASES), options.seed, bars)
        server = Server(orthanc.url, task_file, options.output / "server.log", options.output / "data")
        _wait_for(server)
        annotator = Annotator(server, study, task)
        arms = walk_on_pacs(annotator, min(options.labels, len(study.train) - 1), parts)
        from samstudent.demo.summary import show_table  # imports MONAI: seconds

        show_table(console, task, arms)
        for line in what_lies_in(orthanc):
            console.print(line)
        console.print(f"server and PACS: {options.output.resolve()}   ({time.monotonic() - started:.0f} s in all)")
        keep = options.keep
    finally:
        if not keep:
            if server is not None:
                server.stop()
            orthanc.kill()
    if keep and server is not None and orthanc.process is not None:
        _explain_keep(server)
        console.print(f"Orthanc goes on at {orthanc.url} (stop it with: kill {orthanc.process.pid}).")


def _study(options: DemoOptions) -> DemoStudy:
    if options.studies is not None:
        return prepare_study(options.studies, options.output, options.limit)
    with ProgressBars(console) as bars:
        return make_phantom_study(options.output, options.limit, options.seed, bars)


def _wait_for(server: Server) -> None:
    with ProgressBars(console) as bars:
        bars(Progress("starting the server", message=server.url))
        server.wait_until_up()


def _explain_keep(server: Server) -> None:
    console.print(
        f"The server goes on at {server.url} (process {server.process.pid}; stop it with: kill {server.process.pid}).\n"
        f"In 3D Slicer: install the extension MONAILabel, open the module 'MONAI Label', enter {server.url} as server,\n"
        "press the refresh button, then 'Next Sample', correct, 'Submit Label'. docs/how-to/slicer.md shows it in steps."
    )
