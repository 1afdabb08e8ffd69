"""Jobs of the host are forks, and behave as the interpreters that the host would start."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest
import requests

from samstudent.server.jobs.forkserver import SERVER_NAME, is_possible
from support.live_server import CASES, RunningServer, TinyStudy, wait_until

pytestmark = pytest.mark.skipif(not is_possible(), reason="here the host starts its jobs itself")

#: A job in the place of the host's: tells what it was given, and ends as it is asked to.
JOB = """
import json, os, signal, sys
def run_main():
    print(len(sys.argv[4]), os.environ.get("MASTER_PORT"), os.environ["KEPT"], "größer", flush=True)
    print("to the standard error", file=sys.stderr, flush=True)
    if sys.argv[2] == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if sys.argv[2] == "raises":
        raise ValueError("no good")
    sys.exit(int(sys.argv[2]))
if __name__ == "__main__":
    run_main()
"""
#: A server in small.
SERVER = """
import json, os, subprocess, sys
from monailabel.utils.async_tasks import utils as host_jobs
from samstudent.server.jobs import forkserver
forkserver.HOST_MODULE = "tiny_job"
import tiny_job
server = forkserver.ForkServer()
server.install()

def run(how, text="{}", **more):
    command = [sys.executable, "-m", "tiny_job", "-m", how, "-r", text]
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "universal_newlines": True}
    job = host_jobs.subprocess.Popen(command, env={**os.environ, **more}, **options)
    lines = job.stdout.read().splitlines()
    while job.poll() is None:
        pass
    return {"kind": type(job).__name__, "lines": lines, "code": job.returncode}

told = {how: run(how) for how in ("0", "2", "raises", "killed")}
told["large"] = run("0", "x" * 500_000)
told["port"] = run("0", MASTER_PORT="1234")
told["another"] = run("0", CUDA_VISIBLE_DEVICES="1")
import psutil
psutil.Process().children()[0].kill()
told["orphan"] = run("0")
print(json.dumps(told))
"""


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("jobs")
    (folder / "tiny_job.py").write_text(JOB)
    environment = {**os.environ, "PYTHONPATH": str(folder), "KEPT": "kept"}
    ended = subprocess.run([sys.executable, "-c", SERVER], env=environment, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 0, ended.stderr
    found: dict[str, Any] = json.loads(ended.stdout.splitlines()[-1])
    return found


@pytest.mark.parametrize(("how", "code"), [("0", 0), ("2", 2), ("raises", 1), ("killed", -signal.SIGKILL)])
def test_output_and_exit_code_are_the_jobs(told: dict[str, Any], how: str, code: int) -> None:
    job = told[how]
    assert (job["kind"], job["code"]) == ("ForkedJob", code)
    assert job["lines"][:2] == ["2 None kept größer", "to the standard error"]
    assert (how == "raises") == ("ValueError: no good" in job["lines"])


def test_a_large_request_comes_whole(told: dict[str, Any]) -> None:
    assert told["large"]["lines"][0].startswith("500000 ")


def test_what_is_set_for_one_job_reaches_it(told: dict[str, Any]) -> None:
    assert told["port"] == {**told["0"], "lines": ["2 1234 kept größer", "to the standard error"]}


@pytest.mark.parametrize("how", ["another", "orphan"])
def test_otherwise_it_is_an_interpreter_as_with_the_host(told: dict[str, Any], how: str) -> None:
    """Variables that may have been read before the fork; no fork server any more."""
    assert told[how] == {**told["0"], "kind": "Popen"}


def test_the_hosts_trainings_are_forks(server: RunningServer, study: TinyStudy, tmp_path: Path) -> None:
    client = server.client()
    for case in CASES[:3]:
        client.save_label(case, str(study.label(case, tmp_path)))
    client.train_start("student", {"pseudo_labels": "off", "steps": 100_000})
    training = wait_until(lambda: server.jobs().get("train"))
    (fork_server,) = [process for process in server.members() if process.name() == SERVER_NAME]
    assert training.parent() == fork_server and fork_server.parent() == psutil.Process(server.process.pid)
    wait_until(lambda: any("step 1 of" in line for line in client.train_status()["details"]))
    client.train_stop()
    wait_until(lambda: not training.is_running() or training.status() == psutil.STATUS_ZOMBIE)
    # The fork server's end is not the server's, nor of what it can do.
    fork_server.kill()
    wait_until(lambda: server.wait_for("scoring"))
    client.train_start("student", {"pseudo_labels": "off"})
    assert server.wait_for("train")["status"] == "DONE", server.tail()
    assert requests.get(f"{server.url}/samstudent/rounds", timeout=30).json()["champion"]


def test_a_users_mistake_is_told_by_a_fork_too(server: RunningServer, study: TinyStudy, tmp_path: Path) -> None:
    """Its last lines are the job's details, which viewers show."""
    server.stop()
    server.start_again()
    server.wait_until_up()
    server.client().save_label(CASES[0], str(study.label(CASES[0], tmp_path)))
    for file in (study.folder / "labels" / "final").iterdir():
        file.write_bytes(b"no picture")  # without any file the server itself refuses, before there is a job
    assert requests.post(f"{server.url}/train/student", json={"pseudo_labels": "off"}, timeout=30).ok
    job = server.wait_for("train")
    assert job["status"] == "ERROR" and job["details"][-1].startswith("samstudent: "), job
