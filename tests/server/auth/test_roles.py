"""Who only reads may look, and store nothing."""

from __future__ import annotations

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from monailabel.config import settings
from monailabel.endpoints import proxy, session
from monailabel.endpoints.user.auth import User, get_current_user

from samstudent.server.auth import roles


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("POST", "/proxy/dicom/stow/studies", False),
        ("POST", "/proxy/dicom/wado/studies", False),  # where OHIF stores
        ("POST", "/proxy/dicom/studies", False),
        ("GET", "/proxy/dicom/wado/studies", True),
        ("GET", "/proxy/dicom/studies", True),
        ("PUT", "/session/", False),
    ],
)
def test_a_reader_looks_at_the_pacs_and_stores_nothing(
    monkeypatch: pytest.MonkeyPatch, method: str, path: str, allowed: bool
) -> None:
    """What is stored there becomes a label. The host has one rule for both methods of an address."""
    http = FastAPI()
    for part in (proxy, session):
        http.include_router(part.router)
    roles.raise_roles(http)
    reader = User(username="eve", roles=[settings.MONAI_LABEL_AUTH_ROLE_USER])
    http.dependency_overrides[get_current_user] = lambda: reader
    monkeypatch.setattr(settings, "MONAI_LABEL_AUTH_ENABLE", True)
    answer = TestClient(http, raise_server_exceptions=False).request(method, path)
    assert (answer.status_code != 403) == allowed, answer.text
