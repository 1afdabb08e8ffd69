"""Progress of long work as structured events: a round, batch inference and scoring call a ``Report`` with each.

The sender is independent of the receiver: a server shows the events on its page, a command line as progress bars
(``util/progress_bar.py``), a log as lines (``log_progress``), tests collect them in a list.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

logger = logging.getLogger(__name__)

#: Seconds between two events of one step: more often nobody looks.
REPORT_EVERY = 0.5


@dataclass(frozen=True)
class Progress:
    """State of one step of a job.

    Args:
        step: name of the step, the same in all its events ("training the student").
        done: units of work (training steps, cases, ...) that are done.
        total: units of work of the whole step; None: not known.
        loss: training loss of the last unit.
        seconds_left: estimate of the time that the rest of this step takes, in seconds.
        message: one line of detail for users, such as the id of the case.
    """

    step: str
    done: int = 0
    total: int | None = None
    loss: float | None = None
    seconds_left: float | None = None
    message: str = ""

    @property
    def percent(self) -> float | None:
        """Share of the step that is done, in percent with one digit; None where the total is not known."""
        return round(100 * min(self.done, self.total) / self.total, 1) if self.total else None

    def as_json(self) -> dict[str, Any]:
        """The event as JSON: its fields, and ``percent``."""
        return {**asdict(self), "percent": self.percent}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Progress:
        """The event of ``as_json``."""
        return cls(**{field.name: content[field.name] for field in fields(cls)})

    def __str__(self) -> str:
        """One line for a log: ``training the student: 30 of 60, loss 0.1234, 9 s left``."""
        parts = [f"{self.done} of {self.total}"] if self.total is not None else []
        parts += [f"loss {self.loss:.4f}"] if self.loss is not None else []
        parts += [f"{self.seconds_left:.0f} s left"] if self.seconds_left is not None else []
        parts += [self.message] if self.message else []
        return f"{self.step}: {', '.join(parts)}" if parts else self.step


Report = Callable[[Progress], None]


def no_report(progress: Progress) -> None:
    """Report of work that nobody watches."""


class StepReport:
    """Counter of one step: events with the estimated time left, at most one every ``REPORT_EVERY`` seconds.

    The first and the last unit of a step are always reported.

    Args:
        report: receiver of the events.
        step: name of the step.
    """

    def __init__(self, report: Report, step: str) -> None:
        self._report, self._step = report, step
        self._started: float | None = None
        self._first = 0
        self._last = -REPORT_EVERY

    def __call__(self, done: int, total: int, loss: float | None = None, message: str = "") -> None:
        """Report that ``done`` of ``total`` units are done.

        Args:
            done, total, loss, message: as of ``Progress``.
        """
        now = time.monotonic()
        if self._started is None:
            self._started, self._first = now, done
        elif done < total and now - self._last < REPORT_EVERY:
            return
        self._last = now
        counted = done - self._first
        left = (now - self._started) / counted * (total - done) if counted > 0 else None
        self._report(Progress(self._step, done, total, loss, left, message))


def log_progress(progress: Progress) -> None:
    """Report that writes each event as a line of the log."""
    logger.info("%s", progress)
