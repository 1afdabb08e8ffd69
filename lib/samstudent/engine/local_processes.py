"""Engine of local processes: each runs one shard at a time and keeps the loaded models of its work.

Processes are spawned, not forked: the caller may have threads, and CUDA cannot be used after a fork. They end with this
process, also after ``kill -9``.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import pickle
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from pathlib import Path

import psutil

from samstudent.engine.protocol import OnProgress, Outcome, Work
from samstudent.engine.worker import serve
from samstudent.errors import UserError
from samstudent.util.processes import process_family

#: Seconds that an idle process has to end by itself.
_GRACE = 2.0


@dataclass
class _Shard:
    """Unfinished items of a shard, the running one first."""

    pickled: bytes
    keys: deque[str]
    on_progress: OnProgress | None


@dataclass
class _Worker:
    """A process, our end of its connection, its shard, and whether it has started to wait for shards."""

    number: int
    process: multiprocessing.process.BaseProcess
    connection: Connection
    shard: _Shard | None = None
    started: bool = False


@dataclass
class LocalProcesses:
    """Engine of processes on this machine; see ``protocol.Engine``.

    Args:
        environments: environment variables, one mapping per process, see ``resources.worker_environments``.
        capacity: largest number of shards in flight; None: two per process.
        log_folder: folder of the output files ``worker<n>.log``; None: the output of this process.
    """

    environments: Sequence[Mapping[str, str]]
    capacity: int | None = None
    log_folder: Path | None = None
    _waiting: deque[_Shard] = field(default_factory=deque, init=False)
    _workers: list[_Worker] = field(default_factory=list, init=False)
    _outcomes: deque[Outcome] = field(default_factory=deque, init=False)
    _cancelled: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        if not self.environments:
            raise ValueError("an engine of local processes needs one process or more")

    @property
    def workers(self) -> int:
        return len(self.environments)

    @property
    def room(self) -> int:
        in_flight = len(self._waiting) + sum(worker.shard is not None for worker in self._workers)
        return 0 if self._cancelled else (self.capacity or 2 * self.workers) - in_flight

    def submit(self, work: Work, keys: Sequence[str], on_progress: OnProgress | None = None) -> None:
        if self.room < 1:
            raise RuntimeError("the engine was cancelled" if self._cancelled else "no room: collect before you submit")
        if keys:
            self._waiting.append(_Shard(pickle.dumps(work), deque(keys), on_progress))
            self._hand_out()

    def collect(self, timeout: float | None = None) -> Outcome | None:
        end = None if timeout is None else time.monotonic() + timeout
        while not self._outcomes:
            if self._cancelled:
                self._cancel_all()
                break
            running = [worker for worker in self._workers if worker.shard is not None]
            if not running:
                return None
            ready = wait([worker.connection for worker in running], None if end is None else end - time.monotonic())
            for worker in running:
                if worker.connection in ready:
                    self._receive(worker)
            self._hand_out()
            if end is not None and time.monotonic() >= end:
                break
        return self._outcomes.popleft() if self._outcomes else None

    def cancel(self) -> None:
        self._cancelled = True
        for worker in list(self._workers):
            _kill(worker.process)  # this wakes up a waiting collect

    def __enter__(self) -> LocalProcesses:
        return self

    def __exit__(self, *exception: object) -> None:
        self._cancelled = True
        self._waiting.clear()
        for worker in self._workers:
            worker.connection.close()
        for worker in self._workers:
            if worker.shard is None:
                worker.process.join(_GRACE)
            _kill(worker.process)
        self._workers.clear()

    def _hand_out(self) -> None:
        """Give waiting shards to idle processes; start a process only when there is a shard for it."""
        while self._waiting and not self._cancelled:
            worker = next((worker for worker in self._workers if worker.shard is None), None)
            if worker is None:
                free = set(range(self.workers)) - {worker.number for worker in self._workers}
                if not free:
                    return
                worker = self._start(min(free))
            worker.shard = shard = self._waiting.popleft()
            with contextlib.suppress(OSError):  # It has ended; the next receive detects that.
                worker.connection.send((shard.pickled, list(shard.keys)))

    def _start(self, number: int) -> _Worker:
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        log = None if self.log_folder is None else self.log_folder / f"worker{number}.log"
        process = context.Process(
            target=serve,
            args=(theirs, dict(self.environments[number]), log),
            name=f"samstudent worker {number}",
            daemon=True,  # Otherwise the interpreter waits for it at its end.
        )
        process.start()
        theirs.close()  # Now the connection closes when the process ends.
        worker = _Worker(number, process, ours)
        self._workers.append(worker)
        return worker

    def _receive(self, worker: _Worker) -> None:
        """Take one message of a process, or its end."""
        shard = worker.shard
        assert shard is not None
        try:
            kind, *content = worker.connection.recv()
        except (EOFError, OSError):
            self._replace_dead(worker, shard)
            return
        if kind == "started":
            worker.started = True
            return
        if kind == "progress":
            if shard.on_progress is not None:
                shard.on_progress(*content)
            return
        self._outcomes.append(content[0])
        shard.keys.popleft()
        if not shard.keys:
            worker.shard = None

    def _replace_dead(self, worker: _Worker, shard: _Shard) -> None:
        """Fail the item at which a process died; another process continues the rest of its shard first.

        Raises:
            UserError: the process ended by itself before it could run anything, as every other one would.
        """
        worker.process.join()
        self._workers.remove(worker)
        worker.connection.close()
        if self._cancelled:
            self._waiting.appendleft(shard)
            return
        code = worker.process.exitcode or 0
        cause = f"was killed by signal {-code} (out of memory?)" if code < 0 else f"ended with exit code {code}"
        log = "" if self.log_folder is None else f"; see {self.log_folder / f'worker{worker.number}.log'}"
        if code >= 0 and not worker.started:
            raise UserError(
                f"a worker process {cause} before it started{log}. A Python script that uses several processes must "
                "keep what it runs below: if __name__ == '__main__':"
            )
        self._outcomes.append(Outcome(shard.keys.popleft(), "failed", f"its process {cause}{log}"))
        if shard.keys:
            self._waiting.appendleft(shard)

    def _cancel_all(self) -> None:
        """Kill the processes; all items without an outcome become ``cancelled``."""
        for worker in self._workers:
            _kill(worker.process)
            worker.connection.close()
        shards = [worker.shard for worker in self._workers if worker.shard is not None]
        for shard in (*shards, *self._waiting):
            self._outcomes.extend(Outcome(key, "cancelled") for key in shard.keys)
        self._workers.clear()
        self._waiting.clear()


def _kill(process: multiprocessing.process.BaseProcess) -> None:
    """Kill a process and those that it started."""
    if not process.is_alive():
        return
    for member in process_family(process.pid)[1:] if process.pid else []:
        with contextlib.suppress(psutil.Error):
            member.kill()
    process.kill()
    process.join()
