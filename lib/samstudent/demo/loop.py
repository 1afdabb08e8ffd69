"""Active learning loop of the demo: labels of the simulated annotator, trainings of the server, progress bars."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console

from samstudent.demo.server import Annotator, DemoError
from samstudent.task import Steps, multiple
from samstudent.util.progress import Progress, StepReport
from samstudent.util.progress_bar import ProgressBars

#: Number of labels that the annotator submits again; the schedule of the demo starts a round after this number.
RESUBMITTED = 3
#: Time limit for the start of a job, in seconds.
_START_SECONDS = 60.0
#: Interval between two requests of a job's progress, in seconds.
_POLL_SECONDS = 0.3

#: Record of the round that trained a student, by the student's column in the table.
Arms = dict[str, dict[str, Any]]


@dataclass
class Parts:
    """Numbered headings of the parts of the demo.

    Args:
        console: destination.
        total: number of parts.
        number: number of the current part; 0: before the first.
    """

    console: Console
    total: int
    number: int = 0

    def begin(self, title: str) -> None:
        """Print the heading of the next part."""
        self.number += 1
        self.console.print(f"[bold]{self.number} of {self.total}: {title}[/bold]")


def run_loop(annotator: Annotator, labels: int, steps: Steps, parts: Parts) -> Arms:
    """Run the loop over HTTP.

    All three students are trained on the same human labels for the same number of steps: the student of the scheduled
    round continues for ``steps`` from a labels-only student of ``steps``, so the others are trained for twice as many.
    With ``auto`` each is trained until it has converged.

    Args:
        annotator: client of the server.
        labels: number of cases to label.
        steps: training steps of the task.
        parts: headings; four are printed.

    Returns:
        Records of the three rounds.

    Raises:
        DemoError: a job failed.
    """
    console, double = parts.console, {"steps": multiple(2, steps)}
    parts.begin("labels of the annotator")
    annotator.put("samstudent/schedule", {"paused": True})
    _submit(annotator, annotator.study.holdout, "labelling the hold-out", console)
    labelled = _label(annotator, labels, console)
    parts.begin(f"first student, trained on these {len(labelled)} labels")
    labels_only = _train(annotator, {"pseudo_labels": "off", **double}, console)
    parts.begin("second student, trained on the labels and the first student's masks of the unlabelled cases")
    raw = _train(annotator, {"pseudo_labels": "raw", "promote": False, **double}, console)
    parts.begin("scheduled round: pseudo labels with SAM, and a third student trained on them and the labels")
    # The same labels again: the schedule counts them as new, and the students remain comparable.
    _submit(annotator, labelled[:RESUBMITTED], "submitting labels again", console)
    before = annotator.find("train")["id"]
    annotator.put("samstudent/schedule", {"paused": False})
    scheduled = _wait_for_round(annotator, before, console)
    return {"labels only": labels_only, "+ raw pseudo labels": raw, "+ SAM pseudo labels": scheduled}


def run_loop_on_pacs(annotator: Annotator, labels: int, parts: Parts) -> Arms:
    """Run a shorter loop on a PACS; three headings are printed. Arguments, result and errors as in ``run_loop``."""
    console = parts.console
    parts.begin("labels of the annotator")
    annotator.put("samstudent/schedule", {"paused": True})
    _submit(annotator, annotator.study.holdout, "labelling the hold-out", console)
    labelled = _label(annotator, labels, console)
    parts.begin(f"first student, trained on these {len(labelled)} labels")
    first = _train(annotator, {"pseudo_labels": "off"}, console)
    for model in ("student", "student+sam"):
        annotator.infer(model, annotator.study.holdout[0])
    parts.begin("second student, trained on the labels and pseudo labels, which are also sent to the PACS")
    _pseudo_label(annotator, console)
    with ProgressBars(console) as bars:
        bars(Progress("sending pseudo labels to the PACS"))
        while annotator.get("samstudent/pacs")["waiting"]:
            time.sleep(1)
    sam = _train(annotator, {"pseudo_labels": "use"}, console)
    return {"labels only": first, "+ SAM pseudo labels": sam}


def _submit(annotator: Annotator, cases: Sequence[str], step: str, console: Console) -> None:
    """Submit the labels of these cases, with a progress bar of this name."""
    with ProgressBars(console) as bars:
        report = StepReport(bars, step)
        for number, case in enumerate(cases, 1):
            annotator.submit(case)
            report(number, len(cases))


def _label(annotator: Annotator, count: int, console: Console) -> list[str]:
    """Label the cases that the server offers; the hold-out is already labelled. Returns their ids."""
    labelled: list[str] = []
    with ProgressBars(console) as bars:
        report = StepReport(bars, "labelling the offered cases")
        while len(labelled) < count and (case := annotator.next_case()) is not None:
            annotator.submit(case)
            labelled.append(case)
            report(len(labelled), count)
    return labelled


def _train(annotator: Annotator, params: dict[str, Any], console: Console) -> dict[str, Any]:
    """Run a round with these parameters and return its record. Raises DemoError."""
    before = annotator.find("train").get("id")
    annotator.client.train_start("student", params)
    return _wait_for_round(annotator, before, console)


def _wait_for_round(annotator: Annotator, before: str | None, console: Console) -> dict[str, Any]:
    """Record of the round of the next training. Arguments and errors as in ``_follow``."""
    _follow(annotator, "train", before, console)
    return dict(annotator.get("samstudent/rounds")["rounds"][-1])


def _pseudo_label(annotator: Annotator, console: Console) -> None:
    """Generate pseudo labels of all unlabelled cases. Raises DemoError."""
    before = annotator.find("batch/infer").get("id")
    annotator.post("batch/infer/student+sam?images=unlabeled", {})
    _follow(annotator, "batch/infer", before, console)


def _follow(annotator: Annotator, path: str, before: str | None, console: Console) -> None:
    """Show the steps of the next job as progress bars until it has ended.

    Args:
        annotator: client of the server.
        path: endpoint of the last job of the kind.
        before: id of the previous job of the kind; None: there was none.
        console: destination of the bars.

    Raises:
        DemoError: no job started, or it failed.
    """
    deadline = time.monotonic() + _START_SECONDS
    with ProgressBars(console) as bars:
        bars(Progress("starting"))
        while True:
            job = annotator.find(path)
            if job.get("id", before) != before:
                for step in job["steps"]:
                    bars(Progress.from_json(step))
                if job["status"] == "DONE":
                    return
                if job["status"] in ("ERROR", "STOPPED"):
                    raise DemoError(f"{path} failed: " + "\n".join(job["details"][-5:]))
            elif time.monotonic() > deadline:
                raise DemoError(f"{path}: no job started within {_START_SECONDS:.0f} s")
            time.sleep(_POLL_SECONDS)
