"""One job of the server: a training, a batch inference or a scoring, from the request to its result."""

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

#: Kinds of jobs; one of each kind runs at a time. The adaptation of SAM is a training. The names are the host's.
KINDS = ("train", "batch_infer", "scoring")
#: Lines of a job's output that are kept, as many as the host keeps.
DETAILS = 20


class JobRunning(UserError):
    """A job of this kind runs or waits already (HTTP 429)."""

    status = 429


class Status(str, Enum):
    """State of a job, in the host's words."""

    SUBMITTED = "SUBMITTED"
    RUNNING = "RUNNING"
    DONE = "DONE"
    ERROR = "ERROR"
    STOPPED = "STOPPED"


@dataclass
class Job:
    """One job and what is known of it; used by several threads.

    Attributes:
        kind: one of ``KINDS``.
        request: as the host's tasks take it: ``model`` or ``method``, and options.
        id: a UUID.
        status: its state.
        submitted, finished: when, local time.
        result: JSON value that the job gave, once it is done.
        pid: id of its process, once it runs.
        ended: is set when the job has ended, however that was.
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
        """Whether it waits or runs."""
        return self.status in (Status.SUBMITTED, Status.RUNNING)

    @property
    def details(self) -> list[str]:
        """Last lines of its output and its progress; never empty."""
        with self._lock:
            return list(self._details)

    @property
    def steps(self) -> list[Progress]:
        """Last event of each step, in the order in which the steps began."""
        with self._lock:
            return list(self._steps.values())

    @property
    def current(self) -> Progress | None:
        """The event that came last; None where there is none yet."""
        with self._lock:
            return self._current

    def add_line(self, line: str) -> None:
        """Add a line of its output to the details."""
        with self._lock:
            self._details.append(line)

    def add_progress(self, progress: Progress) -> None:
        """Take an event of one of its steps, also as a line of the details."""
        with self._lock:
            self._steps[progress.step] = self._current = progress
            self._details.append(str(progress))

    def begin(self) -> bool:
        """Set the state of a job whose process is started now; False where it was stopped before."""
        with self._lock:
            if self.is_active:
                self.status = Status.RUNNING
            return self.is_active

    def end(self, status: Status, line: str | None = None) -> None:
        """Set the final state, with a last line of the details; nothing where the job has ended before."""
        with self._lock:
            if not self.is_active:
                return
            if line is not None:
                self._details.append(line)
            self.finished = datetime.now()
            self.status = status
        self.ended.set()

    def as_json(self) -> dict[str, Any]:
        """The job as the host's clients read it.

        Returns:
            ``id``, ``status``, ``request``, ``start_ts``, ``details``; once it has ended ``end_ts``, and once it is
            done its ``result``. Beside these, of ours: ``steps``, the last event of each (``Progress.as_json``).
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
