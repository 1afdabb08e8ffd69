"""Local processes: parallel work, one killed process, and the end of all processes with their parent."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from samstudent.engine.local_processes import LocalProcesses
from samstudent.engine.protocol import run_shards
from support.engine_work import Noted, Unreadable


def wait_for(condition: Callable[[], bool], seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.02)


def test_each_process_has_its_environment_and_none_is_this_one(tmp_path: Path) -> None:
    work = Noted(tmp_path)
    names = [{"WORKER_NAME": "first"}, {"WORKER_NAME": "second"}]
    with LocalProcesses(names) as engine:
        assert engine.workers == 2
        assert all(outcome.state == "done" for outcome in run_shards(engine, work, [[f"k{i}"] for i in range(6)]))
    written = {work.store.path(f"k{i}").read_text() for i in range(6)}
    assert written <= {entry for entry in written if entry.split()[1] in ("first", "second")}
    assert str(os.getpid()) not in {entry.split()[0] for entry in written}
    assert "WORKER_NAME" not in os.environ


def test_killed_process_fails_its_item_and_the_rest_of_the_shard_is_completed(tmp_path: Path) -> None:
    work = Noted(tmp_path)
    with LocalProcesses([{}], log_folder=tmp_path / "logs") as engine:
        outcomes = {o.key: o for o in run_shards(engine, work, [["a", "kill1", "b"], ["c"]])}
    assert {key: outcome.state for key, outcome in outcomes.items()} == {
        "a": "done", "kill1": "failed", "b": "done", "c": "done",
    }  # fmt: skip
    assert "killed by signal 9" in str(outcomes["kill1"].reason)
    assert str(tmp_path / "logs" / "worker0.log") in str(outcomes["kill1"].reason)
    assert work.calls() == ["a", "kill1", "b", "c"]


def test_process_killed_by_sigkill_fails_its_item(tmp_path: Path) -> None:
    work = Noted(tmp_path)
    with LocalProcesses([{}]) as engine:
        engine.submit(work, ["child1", "a"])
        pids = tmp_path / "child1.pid"
        wait_for(lambda: pids.exists() and len(pids.read_text().split()) == 2)
        worker, child = map(int, pids.read_text().split())
        os.kill(worker, signal.SIGKILL)
        outcomes = [engine.collect(timeout=30), engine.collect(timeout=30)]
        psutil.Process(child).kill()
    assert [(o.key, o.state) for o in outcomes if o] == [("child1", "failed"), ("a", "done")]


def test_cancel_kills_child_processes_of_an_item(tmp_path: Path) -> None:
    work = Noted(tmp_path)
    with LocalProcesses([{}]) as engine:
        engine.submit(work, ["child1", "a"])
        pids = tmp_path / "child1.pid"
        wait_for(lambda: pids.exists() and len(pids.read_text().split()) == 2)
        engine.cancel()
        states = {}
        while outcome := engine.collect(timeout=30):
            states[outcome.key] = outcome.state
    assert states == {"child1": "cancelled", "a": "cancelled"}
    for pid in map(int, pids.read_text().split()):
        wait_for(lambda pid=pid: not _runs(pid))


def test_processes_end_when_the_parent_is_killed(tmp_path: Path) -> None:
    script = (
        "import sys\nfrom pathlib import Path\nfrom support.engine_work import Noted\n"
        "from samstudent.engine.local_processes import LocalProcesses\n"
        "if __name__ == '__main__':\n"
        "    engine = LocalProcesses([{}])\n"
        "    engine.submit(Noted(Path(sys.argv[1])), ['child1'])\n"
        "    engine.collect()\n"
    )
    (tmp_path / "parent.py").write_text(script)
    tests = str(Path(__file__).parents[1])
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([tests, *filter(None, sys.path)])}
    parent = subprocess.Popen([sys.executable, str(tmp_path / "parent.py"), str(tmp_path)], env=environment)
    try:
        pids = tmp_path / "child1.pid"
        wait_for(lambda: pids.exists() and len(pids.read_text().split()) == 2)
        parent.kill()
    finally:
        parent.kill()
        parent.wait()
    for pid in map(int, pids.read_text().split()):
        wait_for(lambda pid=pid: not _runs(pid))


def test_work_that_a_process_cannot_import_fails_with_the_reason(tmp_path: Path) -> None:
    with LocalProcesses([{}], log_folder=tmp_path) as engine:
        outcomes = list(run_shards(engine, Unreadable(), [["a", "b"]]))
    assert [(o.key, o.state, o.reason) for o in outcomes] == [
        (key, "failed", "ImportError: a module that workers lack") for key in "ab"
    ]
    assert "a module that workers lack" in (tmp_path / "worker0.log").read_text()


def test_script_without_a_main_guard_ends_with_one_error(tmp_path: Path) -> None:
    """Each spawned process runs such a script again."""
    script = tmp_path / "script.py"
    script.write_text(
        "from pathlib import Path\n"
        "from samstudent.engine.local_processes import LocalProcesses\n"
        "from samstudent.engine.protocol import run_shards\n"
        "from support.engine_work import Noted\n"
        f"work = Noted(Path({str(tmp_path)!r}))\n"
        "with LocalProcesses([{}]) as engine:\n"
        "    print(list(run_shards(engine, work, [['a'], ['b']])))\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[1])}
    ended = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, timeout=60, env=environment, check=False
    )
    assert ended.returncode == 1
    assert "if __name__ == '__main__':" in ended.stderr.splitlines()[-1]
    assert Noted(tmp_path).calls() == []


def test_collect_ends_after_its_timeout(tmp_path: Path) -> None:
    with LocalProcesses([{}]) as engine:
        engine.submit(Noted(tmp_path), ["sleep1"])
        started = time.monotonic()
        assert engine.collect(timeout=0.3) is None
        assert 0.25 < time.monotonic() - started < 5


def test_engine_without_processes_is_refused() -> None:
    with pytest.raises(ValueError, match="one process or more"):
        LocalProcesses([])


def _runs(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
