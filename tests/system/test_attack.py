"""Known attacks on every endpoint of the running server.

The endpoints are taken from the server's own OpenAPI description, so that a new one is attacked without a line here. A
tree beside the study must stay as it is, and nothing of it may come out.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import requests
import torch
from PIL import Image

from samstudent.errors import UserError
from samstudent.rounds.study import Study
from samstudent.util.checkpoints import load_weights
from support import bombs
from support.live_server import CASES, RunningServer, TinyStudy, detail
from support.waits import POLL_SECONDS

pytestmark = pytest.mark.server

SECRET = "canary-7b1f0c"
SESSION = requests.Session()
#: Parameters that name something; a trick in them is the client's mistake. Others are attacked too, and may ignore it.
NAMING = {"image", "id", "label", "tag", "model", "strategy", "method", "session_id", "round_id", "path", "op"}
#: Routes that the description does not list.
HIDDEN = (
    ("put", "/datastore/", {"image": "query"}),
    ("delete", "/datastore/", {"id": "query"}),
    ("put", "/datastore/updatelabelinfo", {"label": "query", "tag": "query", "params": "form"}),
    ("get", "/ohif/{path}", {"path": "path"}),
    ("get", "/static/{path}", {"path": "path"}),
    ("get", "/proxy/dicom/{op}/{path}", {"op": "path", "path": "path"}),
    ("post", "/train/", {"": "json"}),
    ("post", "/scoring/", {"": "json"}),
)
#: Keys by which the host opens files, starts code or picks another case.
KEYS = (
    "image",
    "name",
    "train_ds",
    "val_ds",
    "bundle_path",
    "load_path",
    "tracking_uri",
    "model_filename",
    "label_tag",
)
#: More memory than this is not taken by anything that is refused.
ALLOWED = 200 << 20


@dataclass
class Endpoint:
    method: str
    path: str
    #: Name -> where it goes: path, query, form, file or json.
    parameters: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.method.upper()} {self.path}"


@pytest.fixture(scope="module")
def outside(study: TinyStudy) -> Path:
    """Files beside the study: a text, an image, code. Their access times show whether they were read."""
    folder = study.folder.parent / "outside"
    folder.mkdir()
    (folder / "secret.txt").write_text(SECRET)
    Image.new("L", (64, 64), 77).save(folder / "secret.png")
    (folder / "secret.pt").write_bytes(bombs.code(folder / "made"))
    for file in folder.iterdir():
        os.utime(file, (1, 2))
    return folder


@pytest.fixture(scope="module")
def endpoints(server: RunningServer) -> list[Endpoint]:
    described = requests.get(f"{server.url}/openapi.json", timeout=30).json()
    found = [Endpoint(method, path, dict(parameters)) for method, path, parameters in HIDDEN]
    for path, methods in described["paths"].items():
        for method, what in methods.items():
            endpoint = Endpoint(
                method, path, {p["name"]: p["in"] for p in what.get("parameters", ()) if p["in"] != "header"}
            )
            for kind, body in what.get("requestBody", {}).get("content", {}).items():
                if kind == "application/json":
                    endpoint.parameters[""] = "json"
                    continue
                schema = described["components"]["schemas"][body["schema"]["$ref"].rpartition("/")[2]]
                for name, content in schema["properties"].items():
                    endpoint.parameters[name] = (
                        "file" if "binary" in json.dumps(content) or "octet" in json.dumps(content) else "form"
                    )
            found.append(endpoint)
    assert len(found) > 45, "the description lists the host's endpoints and ours"
    assert any(e.path.startswith("/samstudent/") for e in found)
    return found


@pytest.fixture(autouse=True)
def nothing_happens_outside(
    request: pytest.FixtureRequest, study: TinyStudy, server: RunningServer, outside: Path
) -> Iterator[None]:
    before = tree(study.folder.parent, study.folder)
    yield
    assert tree(study.folder.parent, study.folder) == before
    if reading_shows(study.folder.parent):
        read = [file.name for file in outside.iterdir() if file.stat().st_atime > 1]
        assert not read, f"{read} were read"
    assert server.process.poll() is None, server.tail()
    assert requests.get(f"{server.url}/info/", timeout=60).ok
    assert "Traceback" not in log_since(server, request.node.name), log_since(server, request.node.name)


_READ: dict[Path, int] = {}


def log_since(server: RunningServer, who: str) -> str:
    """Errors in the server's log since the last call."""
    text = server.log.read_text(errors="replace")
    start, _READ[server.log] = _READ.get(server.log, 0), len(text)
    new = text[start:]
    return new if "Exception in ASGI application" in new else ""


