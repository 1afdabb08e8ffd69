"""A process that does jobs: it reads their keys from its input, a line each, and tells in JSON lines how far it is."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import Any

#: Seconds between two lines about progress.
_PAUSE = 1.0


def main(plan_path: Path) -> None:
    """Do what the input asks for until it ends. ``plan_path``: the ``plan.json`` that ``run`` wrote."""
    _end_with_parent()
    from samstudent.research.experiment import work
    from samstudent.research.experiment.plan import Setting

    # Lines of our own only: whatever a library prints goes to the log.
    out = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    plan = json.loads(plan_path.read_text())
    setting = Setting.from_json(plan["setting"])

    def tell(**event: Any) -> None:
        out.write(json.dumps(event) + "\n")

    tell(ready=True)
    for line in sys.stdin:
        key = line.strip()
        job = plan["jobs"][key]
        needs = {name: setting.work_folder(plan["jobs"][k]["kind"], k) for name, k in job["needs"].items()}
        last = time.monotonic()

        def report(done: int, total: int, key: str = key) -> None:
            nonlocal last
            if time.monotonic() - last >= _PAUSE:
                last = time.monotonic()
                tell(key=key, share=done / max(total, 1))

        try:
            work.do(setting, job["kind"], job["params"], needs, setting.work_folder(job["kind"], key), report)
            tell(key=key, done=True)
        except Exception as error:
            print(f"{job['label']}:", file=sys.stderr)
            traceback.print_exc()
            tell(key=key, error=f"{type(error).__name__}: {error}")


def _end_with_parent() -> None:
    """Leave the terminal's Ctrl-C to the parent, and end when it ends, also when it is killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.platform == "linux":
        parent = os.getppid()
        with contextlib.suppress(OSError):
            ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
        if os.getppid() != parent:
            os._exit(1)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
