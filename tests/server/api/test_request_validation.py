"""Known attacks on the HTTP application of a small study, without a server process."""

from __future__ import annotations

import asyncio
import io
import json
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import requests
from fastapi.testclient import TestClient
from monailabel.config import settings
from monailabel.interfaces.tasks.infer_v2 import InferTask, InferType
from monailabel.interfaces.tasks.strategy import Strategy

from samstudent.errors import Conflict
from samstudent.server import http
from samstudent.server.api import logs
from samstudent.server.auth import audit
from samstudent.server.auth.roles import role_names
from samstudent.server.context import ServerContext, Tasks
from support.http_server import RolesByToken, make_context

PNG = b"\x89PNG not really"


class Echo(InferTask):  # type: ignore[misc]
    """Infer task that returns its request and a small file."""

    def __init__(self, valid: bool = True) -> None:
        super().__init__(InferType.SEGMENTATION, ["bone"], 2, "echo")
        self.valid = valid

    def is_valid(self) -> bool:
        return self.valid

    def __call__(self, request: dict[str, Any]) -> tuple[str | None, dict[str, Any]]:
        if request.get("draws"):
            with tempfile.NamedTemporaryFile(suffix=".png", delete=False) as file:
                file.write(PNG)
            return file.name, {}
        if request.get("fail"):
            raise {"conflict": Conflict("not now"), "bug": RuntimeError("secret path")}[request["fail"]]
        return None, {"image": request["image"], "device": request.get("device")}


class First(Strategy):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__("first")

    def __call__(self, request: dict[str, Any], datastore: Any) -> dict[str, str]:
        return {"id": datastore.list_images()[0]}


@pytest.fixture
def study(tmp_path: Path) -> Path:
    folder = tmp_path / "study"
    folder.mkdir()
    (folder / "a.png").write_bytes(PNG)
    (folder / "b.png").write_bytes(PNG)
    return folder


@pytest.fixture
def context(study: Path) -> ServerContext:
    models = {"echo": Echo(), "untrained": Echo(valid=False)}
    return make_context(study, tasks=Tasks(models, {}, {"first": First()}, {}))


@pytest.fixture
def client(context: ServerContext) -> Iterator[TestClient]:
    with client_of(context) as client:
        yield client


def client_of(context: ServerContext) -> TestClient:
    return TestClient(http.build(context), raise_server_exceptions=False)


def refused(response: Any, status: int, *words: str) -> None:
    assert response.status_code == status, (response.status_code, response.text)
    detail = response.json()["detail"]
    assert isinstance(detail, str)
    for word in words:
        assert word in detail


def tree(folder: Path) -> set[str]:
    """Files below, without the host's list, which is exported in the background, and temporary files of that export."""
    files = {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}
    return {name for name in files if not name.endswith(("datastore_v2.json", "-journal"))}


# ---- wrong requests answer with a reason ----


