"""Server with a changed clock (libfaketime): forward and back by days."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from samstudent.util.files import sha256_file
from support.live_server import CASES, RunningServer, TinyStudy, server_on, wait_until
from support.needed import require_faketime

pytestmark = pytest.mark.server

#: For so long a process takes the clock to be as it last read it.
CACHED_SECONDS = 1
#: Our app, which looks every second whether a round is due.
MAIN = """\
from samstudent.server import asgi

asgi.POLL_SECONDS = 1

from samstudent.server.app import SamstudentApp
"""


class Clock:
    """The clock of the server and of its child processes: this machine's time plus a number of days.

    Under libfaketime 0.9.10 Python's ``time.sleep``, by which file locks wait, raises EINVAL after such a jump, which
    no real clock does. So the server sleeps by ``select``.
    """

    def __init__(self, file: Path, modules: Path) -> None:
        """``modules``: empty folder for what Python imports at its start."""
        self.file = file
        self.modules = modules
        modules.mkdir()
        (modules / "sitecustomize.py").write_text(
            "import select, time\ntime.sleep = lambda seconds: select.select([], [], [], seconds) and None\n"
        )
        self.set(0)

    def set(self, days: float) -> None:
        """Set the clock; return when every process reads the new time."""
        self.file.write_text(f"{days:+}d\n")
        time.sleep(CACHED_SECONDS + 0.5)

    def environment(self) -> dict[str, str]:
        return {
            "LD_PRELOAD": require_faketime(),
            "FAKETIME_TIMESTAMP_FILE": str(self.file),
            # Reading the file at every question for the time is slow: rounds did not end in time.
            "FAKETIME_CACHE_DURATION": str(CACHED_SECONDS),
            # Setting a clock moves neither of these.
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "NO_FAKE_STAT": "1",
            "PYTHONPATH": str(self.modules),
        }


@pytest.fixture
def clock(tmp_path: Path) -> Clock:
    return Clock(tmp_path / "clock", tmp_path / "modules")


@pytest.fixture
def scheduled(study: TinyStudy, clock: Clock, tmp_path: Path) -> Iterator[RunningServer]:
    """Server that starts a round after every second label, with a changeable clock."""
    # What rounds learn beside their student has no clock, and takes long where each question for the time does.
    text = study.task_file.read_text().replace("pseudo_labels: {", "pseudo_labels: {policy: fixed, ")
    study.task_file.write_text(text + "schedule: {every_labels: 2, repeat: false}\n")
    for case in CASES[6:]:  # so do pseudo labels: two cases more than those that get human ones
        study.image(case).unlink()
    home = tmp_path / "home"
    home.mkdir()
    with server_on(study, home, main=MAIN, environment=clock.environment()) as running:
        yield running


def save(server: RunningServer, study: TinyStudy, case: str, by: int, folder: Path) -> str:
    """Save a label, shifted by some pixels to differ each time; returns its digest."""
    path = study.label(case, folder, by)
    server.client().save_label(case, str(path), params={})
    return sha256_file(path)


def rounds(server: RunningServer) -> list[dict[str, Any]]:
    return list(requests.get(f"{server.url}/samstudent/rounds", timeout=60).json()["rounds"])


def test_labels_rounds_and_queue_are_correct_after_clock_jumps(
    study: TinyStudy, scheduled: RunningServer, clock: Clock, tmp_path: Path
) -> None:
    saved: dict[str, list[str]] = {case: [] for case in CASES[:4]}

    def save_two(first: int, by: int) -> None:
        for case in CASES[first : first + 2]:
            saved[case].append(save(scheduled, study, case, by, tmp_path))

    def schedule() -> requests.Response:
        return requests.get(f"{scheduled.url}/samstudent/schedule", timeout=60)

    def wait_for_rounds(count: int) -> None:
        wait_until(
            lambda: [r["status"] for r in rounds(scheduled)].count("done") >= count,
            300,
            lambda: f"{rounds(scheduled)} {schedule().text} {scheduled.log.read_text()[-4000:]}",
        )

    save_two(0, 0)
    wait_for_rounds(1)
    for number, days in enumerate((-3, 4), 2):
        clock.set(days)
        now = schedule()
        assert now.ok, now.text
        sample = scheduled.client().next_sample("random", {})
        assert sample["id"] in CASES
        save_two(2 * (number % 2), number)
        wait_for_rounds(number)
    # Every version is there, the last one active, whatever the clock said when it came.
    folder = study.folder / "labels"
    for case, digests in saved.items():
        assert sha256_file(folder / "final" / f"{case}.seg.nrrd") == digests[-1]
        earlier = {sha256_file(file) for file in (folder / ".history" / "final" / case).glob("*.seg.nrrd")}
        assert earlier == set(digests[:-1])
    found = rounds(scheduled)
    assert {r["status"] for r in found} == {"done"}
    assert sorted(r["id"] for r in found) == [f"r{n:04}" for n in range(1, len(found) + 1)]
    answer = requests.post(f"{scheduled.url}/infer/student?image={CASES[5]}&output=image", timeout=120)
    assert answer.ok, answer.text
