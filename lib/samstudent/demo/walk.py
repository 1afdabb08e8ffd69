"""The walk through the loop: an annotator labels, the server trains, and what runs is drawn as progress bars."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console

from samstudent.demo.server import Annotator, DemoError
from samstudent.util.progress import Progress, StepReport
from samstudent.util.progress_bar import ProgressBars

#: Labels that the annotator submits once more; the schedule of the demo starts a round after so many.
RESUBMITTED = 3
#: Seconds within which the schedule starts a round that is due.
_STARTS_WITHIN = 60.0
#: Seconds between two questions for a job's progress.
_POLL_EVERY = 0.3

#: Name of a column of the table -> record of the round that trained that student.
Arms = dict[str, dict[str, Any]]


@dataclass
class Parts:
    """Headings of the parts of the demo, with their number.

    Args:
        console: where to print.
        total: number of parts.
        number: of the part that was begun last.
    """

    console: Console
    total: int
    number: int = 0

    def begin(self, what: str) -> None:
        """Print the heading of the next part."""
        self.number += 1
        self.console.print(f"[bold]{self.number} of {self.total}: {what}[/bold]")


def walk(annotator: Annotator, labels: int, steps: int, parts: Parts) -> Arms:
    """The loop over HTTP.

    All three students learn from the same human labels in as many steps: the round goes on from the student of all
    labels for ``steps`` more, so the other two take twice as many.

    Args:
        annotator: client of the server.
        labels: number of cases to label.
        steps: of each student of a round.
        parts: headings; four are printed.

    Raises:
        DemoError: a job failed.
    """
    console, double = parts.console, {"steps": 2 * steps}
    parts.begin("an annotator labels cases")
    annotator.put("samstudent/schedule", {"paused": True})
    _submit(annotator, annotator.study.holdout, "labelling the hold-out", console)
    labelled = _label(annotator, labels, console)
    parts.begin(f"a first student learns from these {len(labelled)} labels alone")
    alone = _train(annotator, {"pseudo_labels": "off", **double}, console)
    parts.begin("a second student learns from the labels and the first one's masks of the other cases")
    raw = _train(annotator, {"pseudo_labels": "raw", "promote": False, **double}, console)
    parts.begin("the schedule starts a round: SAM takes part in labelling the others, a third student learns")
    # The same labels again: the schedule counts them as new, and the students stay comparable.
    _submit(annotator, labelled[:RESUBMITTED], "submitting labels again", console)
    earlier = annotator.find("train")["id"]
    annotator.put("samstudent/schedule", {"paused": False})
    scheduled = _wait_for_round(annotator, earlier, console)
    return {"labels only": alone, "+ raw pseudo labels": raw, "+ SAM pseudo labels": scheduled}


def walk_on_pacs(annotator: Annotator, labels: int, parts: Parts) -> Arms:
    """A shorter loop, over DICOMweb, in three parts. Arguments and errors as of ``walk``."""
    console = parts.console
    parts.begin("an annotator labels cases")
    annotator.put("samstudent/schedule", {"paused": True})
    _submit(annotator, annotator.study.holdout, "labelling the hold-out", console)
    labelled = _label(annotator, labels, console)
    parts.begin(f"a first student learns from these {len(labelled)} labels alone")
    first = _train(annotator, {"pseudo_labels": "off"}, console)
    for model in ("student", "student+sam"):
        annotator.infer(model, annotator.study.holdout[0])
    parts.begin("a second student learns from the labels and pseudo labels, which go to the PACS, too")
    _pseudo_label(annotator, console)
    with ProgressBars(console) as bars:
        bars(Progress("sending pseudo labels to the PACS"))
        while annotator.get("samstudent/pacs")["waiting"]:
            time.sleep(1)
    sam = _train(annotator, {"pseudo_labels": "use"}, console)
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
        report = StepReport(bars, "labelling the cases offered")
        while len(labelled) < count and (case := annotator.ask()) is not None:
            annotator.submit(case)
            labelled.append(case)
            report(len(labelled), count)
    return labelled


def _train(annotator: Annotator, params: dict[str, Any], console: Console) -> dict[str, Any]:
    earlier = annotator.find("train").get("id")
    annotator.client.train_start("student", params)
    return _wait_for_round(annotator, earlier, console)


def _wait_for_round(annotator: Annotator, earlier: str | None, console: Console) -> dict[str, Any]:
    """The record of the round of the next training. Arguments and errors as of ``_follow``."""
    _follow(annotator, "train", earlier, console)
    return dict(annotator.get("samstudent/rounds")["rounds"][-1])


def _pseudo_label(annotator: Annotator, console: Console) -> None:
    """Have pseudo labels of all unlabelled cases made. Raises DemoError."""
    earlier = annotator.find("batch/infer").get("id")
    annotator.post("batch/infer/student+sam?images=unlabeled", {})
    _follow(annotator, "batch/infer", earlier, console)


def _follow(annotator: Annotator, path: str, earlier: str | None, console: Console) -> None:
    """Draw the steps of the next job of a kind until it has ended.

    Args:
        annotator: client of the server.
        path: endpoint of the last job of the kind.
        earlier: id of the job before; None: there was none.
        console: where to draw the bars.

    Raises:
        DemoError: no job started, or it failed.
    """
    deadline = time.monotonic() + _STARTS_WITHIN
    with ProgressBars(console) as bars:
        bars(Progress("starting"))
        while True:
            job = annotator.find(path)
            if job.get("id", earlier) != earlier:
                for step in job["steps"]:
                    bars(Progress.from_json(step))
                if job["status"] == "DONE":
                    return
                if job["status"] in ("ERROR", "STOPPED"):
                    raise DemoError(f"{path} failed: " + "\n".join(job["details"][-5:]))
            elif time.monotonic() > deadline:
                raise DemoError(f"{path}: no job started within {_STARTS_WITHIN:.0f} s")
            time.sleep(_POLL_EVERY)
