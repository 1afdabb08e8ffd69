"""Faults and attacks on this server and, for comparison, on the radiology app of the host.

    python benchmarks/faults_and_attacks.py # both servers, about ten minutes on two cores

An attack succeeds (open) by its effect, not by the response: a file outside the study was written or read, code was
executed, a header for another site was sent, gigabytes of memory were used. A fault is survived if all acknowledged
data exist and the server responds. The tests (``tests/system``) contain more attacks on our server.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import signal
import sys
import tarfile
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import requests
from rich.console import Console
from rich.table import Table
from server import ROOT, Host, Ours, Server

sys.path.insert(0, str(ROOT / "tests"))
from support import bombs

SECONDS = 60
KILLS = 3
#: Maximum memory, in bytes, for the refusal of a decompression bomb; its content is larger.
ALLOWED = 200 << 20


class Tried:
    """A server, and beside its study a folder that must stay as it is."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.outside = server.folder / "outside"
        self.outside.mkdir()
        image = server.image(server.cases[0])
        self.secret = self.outside / ("secret" + "".join(image.suffixes))
        self.secret.write_bytes(image.read_bytes())

    def request(self, method: str, path: str, **more: object) -> int:
        """The status of the answer; 0 where none came in time."""
        try:
            return requests.request(method, f"{self.server.url}/{path}", timeout=SECONDS, **more).status_code  # type: ignore[arg-type]
        except requests.Timeout:
            return 0

    def made(self, name: str, seconds: float = 0) -> bool:
        """Whether something of this name is there outside of the study now, or soon."""
        end = time.monotonic() + seconds
        while not (there := any(self.outside.glob(f"{name}*"))) and time.monotonic() < end:
            time.sleep(0.5)
        return there


# ---- holes: True where open ----


def image_elsewhere(t: Tried) -> bool:
    """PUT /datastore/image with an id that leads upward"""
    t.request("PUT", "datastore/image?image=../outside/image", files={"file": (t.secret.name, t.secret.read_bytes())})
    return t.made("image")


def label_elsewhere(t: Tried) -> bool:
    """PUT /datastore/label with an absolute path as its tag"""
    files = {"label": (f"x{t.server.ending}", t.server.label())}
    t.request("PUT", f"datastore/label?image={t.server.cases[0]}&tag={t.outside}/tag", files=files)
    return t.made("tag")


def archive_elsewhere(t: Tried) -> bool:
    """PUT /session with an archive whose member leads upward"""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as content:
        content.addfile(tarfile.TarInfo(f"../../../../../../../../../..{t.outside}/member"), io.BytesIO())
    t.request("PUT", "session/?uncompress=true", files={"files": ("x.tar", file.getvalue())})
    return t.made("member")


def training_elsewhere(t: Tried) -> bool:
    """POST /train with an absolute path as its name"""
    t.request("POST", f"train/{t.server.trainer}", json={**t.server.train(), "name": f"{t.outside}/name"})
    made = t.made("name", 60)
    t.request("DELETE", "train/")
    return made


def any_file_read(t: Tried) -> bool:
    """POST /infer with the path of a file outside the study"""
    form = {"params": json.dumps(t.server.infer("x"))}
    return t.request("POST", f"infer/{t.server.model}?image={t.secret}&output=json", data=form) == 200


def weights_taken(t: Tried) -> bool:
    """PUT /model: anybody exchanges the served weights"""
    return (
        t.request("PUT", f"model/{t.server.trainer}", files={"file": ("m.pt", bombs.code(t.outside / "code"))}) == 200
    )


def other_sites(t: Tried) -> bool:
    """A page of another site reads with the user's login"""
    origin = "https://evil.example"
    answer = requests.get(f"{t.server.url}/info/", headers={"Origin": origin}, timeout=SECONDS)
    return answer.headers.get("access-control-allow-origin") in ("*", origin)


def bomb(t: Tried) -> bool:
    """POST /infer with 0.5 MB that unpack to much more memory than 200 MiB"""
    status = Path(f"/proc/{t.server.process.pid}/status")
    Path(f"/proc/{t.server.process.pid}/clear_refs").write_text("5")

    def peak() -> int:
        return int(status.read_text().partition("VmHWM:")[2].split()[0]) << 10

    before = peak()
    kind = {".png": bombs.png(30_000), ".nii.gz": bombs.images()["extended.nii.gz"]}
    form = {"params": json.dumps(t.server.infer("x"))}
    content = kind["".join(t.secret.suffixes)]
    t.request("POST", f"infer/{t.server.model}?output=json", data=form, files={"file": (t.secret.name, content)})
    return peak() - before > ALLOWED


def all_networks(t: Tried) -> bool:
    """Listens on every network interface by default"""
    t.server.stop()
    command, t.server.command = t.server.command, lambda: without_host(command())  # type: ignore[method-assign]
    t.server.start()
    found = {c.laddr.ip for c in psutil.Process(t.server.process.pid).net_connections() if c.status == "LISTEN"}
    t.server.stop()
    t.server.command = command  # type: ignore[method-assign]
    t.server.start()
    return not found <= {"127.0.0.1", "::1"}