@pytest.mark.parametrize(
    ("method", "url", "status", "word"),
    [
        ("POST", "/infer/nothing?image=a", 404, "available: echo"),
        ("POST", "/infer/untrained?image=a", 404, "available: echo"),
        ("POST", "/infer/echo?image=nobody", 404, "'nobody'"),
        ("POST", "/infer/echo", 400, "session_id"),
        ("POST", "/infer/echo?image=a&output=dicom_seg", 400, "DICOMweb"),
        ("POST", "/infer/echo?session_id=x", 404, "session"),
        ("POST", "/infer/echo?session_id=2f2c0000-0000-4000-8000-000000000000", 404, "session"),
        ("POST", "/infer/echo?image=a&output=pdf", 422, "output"),
        ("POST", "/infer/wsi/echo?image=a", 403, "whole-slide"),
        ("POST", "/infer/wsi_v2/echo?image=a", 403, "whole-slide"),
        ("POST", "/activelearning/nothing", 404, "available: first"),
        ("POST", "/train/nothing", 404, "trainer"),
        ("POST", "/scoring/nothing", 404, "scoring method"),
        ("POST", "/batch/infer/nothing", 404, "available: echo"),
        ("GET", "/datastore/image?image=nobody", 404, "'nobody'"),
        ("GET", "/datastore/image/info?image=nobody", 404, "'nobody'"),
        ("PUT", "/datastore/image/info?image=nobody", 404, "'nobody'"),
        ("DELETE", "/datastore/image?id=nobody", 404, "'nobody'"),
        ("GET", "/datastore/label?label=nobody&tag=final", 404, "'nobody'"),
        ("GET", "/datastore/label?label=a&tag=final", 404, "no label 'final'"),
        ("GET", "/datastore/label/info?label=a&tag=final", 404, "no label 'final'"),
        ("PUT", "/datastore/label/info?label=a&tag=final", 404, "no label 'final'"),
        ("PUT", "/datastore/updatelabelinfo?label=a&tag=final", 404, "no label 'final'"),
        ("DELETE", "/datastore/label?id=a&tag=final", 404, "no label 'final'"),
        ("DELETE", "/datastore/label?id=a&tag=../../x", 400, "tag"),
        ("GET", "/datastore/label?label=a&tag=../../x", 400, "tag"),
        ("GET", "/datastore/dataset", 409, "nothing to export"),
        ("GET", "/datastore/dataset?limit_cases=-1", 400, "at least 1"),
        ("GET", "/session/not-a-uuid", 404, "UUID"),
        ("DELETE", "/session/%2e%2e", 404, ""),
        ("DELETE", "/session/%2e%2e%2fx", 404, ""),
        ("GET", "/proxy/dicom/qido/studies", 404, "not a DICOMweb server"),
        ("GET", "/ohif/%2e%2e", 404, ""),
        ("GET", "/model/%2e%2e", 404, ""),
        ("GET", "/no/such/page", 404, ""),
    ],
)
def test_invalid_requests_are_refused(client: TestClient, method: str, url: str, status: int, word: str) -> None:
    refused(client.request(method, url), status, word)


def test_head_requests_report_missing_files(client: TestClient) -> None:
    assert client.head("/datastore/image?image=nobody").status_code == 404
    assert client.head("/datastore/label?image=a&tag=final").status_code == 404
    assert client.head("/datastore/image?image=a").status_code == 200


@pytest.mark.parametrize("params", ["{", "[1]", "7", "[" * 100_000])
def test_params_must_be_a_json_object(client: TestClient, params: str) -> None:
    refused(client.post("/infer/echo?image=a", data={"params": params}), 400, "params", "JSON")
    upload = {"file": ("c.png", PNG)}
    refused(client.put("/datastore/image?image=c", data={"params": params}, files=upload), 400, "JSON")
    upload = {"label": ("c.png", PNG)}
    refused(client.put("/datastore/label?image=a", data={"params": params}, files=upload), 400, "JSON")
    refused(client.put("/datastore/image/info?image=a", data={"info": params}), 400, "JSON")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("image", "/etc/passwd"),
        ("image", "a"),
        ("session", {"image": "x"}),
        ("train_ds", [{"image": "x"}]),
        ("bundle_path", "x"),
        ("tracking_uri", "sqlite"),
        ("label", "/etc/passwd"),
        ("anything", {"deep": ["down", "../../x"]}),
        ("anything", {"..\\x": 1}),
        ("device", "cuda:0; rm"),
        ("device", ["cpu", 3]),
        ("gpus", "0,1;x"),
        ("gpus", 0),
        ("name", "../.."),
        ("name", "a b"),
        ("result_extension", ".py"),
        ("result_extension", 3),
        ("result_dtype", "object"),
        ("label_tag", "final"),
        ("label_tag", "pseudo"),
        ("label_tag", "version_1"),
        ("label_tag", "../x"),
        ("model", "untrained"),
    ],
)
def test_params_with_paths_or_reserved_keys_are_refused(context: ServerContext, key: str, value: Any) -> None:
    others = {"echo": object()}
    tasks = replace(context.tasks, trainers=others, scoring=others)  # type: ignore[arg-type]
    client = client_of(replace(context, tasks=tasks))
    body = {key: value}
    name = "device" if key == "device" else f"'{key}'" if key not in ("name", "label_tag") else key
    refused(client.post("/infer/echo?image=a", data={"params": json.dumps(body)}), 400, name)
    for url in ("/train/echo", "/batch/infer/echo", "/scoring/echo", "/activelearning/first"):
        refused(client.post(url, json=body), 400)
    refused(client.post("/train/", json={"echo": body}), 400)


