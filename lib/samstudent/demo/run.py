"""The demo, step by step: label a few, train, pseudo-label, train again, let the schedule run a round, report."""

from __future__ import annotations

import re
import shlex
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from samstudent.demo.orthanc import Orthanc, find_orthanc
from samstudent.demo.pacs import PACS_CASES, make_pacs_study, what_lies_in
from samstudent.demo.server import Annotator, DemoError, Server
from samstudent.demo.study import DemoStudy, check_empty, make_phantom_study, prepare_study, task_with
from samstudent.errors import UserError
from samstudent.task import Task, load_task

#: The schedule of the demo starts a round after this many new labels.
SCHEDULED_LABELS = 3
console = Console()


@dataclass(frozen=True)
class DemoOptions:
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
    task = task_with(load_task(options.task), options.steps, SCHEDULED_LABELS)
    check_empty(options.output)
    study = _study(options, task)
    labels = min(options.labels, len(study.train) - SCHEDULED_LABELS - 1)
    task_file = options.output / "task.yaml"
    task_file.write_text(yaml.safe_dump(task.model_dump(mode="json", exclude_none=True), sort_keys=False))
    server = Server(study.folder, task_file, options.output / "server.log")
    keep = False
    try:
        with console.status(f"starting the server at {server.url}"):
            server.wait_until_up()
        annotator = Annotator(server, study, task)
        rounds = _walk(annotator, labels)
        names = ("labels only", "+ raw pseudo labels", "+ SAM pseudo labels", "scheduled round")
        arms = dict(zip(names, rounds, strict=True))
        from samstudent.demo.summary import show_table, write_demo_report  # imports MONAI: seconds

        show_table(console, task, arms)
        report = options.output / "report.html"
        timings = {name: r["finished"] - r["started"] for name, r in arms.items()}
        timings["everything"] = time.monotonic() - started
        write_demo_report(report, annotator, arms, shlex.join(["samstudent", *sys.argv[1:]]), timings)
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
    task = task_with(load_task(options.task), options.steps, SCHEDULED_LABELS)
    check_empty(options.output)
    orthanc = Orthanc(options.output / "orthanc")
    task_file = options.output / "task.yaml"
    task_file.write_text(yaml.safe_dump(task.model_dump(mode="json", exclude_none=True), sort_keys=False))
    server = None
    keep = False
    try:
        with console.status(f"starting Orthanc at {orthanc.url}, storing synthetic wrist radiographs as DX images"):
            orthanc.start()
            study = make_pacs_study(options.output, orthanc, min(options.limit, PACS_CASES), options.seed)
        server = Server(orthanc.url, task_file, options.output / "server.log", options.output / "data")
        with console.status(f"starting the server at {server.url}"):
            server.wait_until_up()
        annotator = Annotator(server, study, task)
        arms = _walk_on_pacs(annotator, min(options.labels, len(study.train) - 1))
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


def _walk_on_pacs(annotator: Annotator, labels: int) -> dict[str, dict[str, Any]]:
    """The loop over DICOMweb; the table's columns by their names."""
    annotator.put("samstudent/schedule", {"paused": True})
    with _progress() as bar:
        for case in bar.track(annotator.study.holdout, description="hold-out: labels submitted"):
            annotator.submit(case)
    _label(annotator, labels, "annotator labels the cases offered")
    first = _train(annotator, "training on labels only", {"pseudo_labels": "off"})
    for model in ("student", "student+sam"):
        annotator.infer(model, annotator.study.holdout[0])
    _pseudo_label(annotator)
    with console.status("labels and pseudo labels go to the PACS"):
        while annotator.get("samstudent/pacs")["waiting"]:
            time.sleep(1)
    sam = _train(annotator, "training, plus SAM pseudo labels", {"pseudo_labels": "use"})
    return {"labels only": first, "+ SAM pseudo labels": sam}


def _study(options: DemoOptions, task: Task) -> DemoStudy:
    if options.studies is None:
        with console.status("drawing synthetic wrist radiographs"):
            return make_phantom_study(options.output, options.limit, options.seed)
    return prepare_study(options.studies, options.output, options.limit)