def without_host(command: list[str]) -> list[str]:
    if "--host" not in command:
        return command
    at = command.index("--host")
    return command[:at] + command[at + 2 :]


def mistakes_as_500(t: Tried) -> bool:
    """A client's mistake (unknown model, image, strategy; JSON that is none) is answered with 500"""
    case = t.server.cases[0]
    answers = [
        t.request("POST", f"infer/unknown?image={case}"),
        t.request("POST", f"infer/{t.server.model}?image=unknown"),
        t.request("POST", "activelearning/unknown", json={}),
        t.request("PUT", f"datastore/image/info?image={case}", data={"info": "{"}),
    ]
    return any(answer >= 500 for answer in answers)


def hangs(t: Tried) -> bool:
    """POST /reload, then the next sample: the server does not respond any more"""
    t.request("POST", "reload/")
    t.request("POST", "activelearning/random", json={})
    return t.request("GET", "info/") != 200


HOLES = (
    image_elsewhere,
    label_elsewhere,
    archive_elsewhere,
    training_elsewhere,
    any_file_read,
    weights_taken,
    other_sites,
    bomb,
    mistakes_as_500,
    all_networks,
    hangs,
)


# ---- faults: what was lost or stopped, "" where nothing was ----


def killed(t: Tried) -> str:
    """kill -9 of the server three times, while eight clients save labels"""
    saved: set[str] = set()
    lock = threading.Lock()
    cases = iter(t.server.cases[10:])

    def save(case: str) -> None:
        try:
            if t.server.save(case):
                with lock:
                    saved.add(case)
        except requests.RequestException:
            pass  # not acknowledged

    for _ in range(KILLS):
        with ThreadPoolExecutor(8) as clients:
            running = [clients.submit(save, next(cases)) for _ in range(60)]
            time.sleep(2)
            os.killpg(t.server.process.pid, signal.SIGKILL)
            t.server.process.wait()
            for future in running:
                future.result()
        t.server.start()
    return count_lost(t.server.lost(saved), len(saved))


def two_servers(t: Tried) -> str:
    """Two servers on one folder, thirty labels saved through both in turn"""
    second = t.server.second()
    try:
        cases = t.server.cases[-30:]
        saved = [(t.server, second)[index % 2].save(case) for index, case in enumerate(cases)]
        lost = t.server.lost(case for case, ok in zip(cases, saved, strict=True) if ok)
    finally:
        second.stop()
    return count_lost(lost, sum(saved))


def count_lost(lost: list[str], saved: int) -> str:
    return f"of {saved} labels {len(lost)} lost, or without who drew them" if lost else ""


def orphan(t: Tried) -> str:
    """SIGTERM of the server while it trains"""
    t.server.request("POST", f"train/{t.server.trainer}", json=t.server.train())
    t.server.wait_until(lambda: bool(t.server.request("GET", "train/").json().get("details")), 120)
    group = os.getpgid(t.server.process.pid)
    t.server.process.terminate()
    t.server.process.wait(60)
    time.sleep(5)
    left = [p.pid for p in psutil.process_iter() if p.status() != psutil.STATUS_ZOMBIE and os.getpgid(p.pid) == group]
    if left:
        os.killpg(group, signal.SIGKILL)
    t.server.start()
    return "the training runs on; after the next start it cannot be seen or stopped" if left else ""


def torn(t: Tried) -> str:
    """The study's list cut off in the middle, then a start"""
    t.server.stop()
    file = t.server.study / "datastore_v2.json"
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])
    try:
        t.server.start()
    except SystemExit:
        file.write_bytes(content)
        t.server.start()
        return "it does not start"
    listed = t.server.request("GET", "datastore/?output=all").json()["objects"]
    before = json.loads(content)["objects"]
    lost = [
        case for case in before if before[case]["labels"].keys() - listed.get(case, {"labels": {}})["labels"].keys()
    ]
    return f"labels of {len(lost)} images lost" if lost else ""


FAULTS: tuple[Callable[[Tried], str], ...] = (two_servers, orphan, torn, killed)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=["ours", "host"])
    options = parser.parse_args()
    kinds = [kind for kind in (Ours, Host) if options.only in (None, kind.__name__.lower())]
    found: dict[str, list[str]] = {}
    for kind in kinds:
        with tempfile.TemporaryDirectory() as folder:
            server = kind(Path(folder), 300)
            try:
                for case in server.cases[:6]:
                    assert server.save(case)
                tried = Tried(server)
                for fault in FAULTS:
                    add(found, fault.__doc__, fault(tried) or "survived")
                for hole in HOLES:
                    add(found, hole.__doc__, "open" if hole(tried) else "closed")
            finally:
                server.stop()
    table = Table("", *(kind.name for kind in kinds))
    for what, outcomes in found.items():
        table.add_row(what, *outcomes)
    Console(width=160).print(table)


def add(found: dict[str, list[str]], what: str | None, outcome: str) -> None:
    found.setdefault(str(what), []).append(outcome)
    Console(stderr=True).print(f"{what}: {outcome}")


if __name__ == "__main__":
    main()
