"""Faults of a server: kills, two servers on one folder, an incomplete image, a full disk.

No acknowledged label may be lost, nothing half-written may be served, and no restart needs a hand.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import psutil
import pytest
import requests

from samstudent.imaging.case import read_image
from samstudent.imaging.label_writing import write_masks
from samstudent.util.files import sha256_file
from support.live_server import CASES, RunningServer, TinyStudy, detail, wait_until
from support.small_disk import small_disk

pytestmark = pytest.mark.server


class Annotator(threading.Thread):
    """Client that saves different labels and records the acknowledged ones."""

    def __init__(self, server: RunningServer, study: TinyStudy, folder: Path, seed: int) -> None:
        super().__init__(daemon=True)
        self.server, self.study, self.folder = server, study, folder
        self.rng = np.random.default_rng(seed)
        self.saved: list[tuple[str, str]] = []
        self.ended = threading.Event()

    def run(self) -> None:
        while not self.ended.is_set():
            case = str(self.rng.choice(CASES))
            path = self.folder / f"{len(self.saved)}-{time.monotonic_ns()}.seg.nrrd"
            masks = np.roll(self.study.truth[case], self.rng.integers(-9, 9, 2), axis=(1, 2))
            write_masks(path, masks, self.study.task, read_image(self.study.image(case)).grid)
            with contextlib.suppress(requests.RequestException), path.open("rb") as file:
                url = f"{self.server.url}/datastore/label?image={case}"
                if requests.put(url, files={"label": file}, timeout=60).ok:
                    self.saved.append((case, sha256_file(path)))
            path.unlink()
            self.ended.wait(0.1)


def all_labels(study: TinyStudy, case: str) -> set[str]:
    """Digests of a case's final label and of all earlier ones."""
    folder = study.folder / "labels"
    files = [folder / "final" / f"{case}.seg.nrrd", *(folder / ".history" / "final" / case).glob("*.seg.nrrd")]
    return {sha256_file(file) for file in files if file.is_file()}


def live_and_die(server: RunningServer, rng: random.Random, longest: float) -> None:
    """Start a training as soon as possible, and kill the server or its training process after a random time, at most
    ``longest`` seconds."""
    end = time.monotonic() + rng.uniform(0, longest)
    asked = False
    while time.monotonic() < end:
        if not asked:
            with contextlib.suppress(requests.RequestException):
                body = {"steps": 20, "pseudo_labels": rng.choice(["off", "raw"])}
                asked = requests.post(f"{server.url}/train/student", json=body, timeout=10).status_code < 500
        time.sleep(0.1)
    training = server.jobs().get("train") if rng.random() < 0.5 else None
    with contextlib.suppress(psutil.Error):
        (training or psutil.Process(server.process.pid)).send_signal(signal.SIGKILL)
    if training is None:
        server.process.wait()


@pytest.mark.parametrize(
    ("kills", "longest"),
    [(2, 8.0), pytest.param(100, 12.0, marks=[pytest.mark.slow, pytest.mark.timeout(3 * 60 * 60)])],
)
def test_kills_at_random_moments_lose_no_label(study: TinyStudy, tmp_path: Path, kills: int, longest: float) -> None:
    """``kill -9`` of the server and of its training, while labels are saved and students are trained.

    A server lives for at most ``longest`` seconds; it needs four of them to take requests.
    """
    rng = random.Random(kills)
    server = RunningServer(study, tmp_path)
    annotator = Annotator(server, study, tmp_path, seed=kills)
    try:
        server.wait_until_up()
        annotator.start()
        for _ in range(kills):
            live_and_die(server, rng, longest)
            if server.process.poll() is not None:
                server.start_again()
        annotator.ended.set()
        annotator.join(90)
        server.wait_until_up()
        info = requests.get(f"{server.url}/info/", timeout=60).json()
        assert annotator.saved, "no label was saved, so nothing was tried"
        for case, digest in annotator.saved:
            assert digest in all_labels(study, case), f"a label of {case} was acknowledged and is lost"
        assert info["datastore"]["completed"] == len({case for case, _ in annotator.saved})

        # What is served is whole, and the next round goes through.
        def started() -> bool:
            server.wait_for("train")  # one that a kill or the schedule left under way; until then another is refused
            return requests.post(
                f"{server.url}/train/student", json={"steps": 20, "pseudo_labels": "off"}, timeout=60
            ).ok

        wait_until(started)
        assert server.wait_for("train")["status"] == "DONE"
        rounds = requests.get(f"{server.url}/samstudent/rounds", timeout=60).json()
        assert not [r for r in rounds["rounds"] if r["status"] == "running"]
        if rounds["champion"]:
            answer = requests.post(f"{server.url}/infer/student?image={CASES[0]}&output=image", timeout=120)
            assert answer.ok, answer.text
    finally:
        annotator.ended.set()
        server.stop()


