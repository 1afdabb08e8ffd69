"""Shutdown by a signal: server and child processes end within seconds, with a consistent state."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
import requests
from PIL import Image

from samstudent.task import load_task
from samstudent.util.files import sha256_file
from support.live_server import TASK, RunningServer, TinyStudy, draw_film, server_on, wait_until

pytestmark = pytest.mark.server

MANY = 20
#: Seconds. It takes one to five, more on busy cores (over 10 s twice in the whole suite). Before, it took as long as
#: the queued scoring, 142 s with three times as many images.
LONGEST = 30
HEADERS = {"Content-Type": "application/json"}


@pytest.fixture(scope="module")
def many(film_embeddings: Path, tmp_path_factory: pytest.TempPathFactory) -> TinyStudy:
    """Twenty radiographs; the server must compute the embeddings of ten."""
    root = tmp_path_factory.mktemp("many")
    shutil.copytree(film_embeddings, root / "films" / ".samstudent" / "embeddings", copy_function=os.link)
    (root / "tiny.yaml").write_text(TASK)
    truth = {}
    for index in range(MANY):
        case = f"case{index:02d}"
        pixels, truth[case] = draw_film(np.random.default_rng(index))
        Image.fromarray(pixels).save(root / "films" / f"{case}.png")
    return TinyStudy(root / "films", root / "tiny.yaml", load_task(root / "tiny.yaml"), truth)


@pytest.fixture(scope="module")
def server(many: TinyStudy, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    with server_on(many, tmp_path_factory.mktemp("home")) as running:
        yield running


def in_background(call: Callable[[], object]) -> None:
    def quietly() -> None:
        with contextlib.suppress(requests.RequestException):  # the server has ended
            call()

    threading.Thread(target=quietly, daemon=True).start()


def half_an_upload(server: RunningServer) -> socket.socket:
    """Connection with an incomplete upload."""
    connection = socket.create_connection(("127.0.0.1", server.port))
    connection.sendall(b"PUT /datastore/image?image=never HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\nhalf")
    return connection


@pytest.mark.parametrize(
    ("number", "whole_group", "twice"),
    [(signal.SIGINT, True, False), (signal.SIGTERM, False, False), (signal.SIGHUP, False, True)],
    ids=["Ctrl-C", "SIGTERM", "SIGHUP-twice"],
)
def test_signal_ends_server_and_jobs(
    server: RunningServer, many: TinyStudy, tmp_path: Path, number: int, whole_group: bool, twice: bool
) -> None:
    if server.process.poll() is not None:
        server.start_again()
        server.wait_until_up()
    before = len(requests.get(f"{server.url}/samstudent/rounds", timeout=60).json()["rounds"])
    labels = {case: many.label(case, tmp_path) for case in list(many.truth)[:4]}
    for case, file in labels.items():
        server.client().save_label(case, str(file))
    url = f"{server.url}/train/student"
    assert requests.post(url, json={"pseudo_labels": "off", "steps": 100_000}, timeout=60).ok

    def training() -> bool:
        rounds = requests.get(f"{server.url}/samstudent/rounds", timeout=60).json()["rounds"]
        return len(rounds) > before and bool(server.jobs().get("train"))

    wait_until(training)
    # Jobs that wait for their turn, a request that waits for a job, inferences in threads, an upload that never ends.
    for _ in range(2):
        requests.post(f"{server.url}/scoring/diversity?enqueue=true", timeout=60)
    in_background(lambda: requests.post(f"{server.url}/scoring/diversity?run_sync=true&enqueue=true", timeout=60))
    in_background(lambda: requests.post(f"{server.url}/batch/infer/sam?run_sync=true", timeout=60))
    click = {"params": '{"label": "lunate", "foreground": [[31, 26, 0]], "background": [], "slice": 0}'}
    for case in list(many.truth)[:6]:
        in_background(lambda case=case: requests.post(f"{server.url}/infer/sam?image={case}", data=click, timeout=60))
    connection = half_an_upload(server)
    wait_until(lambda: server.jobs().get("scoring"))
    log = server.log.stat().st_size
    last = list(many.truth)[5]
    server.client().save_label(last, str(many.label(last, tmp_path)))

    began = time.monotonic()
    os.killpg(server.process.pid, number) if whole_group else server.process.send_signal(number)
    if twice:
        time.sleep(0.2)
        server.process.send_signal(number)
    code = server.process.wait(LONGEST)
    took = time.monotonic() - began
    connection.close()
    assert code == 0 and took < LONGEST
    print(f"{signal.Signals(number).name}: ended after {took:.2f} s")
    wait_until(lambda: not server.members(), 5)
    said = server.log.read_bytes()[log:].decode(errors="replace")
    assert said.splitlines()[-1] == "samstudent: stopped" and "Traceback" not in said, said
    listed = json.loads((many.folder / "datastore_v2.json").read_text())["objects"]
    assert twice or "final" in listed[last]["labels"], "the host's tools do not see the last label"

    server.start_again()
    server.wait_until_up()
    rounds = requests.get(f"{server.url}/samstudent/rounds", timeout=60).json()["rounds"]
    assert len(rounds) == before + 1 and rounds[-1]["status"] == "interrupted"
    assert twice or (rounds[-1]["finished"] and "stopped" in rounds[-1]["error"])
    listed = requests.get(f"{server.url}/datastore/?output=all", timeout=60).json()["objects"]
    assert len(listed) == MANY
    for case, file in labels.items():
        assert sha256_file(many.folder / "labels" / "final" / f"{case}.seg.nrrd") == sha256_file(file)


def test_two_annotators_get_cases_and_shared_cases_are_reported(server: RunningServer, many: TinyStudy) -> None:
    """One pages through the whole study; the other still gets cases, and a shared case is reported."""
    if server.process.poll() is not None:
        server.start_again()
    server.wait_until_up()
    anna, bob = server.client("anna"), server.client("bob")
    unlabelled = MANY - requests.get(f"{server.url}/info/", timeout=60).json()["datastore"]["completed"]
    seen = [anna.next_sample("uniform", {})["id"] for _ in range(unlabelled)]
    assert len(set(seen)) == unlabelled
    got = [bob.next_sample("uniform", {}) for _ in range(3)]
    assert len({answer["id"] for answer in got}) == 3 and not any("shared_with" in answer for answer in got)
    # Clicks in a case extend its reservation.
    case = anna.next_sample("uniform", {})["id"]
    click = {"label": "lunate", "foreground": [[31, 26, 0]], "background": [], "slice": 0}
    anna.infer("sam", case, click)
    assert anna.next_sample("uniform", {})["id"] != case
    everything = [bob.next_sample("uniform", {}) for _ in range(unlabelled)]
    assert case not in [answer["id"] for answer in everything if "shared_with" not in answer]


def test_expired_upload_is_removed(server: RunningServer, many: TinyStudy) -> None:
    if server.process.poll() is not None:
        server.start_again()
    server.wait_until_up()

    def upload(expiry: int) -> requests.Response:
        with many.image("case00").open("rb") as file:
            return requests.put(f"{server.url}/session/?expiry={expiry}", files={"files": file}, timeout=60)

    for wrong in (-1, 10**6):
        answer = upload(wrong)
        assert answer.status_code == 400 and f"expiry={wrong}: must be 1 to 3600 seconds" in answer.json()["detail"]
    session = upload(1).json()
    assert session["session_info"]["expiry"] == 1
    url = f"{server.url}/session/{session['session_id']}"
    assert requests.get(url, timeout=60).ok
    wait_until(lambda: requests.get(url, timeout=60).status_code == 404, 10)
    assert not Path(session["session_info"]["path"]).exists()
    server.stop()  # the last test that needs it; else it computes embeddings beside the others


COMMAND = [sys.executable, "-m", "samstudent.cli.main"]


def ended(process: subprocess.Popen[str], number: int) -> tuple[str, float]:
    """Send a signal as a terminal does; returns the output, and the seconds until the end."""
    began = time.monotonic()
    os.killpg(process.pid, number)
    said = process.communicate(timeout=60)[0]
    return said, time.monotonic() - began


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_round_of_the_command_line_is_stopped(many: TinyStudy, tmp_path: Path, number: int) -> None:
    from samstudent.rounds.ledger import Ledger

    folder = tmp_path / "films"
    (folder / "labels" / "final").mkdir(parents=True)
    for case in list(many.truth)[:6]:
        (folder / f"{case}.png").write_bytes(many.image(case).read_bytes())
        many.label(case, folder / "labels" / "final")
    command = [*COMMAND, "train", "-s", str(folder), "-t", str(many.task_file), "--pseudo-labels", "off"]
    process = subprocess.Popen(
        [*command, "--steps", "100000"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        start_new_session=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    ledger = Ledger(folder / ".samstudent" / "tiny")
    wait_until(lambda: process.poll() is not None or ledger.rounds())
    time.sleep(3)  # it trains on folds by now
    said, took = ended(process, number)
    assert process.returncode == 128 + number and took < LONGEST
    assert said.splitlines()[-1] == "samstudent: stopped" and "Traceback" not in said and "ERROR" not in said, said
    (record,) = ledger.rounds()
    assert record.status == "interrupted" and record.finished and not list(folder.rglob(".tmp-*"))


def python(code: str) -> subprocess.Popen[str]:
    """An interpreter that runs this text; all that it says on its ``stdout``."""
    return subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def test_unresponsive_threads_and_children_are_ended(tmp_path: Path) -> None:
    """A thread pool with work, a library that catches the interruption, a child that ignores it."""
    code = """
