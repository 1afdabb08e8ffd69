"""Progress bars of a command: a line for each step of the work, below the lines of the log."""

from __future__ import annotations

from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars

from samstudent.util.progress import Progress


class ProgressBars:
    """Report that draws a bar for each step; a context manager, which leaves the finished bars on the terminal.

    Args:
        console: where to draw; standard error if None, so that results can be piped.
    """

    def __init__(self, console: Console | None = None) -> None:
        self._bars = Bars(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[left]}"),
            TimeElapsedColumn(),
            console=console or Console(stderr=True),
        )
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> ProgressBars:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    def __call__(self, progress: Progress) -> None:
        """Draw an event."""
        if progress.step not in self._tasks:
            self._tasks[progress.step] = self._bars.add_task(progress.step, total=progress.total, left="")
        left = "" if not progress.seconds_left else f"{progress.seconds_left:.0f} s left"
        self._bars.update(
            self._tasks[progress.step],
            total=progress.total,
            completed=progress.done,
            left=left or progress.message,
        )