def test_two_servers_on_one_folder_lose_no_label(
    server: RunningServer, study: TinyStudy, tmp_path_factory: pytest.TempPathFactory, tmp_path: Path
) -> None:
    second = RunningServer(study, tmp_path_factory.mktemp("second"))
    try:
        second.wait_until_up()

        def save(number: int) -> tuple[str, str]:
            case = CASES[number % len(CASES)]
            path = tmp_path / f"{number}.seg.nrrd"
            masks = np.roll(study.truth[case], number % 7 - 3, axis=2)
            write_masks(path, masks, study.task, read_image(study.image(case)).grid)
            url = (server, second)[number % 2].url
            with path.open("rb") as file:
                answer = requests.put(f"{url}/datastore/label?image={case}", files={"label": file}, timeout=120)
            assert answer.ok, answer.text
            return case, sha256_file(path)

        with ThreadPoolExecutor(6) as people:
            saved = list(people.map(save, range(30)))
        for case, digest in saved:
            assert digest in all_labels(study, case)
        for one in (server, second):
            listed = requests.get(f"{one.url}/datastore/?output=all", timeout=60).json()["objects"]
            assert {case for case, entry in listed.items() if "final" in entry["labels"]} == {c for c, _ in saved}
    finally:
        second.stop()


def test_incomplete_image_is_not_used_until_it_is_copied(server: RunningServer, study: TinyStudy) -> None:
    content = study.image(CASES[0]).read_bytes()
    path = study.folder / "arriving.png"
    path.write_bytes(content[: len(content) // 2])
    try:
        wait_until(lambda: "arriving" in listed(server))
        click = {"params": '{"label": "lunate", "foreground": [[31, 26, 0]], "background": [], "slice": 0}'}
        answer = requests.post(f"{server.url}/infer/sam?image=arriving&output=image", data=click, timeout=120)
        assert answer.status_code == 400 and "arriving.png" in detail(answer), answer.text
        path.write_bytes(content)
        answer = requests.post(f"{server.url}/infer/sam?image=arriving&output=image", data=click, timeout=120)
        assert answer.ok, answer.text
    finally:
        path.unlink()
        wait_until(lambda: "arriving" not in listed(server))


def test_ten_thousand_cases_are_listed_quickly(study: TinyStudy, tmp_path: Path) -> None:
    """Eight clients request samples, save labels, and find all after a restart."""
    many, people = 10_000, 8
    films = tmp_path / "films"
    shutil.copytree(study.folder / ".samstudent" / "embeddings", films / ".samstudent" / "embeddings")
    sources = {f"film{number:05}": CASES[number % len(CASES)] for number in range(many)}
    for name, source in sources.items():
        os.link(study.image(source), films / f"{name}.png")
    server = RunningServer(TinyStudy(films, study.task_file, study.task, study.truth), tmp_path)

    def annotate(person: int) -> str:
        client = server.client(f"person{person}")
        case = str(client.next_sample("uniform", {})["id"])
        path = tmp_path / f"{case}.seg.nrrd"
        write_masks(path, study.truth[sources[case]], study.task, read_image(films / f"{case}.png").grid)
        client.save_label(case, str(path), params={})
        return case

    def counts() -> tuple[int, int]:
        found = requests.get(f"{server.url}/info/", timeout=60).json()["datastore"]
        return found["total"], found["completed"]

    try:
        server.wait_until_up()
        assert counts() == (many, 0)
        with ThreadPoolExecutor(people) as pool:
            cases = list(pool.map(annotate, range(people)))
        assert len(set(cases)) == people and counts() == (many, people)
        entries = requests.get(f"{server.url}/datastore/?output=all", timeout=60).json()["objects"]
        assert {case for case, entry in entries.items() if entry["labels"]} == set(cases)
        overview = requests.get(f"{server.url}/samstudent/overview", timeout=60).json()
        assert (overview["counts"]["images"], overview["counts"]["labelled"]) == (many, people)
        os.link(study.image(CASES[0]), films / "new.png")
        wait_until(lambda: counts() == (many + 1, people))
        server.stop()
        server.start_again()
        server.wait_until_up()
        assert counts() == (many + 1, people)
    finally:
        server.stop()


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 24 MB."""
    with small_disk(tmp_path / "disk", "24m") as disk:
        yield disk


def test_full_disk_loses_nothing_and_is_reported(study: TinyStudy, disk: Path, tmp_path: Path) -> None:
    """On a full disk requests are refused, existing data is kept, and the server recovers."""
    films = disk / "films"
    films.mkdir()
    for case in CASES[:3]:
        shutil.copyfile(study.image(case), films / f"{case}.png")
    here = TinyStudy(films, study.task_file, study.task, study.truth)
    home = tmp_path / "home"
    home.mkdir()
    server = RunningServer(here, home)
    try:
        server.wait_until_up()
        client = server.client()
        client.save_label(CASES[0], str(here.label(CASES[0], home)), params={})
        kept = all_labels(here, CASES[0])
        filler = disk / "filler"
        with contextlib.suppress(OSError), filler.open("wb") as file:
            while True:
                file.write(bytes(1 << 16))
        for case in CASES[:2]:
            with here.label(case, home).open("rb") as file:
                answer = requests.put(f"{server.url}/datastore/label?image={case}", files={"label": file}, timeout=60)
            assert answer.status_code in (503, 507), answer.text
            assert "No space left" in detail(answer)
        assert all_labels(here, CASES[0]) == kept
        assert requests.get(f"{server.url}/info/", timeout=60).json()["datastore"]["completed"] == 1
        filler.unlink()
        client.save_label(CASES[1], str(here.label(CASES[1], home)), params={})
        assert requests.get(f"{server.url}/info/", timeout=60).json()["datastore"]["completed"] == 2
    finally:
        server.stop()


def listed(server: RunningServer) -> dict[str, object]:
    return dict(requests.get(f"{server.url}/datastore/?output=all", timeout=60).json()["objects"])
