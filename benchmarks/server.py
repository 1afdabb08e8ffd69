"""Response times of the server while it works and, for comparison, of the radiology app of the host.

    python benchmarks/server.py            # both servers, about fifteen minutes on two cores
    python benchmarks/server.py --only ours --seconds 30 --saves 200

For each server, with a thousand synthetic images:

- /info and next sample when idle, and during one training and four inferences;
- a thousand labels saved by forty clients at once, and the number of lost ones;
- (our server) memory before and after a thousand mixed requests.

The app of the host is DeepEdit on small volumes with random weights: its results are meaningless, but not its times.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import itertools
import json
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import psutil
import requests
from PIL import Image
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parents[1]

INFERENCES = 4
SAVERS = 40
TASK = """\
name: bench
dimension: 2
structures: [disk]
student: {network: unet, size: [128, 128], channels: [16, 32]}
training: {steps: 100000, batch_size: 4}
schedule: {}
"""


class Server:
    """A server as a process, on a study of drawn images."""

    name: str
    model: str
    trainer: str
    ending: str

    def __init__(self, folder: Path, images: int) -> None:
        self.folder = folder
        self.study = folder / "study"
        self.study.mkdir(parents=True)
        self.cases = [f"case{index:04d}" for index in range(images)]
        rng = np.random.default_rng(0)
        for case in self.cases:
            self.draw(case, rng)
        (folder / "tmp").mkdir()
        self.environment = {
            **os.environ,
            "TMPDIR": str(folder / "tmp"),
            "HOME": str(folder),
            "PYTHONPATH": str(ROOT / "lib"),
            "MONAI_LABEL_TRACKING_ENABLED": "false",  # E3
        }
        self.choose_port()
        self.start()

    def choose_port(self) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"

    def second(self) -> Server:
        """Another one, running on the same study."""
        other = copy.copy(self)
        other.choose_port()
        other.start()
        return other

    def image(self, case: str) -> Path:
        return next(self.study.glob(f"{case}.*"))

    def start(self) -> None:
        """As at first, with what an earlier one has left."""
        with (self.folder / "server.log").open("ab") as log:
            self.process = subprocess.Popen(
                self.command(), cwd=self.folder, env=self.environment, stdout=log, stderr=log, start_new_session=True
            )
        self.wait_until(lambda: self.answers("GET", "info/"), 300)

    def draw(self, case: str, rng: np.random.Generator) -> None:
        raise NotImplementedError

    def label(self) -> bytes:
        raise NotImplementedError

    def command(self) -> list[str]:
        raise NotImplementedError

    def train(self) -> dict[str, Any]:
        """The request for a training that does not end."""
        raise NotImplementedError

    def infer(self, case: str) -> dict[str, Any]:
        raise NotImplementedError

    def request(self, method: str, path: str, **more: Any) -> requests.Response:
        return requests.request(method, f"{self.url}/{path}", timeout=900, **more)

    def answers(self, method: str, path: str) -> bool:
        try:
            return self.request(method, path).ok
        except requests.ConnectionError:
            return False

    def wait_until(self, condition: Callable[[], bool], seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline or self.process.poll() is not None:
                sys.exit(f"{self.name}: it did not happen in time\n" + (self.folder / "server.log").read_text()[-3000:])
            time.sleep(0.5)

    def save(self, case: str) -> bool:
        form = {"params": json.dumps({"client_id": case})}
        files = {"label": (f"{case}{self.ending}", self.label())}
        return self.request("PUT", f"datastore/label?image={case}", data=form, files=files).ok

    def lost(self, saved: Iterable[str]) -> list[str]:
        """The cases, of those whose label was acknowledged, that are not in the list or lack who drew them."""
        listed = self.request("GET", "datastore/?output=all").json()["objects"]
        finals = {case: entry["labels"].get("final", {}) for case, entry in listed.items()}
        return [case for case in saved if finals.get(case, {}).get("info", {}).get("client_id") != case]

    def request_inference(self, case: str) -> requests.Response:
        form = {"params": json.dumps(self.infer(case))}
        return self.request("POST", f"infer/{self.model}?image={case}&output=json", data=form)

    def memory(self) -> float:
        """Of the server itself, GiB."""
        return psutil.Process(self.process.pid).memory_info().rss / 2**30

    def stop(self) -> None:
        self.process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(20)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)


class Ours(Server):
    name, model, trainer, ending = "samstudent", "sam", "student", ".png"

    def draw(self, case: str, rng: np.random.Generator) -> None:
        y, x = np.mgrid[:256, :256]
        inside = (y - 128) ** 2 + (x - 128) ** 2 < rng.uniform(30, 60) ** 2
        Image.fromarray((60 + 90 * inside + rng.normal(0, 10, inside.shape)).astype(np.uint8)).save(
            self.study / f"{case}.png"
        )

    def label(self) -> bytes:
        y, x = np.mgrid[:256, :256]
        path = self.folder / f"label-{threading.get_native_id()}.png"
        Image.fromarray(((y - 128) ** 2 + (x - 128) ** 2 < 45**2).astype(np.uint8)).save(path)
        return path.read_bytes()

    def command(self) -> list[str]:
        task = self.folder / "bench.yaml"
        task.write_text(TASK)
        command = [sys.executable, "-m", "samstudent.cli.main", "serve", "--studies", str(self.study)]
        return [*command, "--task", str(task), "--port", str(self.port)]

    def train(self) -> dict[str, Any]:
        return {"pseudo_labels": "off", "steps": 100000}

    def infer(self, case: str) -> dict[str, Any]:
        # One encoder pass each: no image is asked about twice in a run.
        return {"label": "disk", "foreground": [[128, 128, 0]], "background": [], "slice": 0}


class Host(Server):
    name, model, trainer, ending = "MONAI Label, radiology", "deepedit", "deepedit", ".nii.gz"

    def draw(self, case: str, rng: np.random.Generator) -> None:
        volume = rng.normal(0, 100, (48, 48, 48)).astype(np.int16)
        nibabel.save(nibabel.Nifti1Image(volume, np.eye(4)), self.study / f"{case}.nii.gz")

    def label(self) -> bytes:
        path = self.folder / f"label-{threading.get_native_id()}.nii.gz"
        nibabel.save(nibabel.Nifti1Image(np.eye(48, dtype=np.uint8)[None].repeat(48, 0), np.eye(4)), path)
        return path.read_bytes()

    def command(self) -> list[str]:
        app = self.folder / "radiology"
        shutil.copytree(Path(sys.prefix) / "monailabel" / "sample-apps" / "radiology", app, dirs_exist_ok=True)
        # Half of each side: with the whole, one training and one inference take most of a small machine's memory.
        config = app / "lib" / "configs" / "deepedit.py"
        config.write_text(config.read_text().replace("(128, 128, 128)", "(64, 64, 64)"))
        command = [sys.executable, "-m", "monailabel.main", "start_server", "--app", str(app)]
        command += ["--studies", str(self.study), "--host", "127.0.0.1", "--port", str(self.port)]
        for key, value in (("models", "deepedit"), ("use_pretrained_model", "false"), ("sam2", "false")):
            command += ["--conf", key, value]
        return command

    def train(self) -> dict[str, Any]:
        return {"max_epochs": 1000, "dataset": "Dataset", "dataloader": "DataLoader", "multi_gpu": False}

    def infer(self, case: str) -> dict[str, Any]:
        return {"device": "cpu", "spleen": [[24, 24, 24]], "background": []}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=["ours", "host"])
    parser.add_argument("--seconds", type=float, default=90, help="of each of both endpoints, idle and busy")
    parser.add_argument("--saves", type=int, default=1000)
    parser.add_argument("--requests", type=int, default=1000, help="of the memory's measurement")
    options = parser.parse_args()
    table = Table("", "", "idle p50", "idle p95", "busy p50", "busy p95", "answers")
    remarks = []
    for kind in (Ours, Host):
        if options.only and options.only != kind.__name__.lower():
            continue
        with tempfile.TemporaryDirectory() as folder:
            server = kind(Path(folder), max(options.saves, 60))
            try:
                remarks += measure(server, options, table)
            finally:
                server.stop()
    Console().print(table)
    for remark in remarks:
        Console().print(remark)


def measure(server: Server, options: argparse.Namespace, table: Table) -> list[str]:
    endpoints = {
        "GET /info/": lambda: server.request("GET", "info/"),
        "next sample": lambda: server.request("POST", "activelearning/random", json={"client_id": "bench"}),
    }
    for case in server.cases[:6]:
        assert server.save(case)
    server.request_inference(server.cases[6])
    idle = {name: timed(call, min(options.seconds, 20)) for name, call in endpoints.items()}
    remarks = [printed(memory(server, options.requests))] if isinstance(server, Ours) else []
    started = server.request("POST", f"train/{server.trainer}", json=server.train())
    assert started.ok, started.text
    server.wait_until(lambda: bool(server.request("GET", "train/").json().get("details")), 300)
    time.sleep(15)  # its imports
    done, over = [0], threading.Event()
    unseen = itertools.cycle(reversed(server.cases))

    def keep_inferring() -> None:
        while not over.is_set():
            answer = server.request_inference(next(unseen))
            assert answer.ok, answer.text
            done[0] += 1

    with ThreadPoolExecutor(INFERENCES) as clients:
        running = [clients.submit(keep_inferring) for _ in range(INFERENCES)]
        time.sleep(5)
        busy = {name: timed(call, options.seconds) for name, call in endpoints.items()}
        still = server.request("GET", "train/").json()["status"]
        over.set()
        for future in running:
            future.result()
    remarks.append(f"{server.name}: {done[0]} inferences ended meanwhile; the training was {still}")
    server.request("DELETE", "train/")
    for name in endpoints:
        values = [f"{1000 * value:.0f} ms" for value in (*idle[name][:2], *busy[name][:2])]
        table.add_row(server.name, name, *values, str(busy[name][2]))
        printed(f"{server.name}, {name}: {values}, {busy[name][2]} answers")
    remarks.append(printed(saves(server, options.saves)))
    return remarks


def printed(text: str) -> str:
    """Show at once what may take minutes to be in the table."""
    Console(stderr=True).print(text)
    return text


def timed(call: Callable[[], requests.Response], seconds: float) -> tuple[float, float, int]:
    """Median and 95th percentile of the answers' times, in seconds, and how many there were."""
    taken, end = [], time.monotonic() + seconds
    while time.monotonic() < end or len(taken) < 2:
        started = time.perf_counter()
        answer = call()
        taken.append(time.perf_counter() - started)
        assert answer.ok, answer.text
        time.sleep(0.1)
    return statistics.median(taken), statistics.quantiles(taken, n=20)[-1], len(taken)