def tree(folder: Path, without: Path) -> dict[str, Any]:
    """Path -> size and modification time of all files below, except for the study."""
    return {
        str(path): (path.stat().st_size, path.stat().st_mtime_ns)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.is_relative_to(without)
    }


def reading_shows(folder: Path) -> bool:
    """Whether this file system records access times."""
    probe = folder.parent / "probe"
    probe.write_text("x")
    os.utime(probe, (1, 2))
    probe.read_text()
    shows = probe.stat().st_atime > 1
    probe.unlink()
    return shows


def tricks(outside: Path) -> dict[str, str]:
    secret = str(outside / "secret")
    return {
        "upwards": "../outside/secret",
        "further upwards": "../../../../../../../../../../etc/passwd",
        "upwards in the middle": "case00/../../outside/secret",
        "upwards, encoded": "%2e%2e%2foutside%2fsecret",
        "upwards, with backslashes": "..\\outside\\secret",
        "absolute": secret,
        "absolute, with its extension": f"{secret}.png",
        "as an address": f"file://{secret}.png",
        "of Windows": "C:\\Windows\\win.ini",
        "the folder above": "..",
        "the state": ".samstudent/tiny/state.sqlite",
        "a home": "~/.ssh/id_rsa",
        "a zero byte": "case00\0.png",
        "a line end": "case00\r\nX-Made: yes",
        "very long": "a" * 3000,
        "a wildcard": "*",
        "nothing visible": " ",
    }


def send(server: RunningServer, endpoint: Endpoint, values: dict[str, Any]) -> requests.Response:
    """Send a request with these values by parameter name; other parameters are valid."""
    right = {"image": CASES[0], "id": CASES[0], "label": CASES[0], "tag": "final", "model": "sam", "strategy": "random"}
    right |= {"method": "diversity", "round_id": "r0001", "params": "{}", "info": "{}", "paused": True}
    path, query, data, files, body = endpoint.path, {}, {}, {}, None
    for name, place in endpoint.parameters.items():
        value = values.get(name, right.get(name))
        if place == "path":
            path = path.replace(f"{{{name}}}", quote(str(value if value is not None else "x"), safe=""))
        elif place == "file":
            if name in values or name != "label" or "datastore" in path:
                content = values.get(name, ("upload.png", b"no image"))
                files["files" if name == "files" else name] = content
        elif place == "json":
            body = values.get(name, {})
        elif value is not None:
            (query if place == "query" else data)[name] = value
    path = re.sub(r"\{.*?\}", "x", path)
    content: dict[str, Any] = {"params": query, "data": data or None, "files": files or None, "json": body}
    return SESSION.request(endpoint.method, server.url + path, timeout=120, allow_redirects=False, **content)


def check(response: requests.Response, what: str, refused: bool) -> None:
    assert response.status_code < 500, f"{what}: {response.status_code} {response.text[:300]}"
    if refused:
        assert 400 <= response.status_code < 500, f"{what}: {response.status_code} {response.text[:300]}"
    assert SECRET not in response.text and "root:x:" not in response.text, what
    assert "X-Made" not in response.headers, what


def test_paths_in_names_are_refused(server: RunningServer, endpoints: list[Endpoint], outside: Path) -> None:
    """Ids, tags, names of every endpoint."""
    tried = 0
    for endpoint in endpoints:
        for name, place in endpoint.parameters.items():
            if place not in ("path", "query", "form"):
                continue
            for trick, value in list(tricks(outside).items())[: None if name in NAMING else 3]:
                if str(endpoint) in ("PUT /datastore/", "PUT /datastore/image") and trick == "upwards, encoded":
                    continue  # a new image may be called so: nothing here decodes a name twice
                response = send(server, endpoint, {name: value})
                # OHIF answers all with its one page; ".." in an address goes up before it is sent.
                free = endpoint.path.startswith("/ohif/") or (place, value) == ("path", "..")
                check(response, f"{endpoint}: {name} {trick}", refused=name in NAMING and not free)
                tried += 1
    assert tried > 400