def test_batch_inference_on_unknown_images_is_refused(client: TestClient) -> None:
    refused(client.post("/batch/infer/echo", json={"images": ["a", "nobody"]}), 404, "nobody")
    refused(client.post("/batch/infer/echo", json={"images": ["../x"]}), 400)


def test_params_of_slicer_are_accepted(client: TestClient, study: Path) -> None:
    params = {"device": "cpu", "name": "", "tracking_uri": "", "client_id": "me/desk", "label": "bone", "gpus": "all"}
    params |= {"result_extension": ".nrrd", "result_dtype": "uint8", "foreground": [[1, 2, 0]], "train_ds": ""}
    answer = client.post("/infer/echo?image=a&output=json", data={"params": json.dumps(params)})
    assert answer.json() == {"image": str(study / "a.png"), "device": "cpu"}
    assert client.post("/activelearning/first", json={"client_id": "me/desk"}).json()["id"] == "a"


def test_body_must_be_json(client: TestClient) -> None:
    refused(
        client.post("/activelearning/first", content="{", headers={"Content-Type": "application/json"}), 400, "JSON"
    )


def test_errors_have_the_status_of_their_class(client: TestClient) -> None:
    refused(client.post("/infer/echo?image=a", data={"params": '{"fail": "conflict"}'}), 409, "not now")
    answer = client.post("/infer/echo?image=a", data={"params": '{"fail": "bug"}'})
    refused(answer, 500, "RuntimeError")
    assert "secret" not in answer.text


# ---- no file outside of the study ----


@pytest.mark.parametrize("case", ["../x", "/tmp/x", "x/y", "..", ".x", "x\\y", "x\n"])
def test_image_upload_stays_in_the_study(client: TestClient, tmp_path: Path, case: str) -> None:
    before = tree(tmp_path)
    refused(client.put("/datastore/image", params={"image": case}, files={"file": ("x.png", PNG)}), 400, "image id")
    refused(client.put("/datastore/", params={"image": case}, files={"file": ("x.png", PNG)}), 400, "image id")
    assert tree(tmp_path) == before


def test_code_cannot_be_uploaded(client: TestClient, tmp_path: Path) -> None:
    before = tree(tmp_path)
    refused(client.put("/datastore/image?image=main", files={"file": ("main.py", b"import os")}), 400, "must be one of")
    refused(client.put("/datastore/label?image=a", files={"label": ("a.py", b"import os")}), 400, "must be one of")
    assert tree(tmp_path) == before


@pytest.mark.parametrize("tag", ["../x", "/tmp/x", ".history", "pseudo", "pseudo_raw", "a b"])
def test_label_upload_stays_in_the_study(client: TestClient, tmp_path: Path, tag: str) -> None:
    before = tree(tmp_path)
    answer = client.put("/datastore/label", params={"image": "a", "tag": tag}, files={"label": ("a.png", PNG)})
    refused(answer, 400, "tag")
    assert tree(tmp_path) == before


def test_names_with_dots_are_preserved(client: TestClient, study: Path) -> None:
    assert client.put("/datastore/image", files={"file": ("1.2.840.55.png", PNG)}).json() == {"image": "1.2.840.55"}
    assert (study / "1.2.840.55.png").read_bytes() == PNG
    upload = {"label": ("my.final label v1.2.nii.gz", b"label")}
    assert client.put("/datastore/label?image=1.2.840.55", files=upload).json()["label"] == "1.2.840.55"
    assert (study / "labels" / "final" / "1.2.840.55.nii.gz").read_bytes() == b"label"
    assert client.get("/datastore/label?label=1.2.840.55&tag=final").content == b"label"
    refused(client.put("/datastore/image?image=a", files={"file": ("c.png", b"other")}), 409, "'a'")


