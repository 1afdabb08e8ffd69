"""How far the host's jobs are, read from what they print: the host itself only tells that they run."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from monailabel.utils.async_tasks.utils import background_tasks

from samstudent.rounds.ledger import RoundRecord
from samstudent.server.jobs import processes

#: Lines as ``rounds.learning.Report``, the trainer and batch inference write them, after the logger's own fields.
_COUNT = re.compile(r"(?:^| - )(?:(?P<what>[A-Za-z][^:]*): )?(?:step |read )?(?P<done>\d+) of (?P<total>\d+)\b")
_LEFT = re.compile(r"(\d+) s left")
_COMPARING = re.compile(r"round r\d+: comparing")
NAMES = {"train": "training", "batch_infer": "pseudo labels", "scoring": "scores of active learning"}


@dataclass(frozen=True)
class Phase:
    """What a job is at: how many of ``total`` steps (cases, ...) of this phase are done; None where it tells none."""

    what: str
    done: int | None = None
    total: int | None = None
    seconds_left: int | None = None

    @property
    def percent(self) -> float | None:
        return round(100 * self.done / self.total, 1) if self.done is not None and self.total else None


def phase_of(lines: Iterable[str], default: str) -> Phase:
    """The phase by the last line that tells one; ``default``: its name where that line gives none."""
    for line in reversed(list(lines)):
        if _COMPARING.search(line):
            return Phase("comparing on the hold-out")
        if found := _COUNT.search(line):
            what = found["what"] or ("reading cases" if " read " in f" {line}" else default)
            left = _LEFT.search(line)
            done, total = int(found["done"]), int(found["total"])
            return Phase(what, min(done, total), total, int(left[1]) if left else None)
    return Phase("starting")


def jobs(running: RoundRecord | None) -> list[dict[str, Any]]:
    """The jobs that run or wait in this server, and a round that was started elsewhere, as JSON values."""
    found = []
    for method in processes.METHODS:
        for task in background_tasks.get(method, []):
            if task["status"] not in processes.ACTIVE:
                continue
            lines = [str(line) for line in task.get("details", ())]
            phase = phase_of(lines, "training the student" if method == "train" else NAMES[method])
            if task["status"] == "SUBMITTED":
                phase = Phase("waiting")
            found.append(
                {
                    "kind": method,
                    "name": NAMES[method],
                    "round": running.id if running is not None and method == "train" else None,
                    "reason": running.reason if running is not None and method == "train" else "",
                    "since": task.get("start_ts"),
                    "lines": lines[-8:],
                }
                | asdict(phase)
                | {"percent": phase.percent}
            )
    if running is not None and not any(job["kind"] == "train" for job in found):
        steps = running.steps or None
        phase = Phase("training the student", running.step, steps) if running.step and steps else Phase("running")
        about = {"kind": "round", "name": "training", "round": running.id, "reason": running.reason, "lines": []}
        found.append(about | {"since": None} | asdict(phase) | {"percent": phase.percent})
    return found
