"""Protocol of an engine: shards of content keys are submitted, outcomes are collected as items finish.

An item is one piece of work, named by a content key: a digest of everything its result depends on. The work writes the
result under this key to a store, in one step, so a killed run leaves nothing half-written, a rerun skips what exists,
and an engine returns no values. Nothing here depends on where the work runs; an engine of several machines needs a
store that all of them can reach.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from samstudent.errors import UserError
from samstudent.util.progress import Progress, Report

#: Progress of the items of a shard, in the process that collects: called with the item's key and its progress.
OnProgress = Callable[[str, Progress], None]
State = Literal["done", "skipped", "failed", "cancelled"]


class Work(Protocol):
    """Function of one content key.

    It is pickled for every shard, so it is a top-level function's object or a small frozen dataclass; what is large
    (a SAM, a student) it loads itself and keeps in a cache of its module.
    """

    def is_done(self, key: str) -> bool:
        """Whether the store has the result; then the item is skipped."""

    def __call__(self, key: str, report: Report) -> None:
        """Compute the result and write it to the store in one step; any exception makes the item fail."""


@dataclass(frozen=True)
class Outcome:
    """End of one item.

    Attributes:
        key: its content key.
        state: ``done``: computed now; ``skipped``: the store had the result; ``failed``; ``cancelled``.
        reason: one line for people, of an item that failed.
        seconds: that the item took.
    """

    key: str
    state: State
    reason: str | None = None
    seconds: float = 0.0


class Engine(Protocol):
    """Runs shards. A context manager: at the end of the block what still runs is stopped.

    One thread submits and collects; ``cancel`` may be called from any, and from a callback.
    """

    @property
    def workers(self) -> int:
        """Number of items that run at the same time."""

    @property
    def room(self) -> int:
        """Number of shards that can be submitted now; the number of shards in flight is bounded."""

    def submit(self, work: Work, keys: Sequence[str], on_progress: OnProgress | None = None) -> None:
        """Add a shard, whose items run one after another in the order of ``keys``. Shards begin in the order in which
        they are submitted.

        Raises:
            RuntimeError: there is no room, or the engine was cancelled.
        """

    def collect(self, timeout: float | None = None) -> Outcome | None:
        """The next item that ends, in the order in which they end.

        An item that fails, or whose process dies, stops no other.

        Args:
            timeout: seconds to wait; None: as long as it takes.

        Returns:
            None where nothing is in flight, or nothing ended in time.

        Raises:
            UserError: the engine cannot run anything, for example because its processes do not start.
        """

    def cancel(self) -> None:
        """Stop what runs and begin nothing more; items without outcome are collected as ``cancelled``. For good."""

    def __enter__(self) -> Engine: ...

    def __exit__(self, *exception: object) -> None: ...


def run_shards(
    engine: Engine, work: Work, shards: Iterable[Sequence[str]], on_progress: OnProgress | None = None
) -> Iterator[Outcome]:
    """Submit shards while there is room and yield the outcomes of their items as they end.

    Args:
        engine: with nothing in flight.
        work: the function of an item.
        shards: lists of content keys, taken as there is room, so a generator stays ahead by no more than that.
        on_progress: progress of running items.
    """
    waiting = iter(shards)
    more = True
    while True:
        while more and engine.room:
            shard = next(waiting, None)
            if shard is None:
                more = False
            elif shard:
                engine.submit(work, shard, on_progress)
        outcome = engine.collect()
        if outcome is None:
            return
        more = more and outcome.state != "cancelled"
        yield outcome


def shards_of(keys: Sequence[str], size: int) -> list[Sequence[str]]:
    """The keys in shards of ``size`` items, the last one shorter."""
    return [keys[start : start + size] for start in range(0, len(keys), size)]


def reason_of(error: BaseException) -> str:
    """The reason of a failed item: the message of a user's error; of another its type, too."""
    return str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
