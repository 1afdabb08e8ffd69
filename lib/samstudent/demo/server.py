"""The real server as a process of its own, and the annotator as its client."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import requests
from monailabel.client import MONAILabelClient
from numpy.typing import NDArray

from samstudent.demo.study import DemoStudy
from samstudent.imaging.case import read_image
from samstudent.imaging.label_writing import write_masks
from samstudent.imaging.labels import read_masks
from samstudent.task import Task

START_SECONDS = 180


class DemoError(Exception):
    """The server did not start, or answered with an error; the text ends with what it said."""


class Server:
    """``samstudent serve`` on a free loopback port, in a process group of its own.

    Args:
        studies: the study folder, or a PACS's address.
        task_file: the task.
        log: where its output goes.
        data: where the state of a PACS is kept; None: where the user keeps such things.
    """

    def __init__(self, studies: Path | str, task_file: Path, log: Path, data: Path | None = None) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = log
        command = [sys.executable, "-m", "samstudent.cli.main", "serve", "--studies", str(studies)]
        command += ["--task", str(task_file), "--port", str(self.port)]
        environment = {**os.environ, "XDG_DATA_HOME": str(data)} if data else None
        with log.open("wb") as out:
            self.process = subprocess.Popen(
                command, stdout=out, stderr=subprocess.STDOUT, start_new_session=True, env=environment
            )

    def wait_until_up(self) -> None:
        """Return when /info/ answers. Raises DemoError with the end of the log when the server does not start."""
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline and self.process.poll() is None:
            try:
                if requests.get(f"{self.url}/info/", timeout=5).ok:
                    return
            except requests.ConnectionError:
                time.sleep(0.5)
        tail = "\n".join(self.log.read_text(errors="replace").splitlines()[-15:])
        self.stop()
        raise DemoError(f"the server did not start; the end of {self.log}:\n{tail}")

    def stop(self) -> None:
        """End the server and every child it started."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                pass
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.process.wait()


class Annotator:
    """A client that knows the truth: MONAI Label's own client, and plain HTTP for samstudent's endpoints."""

    def __init__(self, server: Server, study: DemoStudy, task: Task) -> None:
        self.url = server.url
        # A folder of its own: server and client name a result alike, and the server removes its file from /tmp.
        self._received = tempfile.TemporaryDirectory()
        self.client = MONAILabelClient(server.url, tmpdir=self._received.name, client_id="annotator")
        self.study = study
        self.task = task

    def truth(self, case: str) -> NDArray[np.bool_]:
        """True masks of a case, bool (S, *spatial)."""
        image = read_image(self.image_path(case), self.task.dimension)
        return read_masks(self.study.truth[case], self.task, image.grid, bits=self.study.bits)

    def image_path(self, case: str) -> Path:
        return next(p for p in self.study.folder.iterdir() if p.name.startswith(f"{case}."))

    def submit(self, case: str) -> None:
        """Send the truth as this annotator's final label."""
        extension = ".seg.nrrd" if self.task.overlap else ".nrrd"
        image = read_image(self.image_path(case), self.task.dimension)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f"{case}{extension}"
            write_masks(path, self.truth(case), self.task, image.grid)
            self.client.save_label(case, str(path), params={})

    def ask(self) -> str | None:
        """The next case to label, as the server's strategy chooses it; None when none is left."""
        return self.client.next_sample("random", {}).get("id")

    def infer(self, model: str, case: str) -> tuple[NDArray[np.bool_], dict[str, Any]]:
        """Masks bool (S, *spatial) and result JSON of a served model."""
        file, result = self.client.infer(model, case, {"result_extension": ".seg.nrrd"})
        try:
            grid = read_image(self.image_path(case), self.task.dimension).grid
            return read_masks(Path(file), self.task, grid), result
        finally:
            Path(file).unlink(missing_ok=True)

    def get(self, path: str) -> Any:
        return self._json(requests.get(f"{self.url}/{path}", timeout=60))

    def find(self, path: str) -> dict[str, Any]:
        """The answer to a GET request; empty where there is none (404)."""
        response = requests.get(f"{self.url}/{path}", timeout=60)
        return {} if response.status_code == 404 else dict(self._json(response))

    def put(self, path: str, body: dict[str, Any]) -> Any:
        return self._json(requests.put(f"{self.url}/{path}", json=body, timeout=60))

    def post(self, path: str, body: dict[str, Any]) -> Any:
        return self._json(requests.post(f"{self.url}/{path}", json=body, timeout=60))

    @staticmethod
    def _json(response: requests.Response) -> Any:
        if not response.ok:
            raise DemoError(f"{response.request.method} {response.url}: {response.status_code} {response.text}")
        return json.loads(response.text)