def _walk(annotator: Annotator, labels: int) -> list[dict[str, Any]]:
    """The loop over HTTP. Returns the records of its four rounds."""
    study = annotator.study
    # Held until the three compared trainings are done: the same labels for all of them.
    annotator.put("samstudent/schedule", {"paused": True})
    with _progress() as bar:
        for case in bar.track(study.holdout, description="hold-out: labels submitted"):
            annotator.submit(case)
    _label(annotator, labels, "annotator labels the cases offered")
    first = _train(annotator, "training on labels only", {"pseudo_labels": "off"})
    _pseudo_label(annotator)
    raw = _train(annotator, "training, plus raw pseudo labels", {"pseudo_labels": "raw", "promote": False})
    # As a round is by default: pseudo labels anew, by what the labels say of students and SAM.
    sam = _train(annotator, "training, plus SAM pseudo labels", {})
    _label(annotator, SCHEDULED_LABELS, "annotator labels more")
    annotator.put("samstudent/schedule", {"paused": False})
    scheduled = _wait_for_round(annotator, "the schedule runs a round by itself", after=sam["id"])
    return [first, raw, sam, scheduled]


def _label(annotator: Annotator, count: int, description: str) -> None:
    """Label until ``count`` cases outside of the hold-out are done; asked-for hold-out cases are done already."""
    with _progress() as bar:
        for _ in bar.track(range(count), description=description):
            case = annotator.ask()
            if case is None:
                return
            annotator.submit(case)


def _train(annotator: Annotator, description: str, params: dict[str, Any]) -> dict[str, Any]:
    before = _last_round(annotator)
    annotator.client.train_start("student", params)
    return _wait_for_round(annotator, description, after=before)


def _last_round(annotator: Annotator) -> str:
    rounds = annotator.get("samstudent/rounds")["rounds"]
    return str(rounds[-1]["id"]) if rounds else ""


def _wait_for_round(annotator: Annotator, description: str, after: str) -> dict[str, Any]:
    """Wait until a round later than ``after`` is done; show its steps. Raises DemoError when it failed."""
    with _progress() as bar:
        job = bar.add_task(description, total=None)
        while True:
            newer = [r for r in annotator.get("samstudent/rounds")["rounds"] if r["id"] > after]
            if newer:
                record: dict[str, Any] = newer[-1]
                bar.update(job, total=record["steps"], completed=record.get("step", 0))
                # The child still has to end: a next training would be refused until then.
                if record["status"] == "done" and annotator.client.train_status().get("status") != "RUNNING":
                    bar.update(job, completed=record["steps"])
                    return record
                if record["status"] not in ("running", "done"):
                    raise DemoError(f"round {record['id']} {record['status']}: {record['error'] or record['decision']}")
            else:
                _raise_if_training_failed(annotator)
            time.sleep(1)


def _raise_if_training_failed(annotator: Annotator) -> None:
    try:
        status = annotator.client.train_status()
    except Exception:  # the host answers 404 before the first training; its client raises a bare exception for it
        return
    if status.get("status") == "ERROR":
        raise DemoError("training failed: " + "\n".join(status.get("details", [])[-5:]))


def _pseudo_label(annotator: Annotator) -> None:
    """Ask for pseudo labels of all unlabelled cases and wait for them."""
    annotator.post("batch/infer/student+sam?images=unlabeled", {})
    with _progress() as bar:
        job = bar.add_task("pseudo labels by student and SAM", total=None)
        while True:
            status = annotator.get("batch/infer")
            counts = [m for line in status.get("details", []) if (m := re.search(r"(\d+) of (\d+): ", line))]
            if counts:
                bar.update(job, completed=int(counts[-1][1]), total=int(counts[-1][2]))
            if status["status"] == "DONE":
                return
            if status["status"] in ("ERROR", "STOPPED"):
                raise DemoError("pseudo-labelling failed: " + "\n".join(status["details"][-5:]))
            time.sleep(1)


def _progress() -> Progress:
    columns = (TextColumn("{task.description:40}"), BarColumn(), TextColumn("{task.completed}/{task.total}"))
    return Progress(*columns, TimeElapsedColumn(), console=console)


def _explain_keep(server: Server) -> None:
    console.print(
        f"The server goes on at {server.url} (process {server.process.pid}; stop it with: kill {server.process.pid}).\n"
        f"In 3D Slicer: install the extension MONAILabel, open the module 'MONAI Label', enter {server.url} as server,\n"
        "press the refresh button, then 'Next Sample', correct, 'Submit Label'. docs/how-to/slicer.md shows it in steps."
    )
