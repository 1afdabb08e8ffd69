"""Limits on bodies: strict JSON outside of the event loop, uploads with little memory."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Annotated, Any

import pytest
from fastapi import APIRouter, Body, FastAPI, File, UploadFile
from fastapi.testclient import TestClient

from samstudent.server.api import bounded_route
from samstudent.server.api.bounded_route import IN_MEMORY, MAX_FIELDS, BoundedRoute


@pytest.fixture
def client() -> Iterator[TestClient]:
    router = APIRouter(route_class=BoundedRoute)

    @router.post("/json")
    def post_json(body: Annotated[dict[str, Any], Body()]) -> dict[str, Any]:
        return body

    @router.post("/files")
    def post_files(files: Annotated[list[UploadFile], File()]) -> list[bool]:
        return [bool(getattr(file.file, "_rolled", None)) for file in files]

    @router.get("/loop")
    async def get_loop() -> int:
        return threading.get_ident()

    app = FastAPI()
    app.include_router(router)
    with TestClient(app) as client:  # one event loop for all requests
        yield client


@pytest.mark.parametrize("kind", ["application/json", "application/vnd.api+json"])
def test_json_is_parsed_strictly(client: TestClient, kind: str) -> None:
    def post(text: str) -> Any:
        return client.post("/json", content=text, headers={"content-type": kind})

    assert post('{"a": [1]}').json() == {"a": [1]}
    for text in ('{"a": NaN}', '{"a": 1e999}', "[" * 100_000, "{"):
        answer = post(text)
        assert answer.status_code == 400 and answer.json()["detail"].startswith("body: not valid JSON: ")
    assert post("7").status_code == 422


def test_json_is_not_parsed_on_the_event_loop(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """A long body would delay all other requests."""
    threads: list[int] = []
    monkeypatch.setattr(bounded_route, "strict_json", lambda body: threads.append(threading.get_ident()) or {})
    assert client.post("/json", json={"a": 1}).is_success
    assert len(threads) == 1 and threads[0] != client.get("/loop").json()


def test_uploads_take_little_memory(client: TestClient) -> None:
    files = [("files", ("small", b"x" * 100)), ("files", ("large", b"x" * (IN_MEMORY + 1)))]
    assert client.post("/files", files=files).json() == [False, True]


def test_many_fields_are_refused(client: TestClient) -> None:
    fields = {f"f{number}": (None, "x") for number in range(MAX_FIELDS + 1)}
    answer = client.post("/files", files={"files": ("a", b"x"), **fields})  # type: ignore[dict-item]
    assert answer.status_code == 400 and "fields" in answer.json()["detail"]
