"""Server of the demo as a separate process, and the simulated annotator as its client."""

from __future__ import annotations

import contextlib
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

#: Time limit for the start of the server, in seconds.
START_SECONDS = 180


class DemoError(Exception):
    """Error of the demo: the server did not start, or a request or job failed. The message ends with the server's."""


class Server:
    """``samstudent serve`` on a free loopback port, in a separate process group.

    Args:
        studies: study folder, or URL of a PACS.
        task_file: path of the task file.
        log: file for its standard output and error.
        data: folder for the state of a PACS (XDG_DATA_HOME); None: the user's.
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
        """Wait until /info/ responds. Raises DemoError with the end of the log if the server does not start."""
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
        """Stop the server and its child processes."""
        if self.process.poll() is None:
            self.process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(20)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


class Annotator:
    """Simulated annotator, who submits the true masks: client of MONAI Label, and HTTP for samstudent's endpoints.

    Args:
        server: running server.
        study: images of the server and true masks.
        task: task of the server.
    """

    def __init__(self, server: Server, study: DemoStudy, task: Task) -> None:
        self.url = server.url
        # A separate folder: server and client use the same file name for a result, and the server removes its file.
        self._received = tempfile.TemporaryDirectory()
        self.client = MONAILabelClient(server.url, tmpdir=self._received.name, client_id="annotator")
        self.study = study
        self.task = task

    def truth(self, case: str) -> NDArray[np.bool_]:
        """True masks of a case, bool (S, *spatial), spatial axes (y, x) or (z, y, x)."""
        image = read_image(self.image_path(case), self.task.dimension)
        return read_masks(self.study.truth[case], self.task, image.grid, bits=self.study.bits)

    def image_path(self, case: str) -> Path:
        return next(p for p in self.study.folder.iterdir() if p.name.startswith(f"{case}."))

    def submit(self, case: str) -> None:
        """Submit the true masks of a case as a final label."""
        extension = ".seg.nrrd" if self.task.overlap else ".nrrd"
        image = read_image(self.image_path(case), self.task.dimension)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f"{case}{extension}"
            write_masks(path, self.truth(case), self.task, image.grid)
            self.client.save_label(case, str(path), params={})

    def next_case(self) -> str | None:
        """Id of the case that the server offers for labelling (strategy ``random``); None if there is none."""
        return self.client.next_sample("random", {}).get("id")

    def infer(self, model: str, case: str) -> tuple[NDArray[np.bool_], dict[str, Any]]:
        """Masks bool (S, *spatial) and JSON result of a served model for a case."""
        file, result = self.client.infer(model, case, {"result_extension": ".seg.nrrd"})
        try:
            grid = read_image(self.image_path(case), self.task.dimension).grid
            return read_masks(Path(file), self.task, grid), result
        finally:
            Path(file).unlink(missing_ok=True)

    def get(self, path: str) -> Any:
        return self._json(requests.get(f"{self.url}/{path}", timeout=60))

    def find(self, path: str) -> dict[str, Any]:
        """Response to a GET request; empty if there is none (404)."""
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
