"""The walk through the loop: an annotator labels, the server trains, and what runs is drawn as progress bars."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from rich.console import Console

from samstudent.demo.server import Annotator, DemoError
from samstudent.util.progress import Progress, StepReport
from samstudent.util.progress_bar import ProgressBars

#: Labels that the annotator submits once more; the schedule of the demo starts a round after so many.
RESUBMITTED = 3
#: Name of a column of the table -> record of the round that trained that student.
Arms = dict[str, dict[str, Any]]


def walk(annotator: Annotator, labels: int, steps: int, console: Console) -> Arms:
    """The loop over HTTP.

    All three students learn from the same human labels in as many steps: the round goes on from the student of all
    labels for ``steps`` more, so the other two take twice as many.

    Args:
        annotator: client of the server.
        labels: number of cases to label.
        steps: of each student of a round.
        console: where to draw the bars.

    Raises:
        DemoError: a job failed.
    """
    annotator.put("samstudent/schedule", {"paused": True})
    _submit(annotator, annotator.study.holdout, "hold-out: labels submitted", console)
    labelled = _label(annotator, labels, console)
    alone = _train(annotator, "labels only", {"pseudo_labels": "off", "steps": 2 * steps}, console)
    _pseudo_label(annotator, console)
    raw = _train(annotator, "raw pseudo labels", {"pseudo_labels": "raw", "steps": 2 * steps, "promote": False}, console)
    # The same labels again: the schedule counts them as new, and the students stay comparable.
    _submit(annotator, labelled[:RESUBMITTED], "labels checked and submitted again", console)
    annotator.put("samstudent/schedule", {"paused": False})
    scheduled = _wait_for_round(annotator, "scheduled round", raw["id"], console)
    return {"labels only": alone, "+ raw pseudo labels": raw, "+ SAM pseudo labels": scheduled}


def walk_on_pacs(annotator: Annotator, labels: int, console: Console) -> Arms:
    """A shorter loop, over DICOMweb. Arguments and errors as of ``walk``."""
    annotator.put("samstudent/schedule", {"paused": True})
    _submit(annotator, annotator.study.holdout, "hold-out: labels submitted", console)
    _label(annotator, labels, console)
    first = _train(annotator, "labels only", {"pseudo_labels": "off"}, console)
    for model in ("student", "student+sam"):
        annotator.infer(model, annotator.study.holdout[0])
    _pseudo_label(annotator, console)
    with console.status("labels and pseudo labels go to the PACS"):
        while annotator.get("samstudent/pacs")["waiting"]:
            time.sleep(1)
    sam = _train(annotator, "SAM pseudo labels", {"pseudo_labels": "use"}, console)
    return {"labels only": first, "+ SAM pseudo labels": sam}


def _submit(annotator: Annotator, cases: Sequence[str], step: str, console: Console) -> None:
    with ProgressBars(console) as bars:
        report = StepReport(bars, step)
        for number, case in enumerate(cases, 1):
            annotator.submit(case)
            report(number, len(cases))


def _label(annotator: Annotator, count: int, console: Console) -> list[str]:
    """Label the cases that the server offers; those of the hold-out are labelled already. Returns their ids."""
    labelled: list[str] = []
    with ProgressBars(console) as bars:
        report = StepReport(bars, "annotator labels the cases offered")
        while len(labelled) < count and (case := annotator.ask()) is not None:
            annotator.submit(case)
            labelled.append(case)
            report(len(labelled), count)
    return labelled


def _train(annotator: Annotator, name: str, params: dict[str, Any], console: Console) -> dict[str, Any]:
    rounds = annotator.get("samstudent/rounds")["rounds"]
    annotator.client.train_start("student", params)
    return _wait_for_round(annotator, name, str(rounds[-1]["id"]) if rounds else "", console)


def _wait_for_round(annotator: Annotator, name: str, after: str, console: Console) -> dict[str, Any]:
    """Draw the steps of a round later than ``after`` until it is done.

    Raises:
        DemoError: it failed.
    """
    with ProgressBars(console) as bars:
        while True:
            newer = [record for record in annotator.get("samstudent/rounds")["rounds"] if record["id"] > after]
            is_running = _draw_steps(annotator, ("train", "round"), name, bars)
            if newer and newer[-1]["status"] not in ("running", "done"):
                record = newer[-1]
                raise DemoError(f"round {record['id']} {record['status']}: {record['error'] or record['decision']}")
            # The process still has to end: a next training would be refused until then.
            if newer and newer[-1]["status"] == "done" and not is_running:
                return dict(newer[-1])
            if not newer and not is_running:
                _raise_if_failed(annotator, "train")
            time.sleep(0.5)


def _pseudo_label(annotator: Annotator, console: Console) -> None:
    """Have pseudo labels of all unlabelled cases made. Raises DemoError."""
    annotator.post("batch/infer/student+sam?images=unlabeled", {})
    with ProgressBars(console) as bars:
        while True:
            status = annotator.get("batch/infer")
            _draw_steps(annotator, ("batch_infer",), "pseudo labels", bars)
            if status["status"] == "DONE":
                return
            _raise_if_failed(annotator, "batch/infer")
            time.sleep(0.5)


def _draw_steps(annotator: Annotator, kinds: tuple[str, ...], name: str, bars: ProgressBars) -> bool:
    """Draw each step of a job that runs. Returns whether one does."""
    jobs = [job for job in annotator.get("samstudent/overview")["jobs"] if job["kind"] in kinds]
    for job in jobs:
        for step in job["steps"]:
            known = {key: step[key] for key in ("done", "total", "loss", "seconds_left", "message")}
            bars(Progress(f"{name}: {step['step']}", **known))
    return bool(jobs)


def _raise_if_failed(annotator: Annotator, path: str) -> None:
    status = annotator.find(path)
    if status.get("status") in ("ERROR", "STOPPED"):
        raise DemoError(f"{path} failed: " + "\n".join(status.get("details", [])[-5:]))