def test_paths_in_bodies_are_refused(server: RunningServer, endpoints: list[Endpoint], outside: Path) -> None:
    """JSON of train, scoring, batch, next sample; the same in the form of infer."""
    for endpoint in endpoints:
        if "json" in endpoint.parameters.values():
            for key in KEYS:
                for trick in ("upwards", "absolute, with its extension", "as an address"):
                    value = tricks(outside)[trick]
                    for body in ({key: value}, {key: [value]}, {key: {"x": value}}):
                        check(send(server, endpoint, {"": body}), f"{endpoint}: {key} {trick}", refused=True)
        if endpoint.parameters.get("params") == "form" and endpoint.path.startswith("/infer"):
            for key in KEYS:
                params = json.dumps({key: str(outside / "secret.png")})
                check(send(server, endpoint, {"params": params}), f"{endpoint}: params {key}", refused=True)


NESTED = "[" * 100_000
JSON_TRICKS = {
    "nested": NESTED,
    "nested objects": '{"a":' * 100_000,
    "nested and closed": '{"a":' + "[" * 900 + "]" * 900 + "}",
    "no number": '{"a": NaN}',
    "infinite": '{"a": -Infinity}',
    "too large a number": '{"a": 1e999}',
    "a number of many digits": '{"a": ' + "9" * 10_000 + "}",
    "half a character": '{"a": "\\ud800"}',
    "no text": b'{"a": "\xff\xfe"}',
    "no object": "7",
    "text": '"x"',
}


def test_malicious_json_is_refused(server: RunningServer, endpoints: list[Endpoint]) -> None:
    for endpoint in endpoints:
        for trick, text in JSON_TRICKS.items():
            if "json" in endpoint.parameters.values():
                path = re.sub(r"\{.*?\}", "random" if "active" in endpoint.path else "student", endpoint.path)
                response = requests.request(
                    endpoint.method,
                    server.url + path,
                    data=text,
                    headers={"content-type": "application/json"},
                    timeout=60,
                )
                check(response, f"{endpoint}: {trick}", refused=True)
            for name in {"params", "info"} & endpoint.parameters.keys():
                if isinstance(text, str):
                    check(send(server, endpoint, {name: text}), f"{endpoint}: {name} {trick}", refused=True)
    # Whatever was taken can be answered again.
    assert requests.get(f"{server.url}/datastore/?output=all", timeout=30).ok


def test_too_long_requests_are_refused(server: RunningServer) -> None:
    """Bodies, with and without a declared length, addresses, many fields."""
    kind = {"content-type": "application/json"}
    text = '{"a": "' + "x" * (2 << 20) + '"}'
    assert requests.post(f"{server.url}/train/student", data=text, headers=kind, timeout=60).status_code == 413
    pieces = (b" " * 65536 for _ in range(64))
    assert requests.post(f"{server.url}/train/student", data=pieces, headers=kind, timeout=60).status_code == 413
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    connection.putrequest("PUT", "/datastore/image?image=large")
    connection.putheader("content-type", "multipart/form-data; boundary=x")
    connection.putheader("content-length", str(3 << 30))
    connection.endheaders()
    answer = connection.getresponse()
    assert answer.status == 413 and b"SAMSTUDENT_MAX_UPLOAD" in answer.read()
    connection.close()
    assert requests.get(f"{server.url}/datastore/image?image={'a' * 30_000}", timeout=60).status_code == 414
    fields = {f"f{i}": (None, "x" * 1000) for i in range(50)}
    response = requests.post(f"{server.url}/infer/sam?image={CASES[0]}", files=fields, timeout=60)
    assert response.status_code == 400


def test_paths_in_file_names_are_refused(server: RunningServer, endpoints: list[Endpoint], outside: Path) -> None:
    names = [
        "../outside/made.png",
        str(outside / "made.py"),
        "..",
        "a\\..\\made.png",
        "x" * 400 + ".png",
        "made.png/../x.png",
    ]
    takers = [e for e in endpoints if "file" in e.parameters.values()]
    assert len(takers) == 6  # infer, image, label, session, drawn label, draft; what is disabled reads no file
    for endpoint in takers:
        for name in names:
            given = {key: (name, b"no image") for key, place in endpoint.parameters.items() if place == "file"}
            check(send(server, endpoint, {"image": CASES[1], **given}), f"{endpoint}: file {name[:40]}", refused=False)


