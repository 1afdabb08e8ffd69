"""Job of the server: a training, a batch inference or a scoring."""

from __future__ import annotations

import threading
import uuid
from collections import deque
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum
from typing import Any

from samstudent.errors import UserError
from samstudent.util.progress import Progress

#: Kinds of jobs, with the names of the host; one of each kind runs at a time. Adaptation of SAM is a training.
KINDS = ("train", "batch_infer", "scoring")
#: Number of stored output lines of a job, as in the host.
DETAILS = 20


class JobRunning(UserError):
    """A job of this kind is running or waiting (HTTP 429)."""

    status = 429


class Status(str, Enum):
    """State of a job, with the names of the host."""

    SUBMITTED = "SUBMITTED"
    RUNNING = "RUNNING"
    DONE = "DONE"
    ERROR = "ERROR"
    STOPPED = "STOPPED"


@dataclass
class Job:
    """One job and its state; thread-safe.

    Attributes:
        kind: one of ``KINDS``.
        request: request of the host's task: ``model`` or ``method``, and options.
        id: a UUID.
        status: state.
        submitted, finished: local times.
        result: JSON value, after a successful end.
        pid: id of the job process, after its start.
        ended: set when the job has ended in any way.
    """

    kind: str
    request: dict[str, Any]
    id: str = field(default_factory=lambda: str(uuid.uuid4()))
    status: Status = Status.SUBMITTED
    submitted: datetime = field(default_factory=datetime.now)
    finished: datetime | None = None
    result: Any = None
    pid: int | None = None
    ended: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        # Never empty: 3D Slicer reads the last line of a job that it stops.
        self._details = deque(["submitted"], maxlen=DETAILS)
        self._steps: dict[str, Progress] = {}
        self._current: Progress | None = None
        self._lock = threading.Lock()

    @property
    def is_active(self) -> bool:
        """Whether the job is waiting or running."""
        return self.status in (Status.SUBMITTED, Status.RUNNING)

    @property
    def details(self) -> list[str]:
        """Last lines of output and progress; never empty."""
        with self._lock:
            return list(self._details)

    @property
    def steps(self) -> list[Progress]:
        """Last event of each step, in the order in which the steps began."""
        with self._lock:
            return list(self._steps.values())

    @property
    def current(self) -> Progress | None:
        """Latest event, or None."""
        with self._lock:
            return self._current

    def add_line(self, line: str) -> None:
        """Add a line of output to the details."""
        with self._lock:
            self._details.append(line)

    def add_progress(self, progress: Progress) -> None:
        """Add an event of a step, also as a line of the details."""
        with self._lock:
            self._steps[progress.step] = self._current = progress
            self._details.append(str(progress))

    def begin(self) -> bool:
        """Set the state of a job whose process is about to start; False if it was stopped before."""
        with self._lock:
            if self.is_active:
                self.status = Status.RUNNING
            return self.is_active

    def end(self, status: Status, line: str | None = None) -> None:
        """Set the final state, with a last line of the details; no operation if the job has ended before."""
        with self._lock:
            if not self.is_active:
                return
            if line is not None:
                self._details.append(line)
            self.finished = datetime.now()
            self.status = status
        self.ended.set()

    def as_json(self) -> dict[str, Any]:
        """State of the job in the form of the host's API.

        Returns:
            ``id``, ``status``, ``request``, ``start_ts``, ``details``; after the end ``end_ts``, after a successful end
            ``result``. In addition to the host's keys: ``steps``, the last event of each step (``Progress.as_json``).
        """
        content: dict[str, Any] = {
            "id": self.id,
            "status": self.status.value,
            "request": self.request,
            "start_ts": _text(self.submitted),
            "details": self.details,
            "steps": [step.as_json() for step in self.steps],
        }
        if self.finished is not None:
            content["end_ts"] = _text(self.finished)
        if self.status is Status.DONE:
            content["result"] = self.result
        return content


def _text(time: datetime) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S")