def test_image_is_only_an_id(client: TestClient, tmp_path: Path) -> None:
    secret = tmp_path / "secret.png"
    secret.write_bytes(PNG)
    for image in (str(secret), "../secret.png", "/etc/passwd"):
        refused(client.post("/infer/echo", params={"image": image}), 400, "image id")
        refused(client.get("/datastore/image", params={"image": image}), 400, "image id")


def test_checksum_is_compared(client: TestClient) -> None:
    import hashlib

    digest = hashlib.sha256(PNG).hexdigest()
    assert client.head("/datastore/image", params={"image": "a", "check_sum": f"SHA256:{digest}"}).status_code == 200
    assert client.head("/datastore/image", params={"image": "a", "check_sum": "SHA256:00"}).status_code == 404
    assert client.head("/datastore/image", params={"image": "a", "check_sum": "MD9:00"}).status_code == 404


def test_uploads_leave_nothing_behind(client: TestClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import tempfile

    (tmp_path / "temp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temp"))
    refused(client.post("/infer/echo", data={"params": '{"fail": "bug"}'}, files={"file": ("x.png", PNG)}), 500)
    refused(client.put("/datastore/label?image=a", files={"label": ("x.py", PNG)}), 400)
    assert client.put("/datastore/label?image=a", files={"label": ("x.png", PNG)}).status_code == 200
    assert client.get("/datastore/dataset").status_code == 200
    assert tree(tmp_path / "temp") == set()


def archive(kind: str, name: str) -> bytes:
    buffer = io.BytesIO()
    if kind == "zip":
        with zipfile.ZipFile(buffer, "w") as content:
            content.writestr(name, PNG)
    else:
        with tarfile.open(fileobj=buffer, mode="w:gz") as content:
            member = tarfile.TarInfo(name)
            member.size = len(PNG)
            content.addfile(member, io.BytesIO(PNG))
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["zip", "tar.gz"])
@pytest.mark.parametrize("name", ["../escaped.png", "/tmp/escaped.png", "a/../../escaped.png"])
def test_archive_members_stay_in_the_session(client: TestClient, tmp_path: Path, kind: str, name: str) -> None:
    before = tree(tmp_path)
    upload = {"files": (f"x.{kind}", archive(kind, name))}
    refused(client.put("/session/?uncompress=true", files=upload), 400, "outside")
    assert tree(tmp_path) == before and not Path("/tmp/escaped.png").exists()


def test_session_is_stored_used_and_removed(client: TestClient, tmp_path: Path) -> None:
    upload = {"files": ("x.zip", archive("zip", "deep/film.png"))}
    made = client.put("/session/?uncompress=true", files=upload).json()
    inferred = client.post(f"/infer/echo?session_id={made['session_id']}&output=json").json()
    assert (Path(inferred["image"]) / "deep" / "film.png").read_bytes() == PNG
    single = client.put("/session/", files={"files": ("film.png", PNG)}).json()
    assert client.get(f"/session/{single['session_id']}?image=true").content == PNG
    assert client.delete(f"/session/{single['session_id']}").status_code == 200
    refused(client.get(f"/session/{single['session_id']}"), 404)


@pytest.mark.parametrize("names", [["..", "b"], ["meta.info"], ["a", "a"], ["a\\b"]])
def test_invalid_session_file_names_are_refused(client: TestClient, names: list[str]) -> None:
    refused(client.put("/session/", files=[("files", (name, PNG)) for name in names]), 400)


# ---- labels: whose they are, and what they mean ----


@pytest.fixture
def lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[tuple[Any, ...]]]:
    """Action, case, tag and model of the audit records."""
    log = audit.AuditLog(tmp_path / "audit.jsonl")
    monkeypatch.setattr(audit, "_log", log)

    def read() -> list[tuple[Any, ...]]:
        found = [json.loads(line) for line in log.path.read_text().splitlines()] if log.path.exists() else []
        return [(line["action"], line["case"], line["tag"], line.get("model")) for line in found]

    return read