def peak(server: RunningServer) -> int:
    """Peak memory of the server since ``forget_peak``, bytes."""
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) << 10  # type: ignore[index]


def forget_peak(server: RunningServer) -> int:
    Path(f"/proc/{server.process.pid}/clear_refs").write_text("5")
    return peak(server)


def test_bombs_are_refused_in_little_memory(server: RunningServer, tmp_path: Path) -> None:
    """As an image of a request, as a label, in a session, in the study."""
    right = {"data": {"params": json.dumps({"label": "lunate", "foreground": [[3, 3, 0]]})}, "timeout": 120}
    for name, content in bombs.images().items():
        before = forget_peak(server)
        ways = {
            "file": requests.post(f"{server.url}/infer/sam", files={"file": (name, content)}, **right),
            "label": requests.put(
                f"{server.url}/datastore/label?image={CASES[0]}", files={"label": (name, content)}, timeout=120
            ),
        }
        session = requests.put(f"{server.url}/session/", files={"files": (name, content)}, timeout=60).json()[
            "session_id"
        ]
        ways["session"] = requests.post(f"{server.url}/infer/sam?session_id={session}", **right)
        requests.delete(f"{server.url}/session/{session}", timeout=60)
        for way, response in ways.items():
            check(response, f"{name} as {way}", refused=True)
            assert detail(response), f"{name} as {way}"
        grown = peak(server) - before
        assert grown < ALLOWED, f"{name}: {grown >> 20} MiB"
    # In the study: taken, as any file of the kind is, and no more than a bad case.
    stored = requests.put(
        f"{server.url}/datastore/image?image=bomb", files={"file": ("b.png", bombs.png())}, timeout=60
    )
    assert stored.ok
    before = forget_peak(server)
    check(requests.post(f"{server.url}/infer/sam?image=bomb", **right), "in the study", refused=True)
    assert peak(server) - before < ALLOWED
    assert requests.delete(f"{server.url}/datastore/image?id=bomb", timeout=60).ok


def test_archives_are_refused_in_little_memory(server: RunningServer) -> None:
    for name, content in bombs.archives().items():
        before = forget_peak(server)
        response = requests.put(f"{server.url}/session/?uncompress=true", files={"files": (name, content)}, timeout=120)
        check(response, name, refused=True)
        assert peak(server) - before < ALLOWED, name


def test_uploads_leave_nothing_behind(server: RunningServer) -> None:
    """After all of the above."""
    deadline = time.monotonic() + 20
    while left := [p.name for p in server.temporary.iterdir() if p.suffix in (".png", ".gz", ".dcm", ".nrrd", ".zip")]:
        assert time.monotonic() < deadline, left
        time.sleep(POLL_SECONDS)


def test_weights_with_code_are_refused_and_not_run(server: RunningServer, study: TinyStudy, tmp_path: Path) -> None:
    """Not accepted from a client; not run from the file of a student or of SAM."""
    made = tmp_path / "made"
    for call in (requests.put, requests.delete):
        files = {"files": {"file": ("m.pt", bombs.code(made))}} if call is requests.put else {}
        assert call(f"{server.url}/model/student", timeout=30, **files).status_code == 403
    ledger = Study(str(study.folder), str(study.folder), study.task).ledger
    round_id = ledger.new_round("test")
    ledger.model_path(round_id).write_bytes(bombs.code(made))
    digest = hashlib.sha256(bombs.code(made)).hexdigest()
    ledger.update(round_id, status="done", model_digest=digest)
    ledger.promote(round_id)
    assert "student" not in requests.get(f"{server.url}/info/", timeout=60).json()["models"]
    response = requests.post(f"{server.url}/infer/student?image={CASES[0]}", data={"params": "{}"}, timeout=60)
    assert 400 <= response.status_code < 500
    (tmp_path / "sam.pth").write_bytes(bombs.code(made))
    with pytest.raises(UserError):
        load_weights(torch.nn.Linear(2, 2), tmp_path / "sam.pth", "SAM")
    assert not made.exists()
