"""Progress of a command on a terminal: a bar for each step; where the output is no terminal, a line now and then."""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars
from rich.table import Column

from samstudent.util.progress import Progress

#: Seconds between two lines of one step where the output is no terminal.
LINE_EVERY = 10.0
#: Least width of the names of steps, so that the bars of several blocks are in one column.
_NAME_WIDTH = 36


class ProgressBars:
    """Report that draws a bar for each step; a context manager, which leaves the finished bars on the terminal.

    Where the output is no terminal (a file, a log of a CI run) it prints lines: the first and the last event of a step,
    and in between one every ``LINE_EVERY`` seconds.

    Args:
        console: where to draw; standard error if None, so that results can be piped.
    """

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True)
        self._bars = Bars(
            TextColumn("{task.description}", table_column=Column(min_width=_NAME_WIDTH, no_wrap=True)),
            BarColumn(bar_width=20),
            TextColumn("{task.fields[count]}", justify="right"),
            TimeElapsedColumn(),
            TextColumn("{task.fields[detail]}"),
            console=self._console,
        )
        self._tasks: dict[str, TaskID] = {}
        self._last: dict[str, Progress] = {}
        self._printed: dict[str, float] = {}
        #: Step without a known total that runs: it ends where the next one begins.
        self._open: str | None = None

    def __enter__(self) -> ProgressBars:
        if self._console.is_terminal:
            self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._console.is_terminal:
            if kind is None:
                self._finish_open_step()
            self._bars.stop()

    def __call__(self, progress: Progress) -> None:
        """Show an event; the same one again changes nothing."""
        if self._last.get(progress.step) == progress:
            return
        if self._console.is_terminal:
            self._draw(progress)
        else:
            self._print(progress)
        self._last[progress.step] = progress

    def _draw(self, progress: Progress) -> None:
        if self._open != progress.step:
            self._finish_open_step()
        if progress.step not in self._tasks:
            self._tasks[progress.step] = self._bars.add_task(progress.step, total=progress.total, count="", detail="")
        self._open = progress.step if progress.total is None else None
        self._bars.update(
            self._tasks[progress.step],
            total=progress.total,
            completed=progress.done,
            count="" if progress.total is None else f"{progress.done}/{progress.total}",
            detail=f"{progress.seconds_left:.0f} s left" if progress.seconds_left else progress.message,
        )

    def _finish_open_step(self) -> None:
        if self._open is not None:
            self._bars.update(self._tasks[self._open], total=1, completed=1)
            self._open = None

    def _print(self, progress: Progress) -> None:
        now = time.monotonic()
        is_last = progress.total is not None and progress.done >= progress.total
        if is_last or now - self._printed.get(progress.step, -LINE_EVERY) >= LINE_EVERY:
            self._printed[progress.step] = now
            self._console.print(str(progress), markup=False, highlight=False, soft_wrap=True)
