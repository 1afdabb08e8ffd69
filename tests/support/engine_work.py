"""Work for tests of engines: plain functions of a key, importable by worker processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from samstudent.engine.store import ContentStore
from samstudent.util.progress import Progress, Report


@dataclass(frozen=True)
class Noted:
    """Work that writes its key, and the process that did it, to a store; some keys do something else.

    ``fail...`` raises, ``kill...`` kills its own process, ``sleep...`` reports progress for a minute, ``empty...``
    writes nothing. Every call appends the key to ``calls``.
    """

    folder: Path

    @property
    def store(self) -> ContentStore:
        return ContentStore(self.folder, ".txt")

    def is_done(self, key: str) -> bool:
        return key in self.store

    def __call__(self, key: str, report: Report) -> None:
        with (self.folder / "calls").open("a") as file:
            file.write(key + "\n")
        if key.startswith("fail"):
            raise ValueError(f"{key} cannot be done")
        if key.startswith("kill"):
            os.kill(os.getpid(), signal.SIGKILL)
        if key.startswith("sleep"):
            for step in range(1200):
                report(Progress("sleeping", step, 1200))
                time.sleep(0.05)
        if key.startswith("child"):
            child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
            (self.folder / f"{key}.pid").write_text(f"{os.getpid()} {child.pid}")
            child.wait()
        report(Progress("writing", 1, 1))
        if not key.startswith("empty"):
            self.store.write(key, f"{os.getpid()} {os.environ.get('WORKER_NAME', '')}")

    def calls(self) -> list[str]:
        """Keys of all calls so far, in their order."""
        path = self.folder / "calls"
        return path.read_text().splitlines() if path.exists() else []


class Unreadable:
    """Work that can be pickled but not unpickled."""

    def __reduce__(self) -> tuple[object, ...]:
        return (_raise, ())

    def is_done(self, key: str) -> bool:
        return False

    def __call__(self, key: str, report: Report) -> None:
        raise AssertionError


def _raise() -> None:
    raise ImportError("a module that workers lack")
