"""Limits on requests before they reach the application."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from fastapi import FastAPI, Request
from fastapi.testclient import TestClient

from samstudent.errors import UserError
from samstudent.server.api import limits
from samstudent.server.api.limits import MAX_BODY, RequestLimits, max_upload

JSON = {"content-type": "application/json"}
UPLOAD = {"content-type": "multipart/form-data; boundary=x"}
STORED = {"content-type": 'multipart/related; type="application/dicom"; boundary=x'}


@pytest.fixture
def client() -> Iterator[TestClient]:
    app = FastAPI()

    @app.post("/{path:path}")
    async def length(request: Request, path: str) -> int:
        return len(await request.body())

    @app.get("/length")
    async def none() -> int:
        return 0

    app.add_middleware(RequestLimits, upload=2 * MAX_BODY)
    with TestClient(app) as client:  # one event loop for all requests
        yield client


def pieces(count: int) -> Iterator[bytes]:
    for _ in range(count):
        yield b" " * (MAX_BODY // 4)


def test_bodies_within_the_limit_arrive_complete(client: TestClient) -> None:
    assert client.get("/length").json() == 0
    assert client.post("/length", content=b"[1, 2]", headers=JSON).json() == 6
    assert client.post("/length", content=pieces(4), headers={"content-type": "text/plain"}).json() == MAX_BODY
    assert client.post("/infer/sam", content=pieces(8), headers=UPLOAD).json() == 2 * MAX_BODY


@pytest.mark.parametrize(
    "path", ["/infer/student+sam", "/datastore/", "/datastore/image", "/datastore/label", "/session/"]
)
def test_forms_with_files_have_the_upload_limit(client: TestClient, path: str) -> None:
    assert client.post(path, content=pieces(8), headers=UPLOAD).json() == 2 * MAX_BODY
    for kind in ("multipart/related", "multipart/x", "multipart/form-data2"):
        assert client.post(path, content=pieces(5), headers={"content-type": kind}).status_code == 413


@pytest.mark.parametrize(
    "path",
    ["/train/student", "/infer/wsi/sam", "/batch/infer/sam", "/datastore/label/info", "/samstudent/review/a/accept"],
)
def test_other_endpoints_have_the_small_limit_for_any_content_type(client: TestClient, path: str) -> None:
    for declared in (True, False):
        for kind in (UPLOAD, STORED):
            content = b"".join(pieces(5)) if declared else pieces(5)
            response = client.post(path, content=content, headers=kind)
            assert response.status_code == 413 and f"than {MAX_BODY} bytes" in response.json()["detail"]


def test_stow_requests_have_a_limit_of_their_own(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MAX_STORED", 3 * MAX_BODY // 2)
    for path in ("/proxy/dicom/stow/studies", "/proxy/dicom/wado/studies/1.2.3", "/proxy/dicom/studies"):
        assert client.post(path, content=pieces(6), headers=STORED).json() == 3 * MAX_BODY // 2
        response = client.post(path, content=pieces(7), headers=STORED)
        assert response.status_code == 413 and "SAMSTUDENT_MAX_UPLOAD" not in response.json()["detail"]
        assert client.post(path, content=pieces(5), headers=UPLOAD).status_code == 413
    assert client.post("/proxy/dicom/qido/studies", content=pieces(5), headers=STORED).status_code == 413


@pytest.mark.parametrize("headers", [JSON, UPLOAD, {"content-type": "application/x-www-form-urlencoded"}, {}])
@pytest.mark.parametrize("declared", [True, False], ids=["length declared", "length not declared"])
def test_longer_bodies_are_refused_with_413(client: TestClient, headers: dict[str, str], declared: bool) -> None:
    content = b"".join(pieces(9)) if declared else pieces(9)
    response = client.post("/infer/sam", content=content, headers=headers)
    assert response.status_code == 413
    assert "longer than" in response.json()["detail"]


def test_long_address_is_refused_with_414(client: TestClient) -> None:
    assert client.get("/length", params={"a": "x" * 20_000}).status_code == 414


def test_upload_limit_is_configurable(monkeypatch: pytest.MonkeyPatch) -> None:
    assert max_upload() == 2 << 30
    monkeypatch.setenv("SAMSTUDENT_MAX_UPLOAD", "1000")
    assert max_upload() == 1000
    monkeypatch.setenv("SAMSTUDENT_MAX_UPLOAD", "much")
    with pytest.raises(UserError, match="SAMSTUDENT_MAX_UPLOAD"):
        max_upload()