InfoOf = Callable[[str, str], dict[str, Any]]


@pytest.fixture
def info_of(context: ServerContext) -> InfoOf:
    return context.datastore.get_label_info  # type: ignore[no-any-return]


FORGED = {"accepted_from": {"x": 1}, "source": "pacs", "content_time": 1, "assisted_by": ["sam"]}


def test_client_cannot_mark_a_human_label_as_accepted(client: TestClient, info_of: InfoOf) -> None:
    """Any annotator may undo an acceptance; only an administrator may remove a human label."""
    params = json.dumps({**FORGED, "user": "anna"})
    assert client.put("/datastore/label?image=a", data={"params": params}, files={"label": ("a.png", PNG)}).is_success
    assert "accepted_from" not in info_of("a", "final")
    data = {"info": json.dumps({**FORGED, "user": "bob", "client_id": "bob", "note": "x"})}
    settled = {key: value for key, value in info_of("a", "final").items() if key != "note"}
    for url, field in (("label/info", "info"), ("updatelabelinfo", "params")):
        assert client.put(f"/datastore/{url}?label=a&tag=final", data={field: data["info"]}).is_success
        assert info_of("a", "final") == {**settled, "note": "x"} and settled["user"] == "anna"


@pytest.mark.parametrize("info", [{"structures": {"a": {"status": "accepted"}}}, {"structures": "x"}])
@pytest.mark.parametrize("tag", ["pseudo", "pseudo_raw"])
def test_client_cannot_change_metadata_of_pseudo_labels(
    client: TestClient, context: ServerContext, study: Path, info_of: InfoOf, tag: str, info: dict[str, Any]
) -> None:
    context.datastore.save_label("a", str(study / "b.png"), tag, {"structures": {}})
    refused(client.put(f"/datastore/label/info?label=a&tag={tag}", data={"info": json.dumps(info)}), 400, tag)
    assert info_of("a", tag)["structures"] == {}


def test_slicer_review_metadata_is_accepted(client: TestClient, lines: Callable[[], Any], info_of: InfoOf) -> None:
    assert client.put("/datastore/label?image=a", files={"label": ("a.png", PNG)}).is_success
    review = {"status": "approved", "approvedBy": "rita", "level": "easy"}
    url = "/datastore/updatelabelinfo?label=a&tag=final"
    assert client.put(url, data={"params": json.dumps({"segmentationMeta": review})}).is_success
    assert info_of("a", "final")["segmentationMeta"] == review | {"comment": "", "editTime": ""}
    assert lines() == [("label saved", "a", "final", None), ("approve", "a", "final", None)]


def test_changed_label_info_is_audited(client: TestClient, context: ServerContext, lines: Callable[[], Any]) -> None:
    assert client.put("/datastore/label?image=a", files={"label": ("a.png", PNG)}).is_success
    data = {"info": json.dumps({"label_info": [{"name": "ulna", "idx": 1}]})}
    assert client.put("/datastore/label/info?label=a&tag=final", data=data).is_success
    assert lines()[1:] == [("label changed", "a", "final", None)]
    assert len(context.datastore.labels.history.versions("final", "a")) == 1


def test_saved_inference_result_is_audited(client: TestClient, study: Path, lines: Callable[[], Any]) -> None:
    answer = client.post("/infer/echo?image=a&output=json", data={"params": '{"draws": true}'})
    assert answer.is_success and lines() == []
    kept = {"params": '{"draws": true, "save_label": true, "label_tag": "original"}'}
    assert client.post("/infer/echo?image=a&output=json", data=kept).is_success
    assert (study / "labels" / "original" / "a.png").read_bytes() == PNG
    assert lines() == [("label saved", "a", "original", "echo")]
    assert client.post("/infer/echo", data=kept, files={"file": ("x.png", PNG)}).is_success
    assert len(lines()) == 1