def saves(server: Server, number: int) -> str:
    """All at once; lost is what was answered with 200 and is not in the list, or is there without its info."""
    started = time.perf_counter()
    with ThreadPoolExecutor(SAVERS) as clients:
        saved = list(clients.map(server.save, server.cases[:number]))
    seconds = time.perf_counter() - started
    time.sleep(2)
    lost = server.lost(case for case, ok in zip(server.cases[:number], saved, strict=True) if ok)
    outcome = f"{saved.count(False)} refused, {len(lost)} lost"
    return f"{server.name}: {number} saves by {SAVERS} clients in {seconds:.0f} s: {outcome}"


def memory(server: Server, number: int) -> str:
    """Mixed requests: a twentieth clicks, a quarter each saves and next samples, the rest reading."""

    def one(index: int) -> bool:
        case = server.cases[index % 60]
        if index % 20 == 0:
            return server.request_inference(case).ok
        if index % 4 == 1:
            return server.save(server.cases[index % 40])
        if index % 4 == 2:
            return server.request("POST", "activelearning/random", json={"client_id": str(index % 8)}).ok
        return server.request("GET", ("info/", "datastore/?output=all", f"datastore/image?image={case}")[index % 3]).ok

    readings = []
    with ThreadPoolExecutor(8) as clients:
        for start in range(0, number, max(1, number // 5)):
            assert all(clients.map(one, range(start, min(number, start + number // 5))))
            readings.append(server.memory())
    left = sum(path.stat().st_size for path in (server.folder / "tmp").rglob("*") if path.is_file())
    steps = ", ".join(f"{value:.2f}" for value in readings)
    return f"{server.name}: memory after each fifth of {number} mixed requests: {steps} GiB; {left} bytes left in /tmp"


if __name__ == "__main__":
    main()
