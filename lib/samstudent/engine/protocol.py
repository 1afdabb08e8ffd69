"""Protocol of an engine: shards of content keys are submitted, outcomes are collected as items finish.

An item is one piece of work, named by a content key: a digest of everything its result depends on. The work writes the
result under this key to a store, in one step, so a killed run leaves no partial result, a rerun skips existing results,
and an engine returns no values. The protocol does not depend on where the work runs; an engine of several machines
needs a store that all of them can reach.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from samstudent.errors import UserError
from samstudent.util.progress import Progress, Report

#: Callback in the collecting process, with an item's key and its progress.
OnProgress = Callable[[str, Progress], None]
State = Literal["done", "skipped", "failed", "cancelled"]


class Work(Protocol):
    """Function of one content key.

    It is pickled for every shard, so it is an object of a top-level class, e.g. a small frozen dataclass; large objects
    (a SAM, a student) are loaded when it runs and cached in its module.
    """

    def is_done(self, key: str) -> bool:
        """Whether the store has the result, so that the item is skipped."""

    def __call__(self, key: str, report: Report) -> None:
        """Compute the result and write it to the store in one step; any exception makes the item fail."""


@dataclass(frozen=True)
class Outcome:
    """Outcome of one item.

    Attributes:
        key: content key of the item.
        state: ``done``: computed now; ``skipped``: the store had the result; ``failed``; ``cancelled``.
        reason: one line for users, of a failed item.
        seconds: duration of the item.
    """

    key: str
    state: State
    reason: str | None = None
    seconds: float = 0.0


class Engine(Protocol):
    """Runs shards. A context manager: running items are stopped at the end of the block.

    One thread submits and collects; ``cancel`` may be called from any, and from a callback.
    """

    @property
    def workers(self) -> int:
        """Number of items that run at the same time."""

    @property
    def room(self) -> int:
        """Number of shards that can be submitted now; their number in flight is limited."""

    def submit(self, work: Work, keys: Sequence[str], on_progress: OnProgress | None = None) -> None:
        """Add a shard, whose items run one after another in the order of ``keys``. Shards start in the order of
        submission.

        Raises:
            RuntimeError: no room, or the engine was cancelled.
        """

    def collect(self, timeout: float | None = None) -> Outcome | None:
        """Outcome of the next item that ends, in the order of their ends.

        The failure of an item, or the death of its process, does not stop other items.

        Args:
            timeout: seconds to wait; None: no limit.

        Returns:
            None if nothing is in flight, or nothing ended in time.

        Raises:
            UserError: the engine cannot run anything, for example because its processes do not start.
        """

    def cancel(self) -> None:
        """Stop running items for good and start no more; ``collect`` returns the unfinished ones as ``cancelled``."""

    def __enter__(self) -> Engine: ...

    def __exit__(self, *exception: object) -> None: ...


def run_shards(
    engine: Engine, work: Work, shards: Iterable[Sequence[str]], on_progress: OnProgress | None = None
) -> Iterator[Outcome]:
    """Submit shards while there is room and yield the outcomes of their items as they end.

    Args:
        engine: an engine with nothing in flight.
        work: function of an item.
        shards: lists of content keys, read only while the engine has room, so that a generator works as well.
        on_progress: callback for the progress of running items.
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
    """Keys in shards of ``size`` items; the last one may be shorter."""
    return [keys[start : start + size] for start in range(0, len(keys), size)]


def reason_of(error: BaseException) -> str:
    """Reason of a failed item: the message of a UserError, else type and message."""
    return str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
