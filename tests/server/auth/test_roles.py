"""Roles of the endpoints; higher roles include lower ones."""

from __future__ import annotations

from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from monailabel.config import settings

from samstudent.server import http
from samstudent.server.auth import roles
from samstudent.server.auth.current_user import Caller, User, enter, leave
from support.http_server import RolesByToken, make_context


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
def test_role_user_may_read_the_pacs_but_not_store(tmp_path: Path, method: str, path: str, allowed: bool) -> None:
    """Stored segmentations become labels."""
    (tmp_path / "study").mkdir()
    login = RolesByToken({"eve": [roles.role_name("user")]})
    client = TestClient(http.build(make_context(tmp_path / "study", login=login)), raise_server_exceptions=False)
    answer = client.request(method, path, headers={"Authorization": "Bearer eve"})
    assert (answer.status_code != 403) == allowed, answer.text


@pytest.mark.parametrize(
    ("given", "kept"), [(["annotator"], 2), (["monailabel-reviewer"], 3), (["admin", "annotator"], 4), (["nurse"], 0)]
)
def test_a_role_includes_those_below(given: list[str], kept: int) -> None:
    assert roles.with_lower(given) == list(roles.role_names()[:kept])


def test_login_is_required_where_configured(monkeypatch: pytest.MonkeyPatch) -> None:
    assert roles.current_user().roles == list(roles.role_names())
    monkeypatch.setattr(settings, "MONAI_LABEL_AUTH_ENABLE", True)
    with pytest.raises(roles.LoginRequired):
        roles.current_user()
    entered = enter(Caller(user=User(username="anna", roles=roles.with_lower(["annotator"]))))
    assert roles.current_user().username == "anna"
    assert roles.permissions() == {"annotate": True, "review": False, "administer": False}
    leave(entered)
