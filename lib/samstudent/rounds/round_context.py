"""Context of a running round: data that all of its steps use."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from samstudent.rounds.round_options import RoundOptions
from samstudent.rounds.round_store import RoundStore
from samstudent.task import Task
from samstudent.util.progress import Report


@dataclass
class RoundContext:
    """Context of a running round.

    Attributes:
        task: the checked task.
        options: complete (``RoundOptions.complete``).
        store: folders and SAM.
        report: called with the progress of each step.
        seconds: wall time by step.
    """

    task: Task
    options: RoundOptions
    store: RoundStore
    report: Report
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def clock(self, step: str) -> Iterator[None]:
        """Add the wall time of the block to a step."""
        started = time.monotonic()
        yield
        self.seconds[step] = round(self.seconds.get(step, 0.0) + time.monotonic() - started, 2)
