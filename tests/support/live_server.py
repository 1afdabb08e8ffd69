"""Small study on disk, and the real server on it as a process of its own."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import requests
from monailabel.client import MONAILabelClient
from PIL import Image

from samstudent.imaging.case import for_sam, read_image
from samstudent.imaging.label_writing import write_masks
from samstudent.sam.cache import EmbeddingCache
from samstudent.sam.registry import load_backend
from samstudent.server.jobs.fork_server import FORK_SERVER_NAME
from samstudent.server.jobs.job_process import JOB_PREFIX
from samstudent.task import Task, load_task
from support.made_once import made_once
from support.waits import POLL_SECONDS, until

APP = Path(__file__).resolve().parents[2] / "apps" / "samstudent"
START_SECONDS = 120
#: Environment of a server that does not score its cases for active learning: SAM sees every slice of a volume for that.
NO_SCORES = {"MONAI_LABEL_AUTO_UPDATE_SCORING": "false"}
SIZE = 64
CASES = [f"case{index:02d}" for index in range(10)]
TASK = """\
name: tiny
dimension: 2
structures: [radius, ulna, lunate]
overlap: true
student: {network: unet, size: [64, 64], channels: [8, 16]}
training: {steps: 8, batch_size: 4, learning_rate: 0.02, rotate: 5}
pseudo_labels: {threshold: 0.0, folds: 2}
holdout: {fraction: 0.2}
"""


@dataclass
class TinyStudy:
    """Ten synthetic radiographs of three overlapping bones, 64 x 64, with their masks."""

    folder: Path
    task_file: Path
    task: Task
    truth: dict[str, np.ndarray]

    def image(self, case: str) -> Path:
        return self.folder / f"{case}.png"

    def label(self, case: str, folder: Path, by: int = 0) -> Path:
        """True masks of a case as a file of an annotator, shifted to the right by ``by`` columns."""
        path = folder / f"{case}.seg.nrrd"
        write_masks(path, np.roll(self.truth[case], by, axis=2), self.task, read_image(self.image(case)).grid)
        return path


def draw_film(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Pixels uint16 (64, 64) and masks bool (3, 64, 64): two shafts and a round bone over both."""
    y, x = np.mgrid[:SIZE, :SIZE]
    shift, tilt = rng.uniform(-4, 4), rng.uniform(-0.1, 0.1)
    middle = x - shift - tilt * (y - 40)
    radius = (abs(middle - 24) < 6) & (y > 26)
    ulna = (abs(middle - 40) < 4) & (y > 26)
    lunate = (middle - 31) ** 2 + (y - 26) ** 2 < rng.uniform(9, 12) ** 2
    masks = np.stack([radius, ulna, lunate])
    pixels = 8000 + 9000 * masks.sum(axis=0) + rng.normal(0, 600, masks.shape[1:])
    return pixels.astype(np.uint16), masks


@pytest.fixture(scope="session")
def film_embeddings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SAM's embeddings of the ten films: a folder of ``EmbeddingCache``."""

    def embed(folder: Path) -> None:
        study = draw_study(tmp_path_factory.mktemp("embedded"))
        cache, sam = EmbeddingCache(folder), load_backend(study.task.sam)
        for case in CASES:
            cache.embed(sam, for_sam(read_image(study.image(case), study.task.dimension), study.task.image))

    return made_once(tmp_path_factory, "film_embeddings", embed)


@pytest.fixture(scope="module")
def study(film_embeddings: Path, tmp_path_factory: pytest.TempPathFactory) -> TinyStudy:
    """New study for each file of tests, with precomputed embeddings."""
    made = draw_study(tmp_path_factory.mktemp("study"))
    shutil.copytree(film_embeddings, made.folder / ".samstudent" / "embeddings", copy_function=os.link)
    return made


def draw_study(root: Path) -> TinyStudy:
    """Create ten radiographs and their task in an empty folder."""
    folder = root / "films"
    folder.mkdir()
    (root / "tiny.yaml").write_text(TASK)
    truth = {}
    for index, case in enumerate(CASES):
        pixels, truth[case] = draw_film(np.random.default_rng(index))
        Image.fromarray(pixels).save(folder / f"{case}.png")
    return TinyStudy(folder, root / "tiny.yaml", load_task(root / "tiny.yaml"), truth)


