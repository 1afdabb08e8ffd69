"""Jobs of the app that are not forks of the server: with a GPU, or after the end of the fork server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from samstudent.server.jobs.fork_server import FORK_SERVER_NAME
from support.live_server import CASES, RunningServer, TinyStudy, server_on, wait_until

pytestmark = pytest.mark.server

#: Our app, on a machine that is said to have a GPU.
MAIN = """\
from samstudent.server.jobs import fork_server

fork_server.is_possible = lambda: False

from samstudent.server.app import SamstudentApp
"""


@pytest.fixture(scope="module")
def server(study: TinyStudy, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    with server_on(study, tmp_path_factory.mktemp("home"), main=MAIN) as running:
        yield running


def test_training_job_trains_a_student(server: RunningServer, study: TinyStudy, tmp_path: Path) -> None:
    assert wait_until(lambda: requests.get(f"{server.url}/scoring/", timeout=30).ok)
    assert server.wait_for("scoring", 400)["status"] == "DONE", server.tail()
    assert not [process for process in server.members() if process.name() == FORK_SERVER_NAME]
    client = server.client()
    for case in CASES[:3]:
        client.save_label(case, str(study.label(case, tmp_path)))
    client.train_start("student", {"pseudo_labels": "off"})
    training = wait_until(lambda: server.jobs().get("train"))
    assert training.ppid() != server.process.pid
    job = server.wait_for("train", 400)
    assert job["status"] == "DONE" and job["result"]["promoted"], server.tail()


def test_last_line_after_a_user_error_is_the_reason(server: RunningServer, study: TinyStudy, tmp_path: Path) -> None:
    """Viewers show it."""
    for file in (study.folder / "labels" / "final").iterdir():
        file.write_bytes(b"no picture")  # without any file the server itself refuses, before there is a job
    assert requests.post(f"{server.url}/train/student", json={"pseudo_labels": "off"}, timeout=30).ok
    job = server.wait_for("train", 400)
    assert job["status"] == "ERROR" and job["details"][-1].startswith("samstudent: "), job