import signal, subprocess, sys, time
from concurrent.futures import ThreadPoolExecutor
from samstudent.util.signals import stop
child = [sys.executable, "-c", "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(99)"]
with stop.handled():
    pool = ThreadPoolExecutor(1)
    [pool.submit(time.sleep, 30) for _ in range(4)]
    print(subprocess.Popen(child, start_new_session=True).pid, flush=True)
    while True:
        try:
            time.sleep(99)
        except BaseException:
            pass
"""
    process = python(code)
    assert process.stdout is not None
    child = int(process.stdout.readline())
    said, took = ended(process, signal.SIGTERM)
    assert (process.returncode, said) == (128 + signal.SIGTERM, "samstudent: stopped\n") and took < LONGEST
    wait_until(lambda: not psutil.pid_exists(child) or psutil.Process(child).status() == psutil.STATUS_ZOMBIE, 5)


def test_a_second_signal_ends_at_once() -> None:
    code = """
import time
from samstudent.util.signals import stop
said = "ready"
with stop.handled():
    while True:
        try:
            print(said, flush=True)  # in here: the signal may follow at once
            time.sleep(99)
        except BaseException:
            said = "once"
"""
    process = python(code)
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGINT)
    assert process.stdout.readline() == "once\n"
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=LONGEST)[0] == "samstudent: stopped\n" and process.returncode == 130


def test_server_with_nohup_survives_a_hangup() -> None:
    code = """
import signal
signal.signal(signal.SIGHUP, signal.SIG_IGN)
from samstudent.util.signals import handle_signals
handle_signals(lambda number, frame: None)
assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN and callable(signal.getsignal(signal.SIGTERM))
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
