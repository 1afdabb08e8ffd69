"""Audited endpoints: the record precedes the response, and without a record nothing is changed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from samstudent.errors import Conflict
from samstudent.server.api.exception_handlers import HANDLERS
from samstudent.server.auth import audit
from samstudent.server.auth.audit import AuditLine, AuditLog, audited


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AuditLog:
    log = AuditLog(tmp_path / "audit.jsonl")
    monkeypatch.setattr(audit, "_log", log)
    return log


Client = Callable[[Callable[[], None]], Any]


@pytest.fixture
def put() -> Client:
    """Client of an endpoint that runs the given function."""

    def call(work: Callable[[], None]) -> Any:
        app = FastAPI(exception_handlers=HANDLERS)

        @app.put("/label")
        def put_label(line: Annotated[AuditLine, audited("label saved")], case: str) -> str:
            line.describe("anna", case=case)
            work()
            return "saved"

        return TestClient(app, raise_server_exceptions=False).put("/label?case=a")

    return call


def lines(log: AuditLog) -> list[dict[str, Any]]:
    return [json.loads(line) for line in log.path.read_text().splitlines()] if log.path.is_file() else []


def test_line_names_user_and_action(log: AuditLog, put: Client) -> None:
    assert put(lambda: None).json() == "saved"
    (line,) = lines(log)
    assert (line["action"], line["user"], line["case"]) == ("label saved", "anna", "a")


def test_failed_action_has_no_line(log: AuditLog, put: Client) -> None:
    def fail() -> None:
        raise Conflict("not now")

    assert put(fail).status_code == 409
    assert lines(log) == []


def test_action_is_refused_if_the_log_is_unwritable(log: AuditLog, put: Client) -> None:
    log.path.mkdir()
    done: list[bool] = []
    answer = put(lambda: done.append(True))
    assert answer.status_code == 503 and "nothing was changed" in answer.json()["detail"] and not done


def test_response_is_503_if_the_line_fails_after_the_action(log: AuditLog, put: Client) -> None:
    def work() -> None:
        log.path.unlink(missing_ok=True)
        log.path.mkdir()

    answer = put(work)
    assert answer.status_code == 503 and "label saved: its line could not be written" in answer.json()["detail"]