class RunningServer:
    """``monailabel start_server`` with our app, in a process group of its own, on a free loopback port."""

    def __init__(
        self,
        study: TinyStudy,
        home: Path,
        *,
        main: str | None = None,
        options: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
        certificate: Path | None = None,
    ) -> None:
        """Start it.

        Args:
            study: what it serves.
            home: takes the place of the user's; for its app folder, log, sessions and temporary files.
            main: text of the app's main.py, if not ours.
            options: more of the command's.
            environment: more variables.
            certificate: the one it serves with TLS by, so that it can be trusted.
        """
        self.certificate = certificate
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.url = f"{'https' if certificate else 'http'}://127.0.0.1:{self.port}"
        self.log = home / "server.log"
        app = home / "app"
        app.mkdir()
        (app / "main.py").write_text(main or (APP / "main.py").read_text())
        command = [*self.program(app, study.task_file), "--studies", str(study.folder)]
        command += ["--host", "127.0.0.1", "--port", str(self.port), *options]
        # Its sessions, caches and temporary files go under home, not to the user's.
        self.temporary = home / "tmp"
        self.temporary.mkdir()
        self._environment = {
            **os.environ,
            "HOME": str(home),
            "TMPDIR": str(self.temporary),
            "OMP_NUM_THREADS": "1",
            "PYTHONUNBUFFERED": "1",
            **(environment or {}),
        }
        self._command, self._home = command, home
        self.start_again()

    def program(self, app: Path, task_file: Path) -> list[str]:
        """Start of the command: program, app and task."""
        command = [sys.executable, "-m", "monailabel.main", "start_server", "--app", str(app)]
        return [*command, "--conf", "task", str(task_file)]

    def start_again(self) -> None:
        """Start again with the state of the last run."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self._command,
                cwd=self._home,
                env=self._environment,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def wait_until_up(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline and self.process.poll() is None:
            try:
                answer = requests.get(
                    f"{self.url}/info/", timeout=10, verify=self.certificate and str(self.certificate)
                )
                if answer.status_code in (200, 401):
                    return
            except requests.ConnectionError:
                time.sleep(POLL_SECONDS)
        pytest.fail(f"the server did not start:\n{self.tail()}")

    def tail(self, lines: int = 40) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    def members(self) -> list[psutil.Process]:
        """Processes of the server's group, including the server and its jobs."""
        found = []
        for process in psutil.process_iter():
            try:
                if os.getpgid(process.pid) == self.process.pid and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
            except (ProcessLookupError, psutil.NoSuchProcess):
                continue
        return found

    def jobs(self) -> dict[str, psutil.Process]:
        """Kind (train, scoring, batch_infer) -> process of the running job of this kind."""
        found = {}
        for process in self.members():
            with contextlib.suppress(psutil.Error):
                name = process.name()
                if name.startswith(JOB_PREFIX) and name != FORK_SERVER_NAME:
                    found[name.removeprefix(JOB_PREFIX)] = process
        return found

    def stop(self) -> None:
        """Kill the server and all processes that it has started."""
        self.process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(10)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def client(self, name: str = "annotator") -> MONAILabelClient:
        return MONAILabelClient(self.url, client_id=name)

    def wait_for(self, method: str, seconds: float = 180) -> dict[str, Any]:
        """Wait for the end of the last job of a kind (train, batch/infer, scoring), and return it."""
        for _ in until(seconds):
            job = requests.get(f"{self.url}/{method}/", timeout=30).json()
            if job.get("status") not in ("SUBMITTED", "RUNNING"):
                return dict(job)
        pytest.fail(f"{method} did not end within {seconds} s:\n{self.tail()}")


class ServeCommand(RunningServer):
    """``samstudent serve``."""

    def program(self, app: Path, task_file: Path) -> list[str]:
        command = [sys.executable, "-m", "samstudent.cli.main", "serve", "--app", str(app)]
        return [*command, "--task", str(task_file)]


@contextmanager
def server_on(study: TinyStudy, home: Path, **options: Any) -> Iterator[RunningServer]:
    """A server that answers; it and its children are stopped at the end, also after a failure. Arguments as of
    ``RunningServer``."""
    running = RunningServer(study, home, **options)
    try:
        running.wait_until_up()
        yield running
    finally:
        running.stop()


@pytest.fixture(scope="module")
def server(study: TinyStudy, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """A server on the tiny study."""
    with server_on(study, tmp_path_factory.mktemp("home")) as running:
        yield running


@pytest.fixture
def client(server: RunningServer, tmp_path: Path) -> MONAILabelClient:
    """MONAI Label's own client, the one that 3D Slicer's module uses."""
    return MONAILabelClient(server.url, tmpdir=str(tmp_path), client_id="annotator")


def detail(response: requests.Response) -> str:
    """Reason in the JSON of an error."""
    return str(json.loads(response.text)["detail"])


def wait_until(condition: Callable[[], Any], seconds: float = 180, state: Callable[[], object] = str) -> Any:
    """Wait until a condition is true; returns its value. ``state`` is shown if it does not happen in time."""
    for _ in until(seconds):
        if found := condition():
            return found
    pytest.fail(f"it did not happen in {seconds:g} s. {state()}")
