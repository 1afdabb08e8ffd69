"""Responsiveness of the real server during inferences, which the test holds until it releases them."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import requests

from samstudent.server.concurrency import MOST_WAITING
from support.live_server import CASES, RunningServer, TinyStudy, detail, server_on, wait_until

pytestmark = pytest.mark.server

AT_ONCE = 4
#: Our app, with a model that waits for a file.
MAIN = """\
import time
from pathlib import Path

from monailabel.interfaces.tasks.infer_v2 import InferTask, InferType

from samstudent.server.app import SamstudentApp


class Held(InferTask):
    def __init__(self):
        super().__init__(InferType.SEGMENTATION, ["bone"], 2, "waits")

    def is_valid(self):
        return True

    def __call__(self, request):
        home = Path(__file__).parents[1]
        (home / "held").mkdir(exist_ok=True)
        (home / "held" / request["number"]).touch()
        while not (home / "go").exists():
            time.sleep(0.05)
        return None, {"number": request["number"]}


ours = SamstudentApp.init_infers
SamstudentApp.init_infers = lambda app: {**ours(app), "held": Held()}  # the host takes no subclass of a subclass
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def server(study: TinyStudy, home: Path) -> Iterator[RunningServer]:
    with server_on(study, home, main=MAIN, environment={"MONAI_LABEL_INFER_CONCURRENCY": str(AT_ONCE)}) as running:
        yield running


def held(server: RunningServer, number: int) -> requests.Response:
    form = {"params": json.dumps({"number": str(number)})}
    return requests.post(f"{server.url}/infer/held?image={CASES[0]}&output=json", data=form, timeout=300)


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} if folder.is_dir() else set()


def test_eight_concurrent_annotators_save_their_labels(server: RunningServer, study: TinyStudy, tmp_path: Path) -> None:
    """Each gets a different case and submits it, all at the same time; some also click in theirs."""
    start = threading.Barrier(8)

    def annotate(number: int) -> str:
        folder = tmp_path / str(number)
        folder.mkdir()
        client = server.client(f"annotator {number}")
        client._tmpdir = str(folder)
        start.wait()
        case = str(client.next_sample("random", {})["id"])
        if number < 3:
            click = {"label": "lunate", "foreground": [[31, 26, 0]], "background": [], "slice": 0}
            _, result = client.infer("sam", case, click)
            assert result["label_names"]["lunate"] == 3
        client.save_label(case, str(study.label(case, folder)), params={"client_id": f"annotator {number}"})
        return case

    with ThreadPoolExecutor(8) as people:
        cases = list(people.map(annotate, range(8)))
    assert len(set(cases)) == 8
    listed = requests.get(f"{server.url}/datastore/?output=all", timeout=30).json()["objects"]
    assert {case for case, entry in listed.items() if "final" in entry["labels"]} == set(cases)
    assert {entry["labels"]["final"]["info"]["client_id"] for case, entry in listed.items() if case in cases} == {
        f"annotator {number}" for number in range(8)
    }
    assert len(names(study.folder / "labels" / "final")) == 8


def test_concurrent_trainings_start_one(server: RunningServer) -> None:
    def start(_: int) -> int:
        return requests.post(
            f"{server.url}/train/student", json={"steps": 100_000, "pseudo_labels": "off"}, timeout=60
        ).status_code

    with ThreadPoolExecutor(4) as people:
        assert sorted(people.map(start, range(4))) == [200, 429, 429, 429]
    everything = requests.get(f"{server.url}/train/?all=true", timeout=30).json()
    assert len(everything) == 1


def test_server_responds_during_a_training_and_four_inferences(server: RunningServer, home: Path) -> None:
    """The training of the test before is still running. The test holds all inferences."""
    with ThreadPoolExecutor(AT_ONCE + MOST_WAITING) as people:
        try:
            asked = [people.submit(held, server, number) for number in range(AT_ONCE)]
            wait_until(lambda: len(names(home / "held")) == AT_ONCE or any(future.done() for future in asked))
            assert not any(future.done() for future in asked), [future.result().text for future in asked]
            assert requests.get(f"{server.url}/info/", timeout=60).json()["models"]["held"]
            assert "id" in server.client("ninth").next_sample("random", {})
            assert requests.get(f"{server.url}/train/?check_if_running=true", timeout=60).ok
            assert requests.get(f"{server.url}/datastore/image?image={CASES[1]}", timeout=60).content
            # More requests wait, up to a limit; further ones are refused with Retry-After.
            asked += [people.submit(held, server, number) for number in range(AT_ONCE, AT_ONCE + MOST_WAITING)]
            refused: list[requests.Response] = []

            def overfull() -> bool:
                answer = requests.post(f"{server.url}/infer/held?image={CASES[0]}", data={"params": "{"}, timeout=60)
                refused.append(answer)  # 400 where there is still room: it waits for its turn first
                return answer.status_code == 503

            wait_until(lambda: sum(future.running() for future in asked) == len(asked))
            time.sleep(0.5)  # the last of them may be on the wire still
            assert overfull(), refused[-1].text
            assert int(refused[-1].headers["Retry-After"]) > 0 and "inferences" in detail(refused[-1])
            assert requests.get(f"{server.url}/info/", timeout=60).ok
            assert len(names(home / "held")) == AT_ONCE and not any(future.done() for future in asked)
        finally:
            (home / "go").touch()
        assert [future.result().json()["number"] for future in asked] == [str(n) for n in range(len(asked))]
    requests.delete(f"{server.url}/train/", timeout=30)
    server.wait_for("train")


def test_synchronous_job_runs_in_a_child_process(server: RunningServer) -> None:
    """``run_sync=true``: the host would block its only process."""
    server.wait_for("scoring")
    scored = requests.post(f"{server.url}/scoring/uncertainty?run_sync=true", timeout=300)
    assert scored.json() == {"scored": 0, "current": 0, "failed": {}, "note": "there is no student that fits the task"}
    assert server.wait_for("scoring")["status"] == "DONE", server.tail()
    with ThreadPoolExecutor(1) as people:
        body = {"pseudo_labels": "off"}
        asked = people.submit(requests.post, f"{server.url}/train/student?run_sync=true", json=body, timeout=300)
        wait_until(lambda: "train" in server.jobs())
        assert requests.get(f"{server.url}/info/", timeout=60).ok and not asked.done()
        assert asked.result().json()["promoted"]
    failed = requests.post(f"{server.url}/train/sam?run_sync=true", json={"seed": -1}, timeout=60)
    assert failed.status_code == 400 and "seed" in detail(failed)


def test_temporary_folder_is_empty_afterwards(server: RunningServer) -> None:
    def left() -> set[str]:
        # Not the host's log configuration, nor the cache that torch's compiler makes when torchvision is imported.
        return {name for name in names(server.temporary) if not name.endswith(".json") and "inductor" not in name}

    wait_until(lambda: not left(), 20)
