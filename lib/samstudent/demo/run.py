"""Run of the demo: study, server, active learning loop of a client, table and report."""

from __future__ import annotations

import os
import shlex
import sys
import time
import webbrowser
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import yaml
from rich.console import Console

from samstudent.demo.loop import RESUBMITTED, Arms, Parts, run_loop, run_loop_on_pacs
from samstudent.demo.pacs import PACS_CASES, describe_series, make_pacs_study
from samstudent.demo.server import Annotator, Server
from samstudent.demo.study import DemoStudy, check_empty, make_phantom_study, prepare_study, task_with
from samstudent.errors import UserError
from samstudent.server.pacs.orthanc import Orthanc, find_orthanc
from samstudent.task import load_task
from samstudent.util.progress import Progress
from samstudent.util.progress_bar import ProgressBars

console = Console()


@dataclass(frozen=True)
class DemoOptions:
    """Options of the demo.

    Attributes:
        studies: labelled folder; None: synthetic radiographs.
        task: name of a shipped task, or path of a task file.
        output: folder for the study, the logs and the report.
        labels: number of cases that the annotator labels, without the hold-out.
        limit: maximum number of training cases.
        steps: optimisation steps of a student; None: those of the task.
        seed: random seed of the synthetic radiographs.
        keep: whether the server continues to run after the demo.
        pacs: whether the study is in a PACS.
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
        UserError: the task, the study folder or the output folder cannot be used.
        DemoError: the server did not start, or a request or job failed.
    """
    if options.pacs:
        run_on_pacs(options)
        return
    started = time.monotonic()
    task = task_with(load_task(options.task), options.steps, RESUBMITTED)
    check_empty(options.output)
    parts = Parts(console, 6)
    parts.begin("study and server")
    study = _study(options)
    labels = min(options.labels, len(study.train) - 1)
    task_file = options.output / "task.yaml"
    task_file.write_text(yaml.safe_dump(task.model_dump(mode="json", exclude_none=True), sort_keys=False))
    server = Server(study.folder, task_file, options.output / "server.log")
    keep = False
    try:
        _wait_for(server)
        annotator = Annotator(server, study, task)
        arms = run_loop(annotator, labels, task.training.steps, parts)
        parts.begin("report and table")
        # Here, not above: it imports MONAI, which takes seconds, and the first part should start at once.
        from samstudent.demo.summary import show_table, write_demo_report

        report = options.output / "report.html"
        timings = {name: record["finished"] - record["started"] for name, record in arms.items()}
        timings["total"] = time.monotonic() - started
        with ProgressBars(console) as bars:
            write_demo_report(report, annotator, arms, shlex.join(["samstudent", *sys.argv[1:]]), timings, bars)
        show_table(console, task, arms)
        console.print(f"report: {report.resolve()}   (total time {time.monotonic() - started:.0f} s)")
        keep = options.keep
    finally:
        if not keep:
            server.stop()
    if keep:
        _explain_keep(server, _unlabelled(study, arms))


def run_on_pacs(options: DemoOptions) -> None:
    """Run a shorter demo with a PACS as the study; images and labels are exchanged as DICOM. Errors: ``run_demo``."""
    if options.studies is not None:
        raise UserError("--pacs uses synthetic radiographs; leave out --studies")
    find_orthanc()  # a missing program is reported before images are drawn
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
        parts.begin("PACS with synthetic wrist radiographs, and server")
        with ProgressBars(console) as bars:
            bars(Progress("starting Orthanc"))
            orthanc.start()
            study = make_pacs_study(options.output, orthanc, min(options.limit, PACS_CASES), options.seed, bars)
        server = Server(orthanc.url, task_file, options.output / "server.log", options.output / "data")
        _wait_for(server)
        annotator = Annotator(server, study, task)
        arms = run_loop_on_pacs(annotator, min(options.labels, len(study.train) - 1), parts)
        # Here, not above: it imports MONAI, which takes seconds, and the first part should start at once.
        from samstudent.demo.summary import show_table

        show_table(console, task, arms)
        console.print("This short demo shows the exchange with a PACS, not the quality of pseudo labels.")
        for line in describe_series(orthanc):
            console.print(line)
        console.print(
            f"data of server and PACS: {options.output.resolve()}   (total time {time.monotonic() - started:.0f} s)"
        )
        keep = options.keep
    finally:
        if not keep:
            if server is not None:
                server.stop()
            orthanc.kill()
    if keep and server is not None and orthanc.process is not None:
        _explain_keep(server, _unlabelled(study, arms))
        console.print(f"Orthanc is still running at {orthanc.url}; stop it with: kill {orthanc.process.pid}")


def _study(options: DemoOptions) -> DemoStudy:
    if options.studies is not None:
        return prepare_study(options.studies, options.output, options.limit)
    with ProgressBars(console) as bars:
        return make_phantom_study(options.output, options.limit, options.seed, bars)


def _wait_for(server: Server) -> None:
    with ProgressBars(console) as bars:
        bars(Progress("starting the server", message=server.url))
        server.wait_until_up()


def _unlabelled(study: DemoStudy, arms: Arms) -> str:
    """First training case that the annotator has not labelled; there is one at least."""
    labelled = {case for record in arms.values() for case in record["labels_used"]}
    return next(case for case in study.train if case not in labelled)


def _explain_keep(server: Server, case: str) -> None:
    """Print how to go on, and open the tab Annotate with a case without a label, if there is a browser."""
    page = f"{server.url}/samstudent#annotate/{quote(case)}"
    opened = _has_screen() and webbrowser.open(page)
    console.print(
        f"The server is still running; stop it with: kill {server.process.pid}\n"
        f"Next: draw the label of {case} in the browser{', which has opened' if opened else ''}\n"
        "(docs/how-to/annotate.md):\n"
        f"  {page}\n"
        f"In 3D Slicer: install the extension MONAILabel, open the module 'MONAI Label', enter {server.url}\n"
        "as the server, press the refresh button, then 'Next Sample', correct the label, 'Submit Label'.\n"
        "Details: docs/how-to/slicer.md",
        soft_wrap=True,
    )


def _has_screen() -> bool:
    """Whether a person at this terminal sees a browser's window; a text browser would take over the terminal."""
    shown = sys.platform in ("darwin", "win32") or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
    return shown and sys.stdout.isatty()