def test_saving_an_inference_result_requires_the_role_annotator(context: ServerContext) -> None:
    """Inference requires the role user only; saving its result requires the role that saves labels."""
    names = role_names()
    client = client_of(replace(context, login=RolesByToken({"eve": [names[0]], "anna": [*names[:2]]})))

    def infer(user: str, params: str) -> Any:
        headers = {"Authorization": f"Bearer {user}"}
        return client.post("/infer/echo?image=a&output=json", data={"params": params}, headers=headers)

    assert infer("eve", '{"save_label": false}').is_success
    refused(infer("eve", '{"save_label": "true"}'), 403, "save_label")
    assert infer("anna", '{"save_label": true}').is_success


# ---- what is closed ----


def test_body_is_not_read_without_a_pacs(context: ServerContext) -> None:
    """The upload of a viewer may have gigabytes."""
    read: list[bool] = []

    async def receive() -> dict[str, Any]:
        read.append(True)
        return {"type": "http.request", "body": b"DICOM", "more_body": True}

    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": "/proxy/dicom/stow/studies", "query_string": b"", "headers": []}
    asyncio.run(http.build(context)(scope, receive, send))
    assert sent[0]["status"] == 404 and b"not a DICOMweb server" in sent[1]["body"] and read == []


def test_weights_cannot_be_replaced(client: TestClient) -> None:
    refused(client.put("/model/echo", files={"file": ("x.pt", b"pickle")}), 403, "promot")
    refused(client.delete("/model/echo"), 403, "promot")


def test_reload_is_disabled(client: TestClient) -> None:
    refused(client.post("/reload"), 403, "restart")
    assert client.get("/info/").status_code == 200


def test_gpu_log_without_nvidia_smi_is_404(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs.shutil, "which", lambda name: None)
    refused(client.get("/logs/gpu"), 404, "nvidia-smi")


def test_log_returns_its_last_lines(client: TestClient, context: ServerContext) -> None:
    refused(client.get("/logs/"), 404, "app.log")
    context.log_file.write_text("first\nsecond\nthird\n")
    assert client.get("/logs/?lines=2").text == "second\nthird\n"
    assert client.get("/logs/?lines=0").text == client.get(f"/logs/?lines={1 << 70}").text == "first\nsecond\nthird\n"


@pytest.mark.parametrize("origin", ["http://evil.example", "http://localhost:3000", "null"])
def test_other_origins_can_read_and_change_nothing(client: TestClient, origin: str) -> None:
    """Also without a login: a page in the user's browser could reach a server on the same machine."""
    asks = {"Origin": origin}
    assert "access-control-allow-origin" not in client.get("/info/", headers=asks).headers
    preflight = client.options("/info/", headers={**asks, "Access-Control-Request-Method": "GET"})
    assert "access-control-allow-origin" not in preflight.headers
    refused(client.post("/infer/echo?image=a&output=json", headers=asks), 403, "another site")
    refused(client.post("/infer/echo?image=a&output=json", headers={"Sec-Fetch-Site": "cross-site"}), 403)
    own = {"Origin": "http://testserver"}
    assert client.post("/infer/echo?image=a&output=json", headers=own).status_code == 200


def test_configured_origins_are_allowed(context: ServerContext, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings, "MONAI_LABEL_CORS_ORIGINS", ["https://ohif.example/"])
    client = client_of(context)
    for origin, allowed in (("https://ohif.example", True), ("http://localhost:3000", False)):
        answer = client.get("/info/", headers={"Origin": origin})
        assert ("access-control-allow-origin" in answer.headers) == allowed
        sent = client.post("/infer/echo?image=a&output=json", headers={"Origin": origin})
        assert sent.status_code == (200 if allowed else 403)


def test_unreachable_pacs_or_login_provider_is_503(context: ServerContext, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise requests.ConnectionError("inner-host:8042")

    monkeypatch.setattr(context.datastore, "status", fail)
    refused(client_of(context).get("/info/"), 503, "no response")
