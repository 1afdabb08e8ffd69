"""Images that may be read without a token: opt-in, for one image, one address, and a limited time."""

from __future__ import annotations

import pytest
from fastapi import Request

from samstudent.errors import UserError
from samstudent.server.auth import download_grants
from samstudent.server.auth.current_user import Caller, User, enter, leave

ANNA = User(username="anna", email="", name="Anna", roles=["monailabel-annotator"])


def read(image: str, method: str = "GET") -> Request:
    return Request({"type": "http", "method": method, "query_string": f"image={image}".encode(), "headers": []})


def offer(offered: download_grants.DownloadGrants, image: str, who: Caller) -> None:
    entered = enter(who)
    offered.add(image)
    leave(entered)


def test_grants_are_disabled_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(download_grants.SWITCH, raising=False)
    assert download_grants.configured() is None
    monkeypatch.setenv(download_grants.SWITCH, "yes")
    assert download_grants.configured() is not None
    monkeypatch.setenv(download_grants.SWITCH, "maybe")
    with pytest.raises(UserError, match=download_grants.SWITCH):
        download_grants.configured()


def test_grant_is_limited_to_image_address_and_time(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr(download_grants.time, "monotonic", lambda: now[0])
    offered = download_grants.DownloadGrants()
    offer(offered, "film7", Caller("10.0.0.5", ANNA))
    assert offered.user_of(read("film7"), download_grants.PATH, "10.0.0.5") == ANNA
    assert offered.user_of(read("film8"), download_grants.PATH, "10.0.0.5") is None
    assert offered.user_of(read("film7"), download_grants.PATH, "10.0.0.6") is None
    assert offered.user_of(read("film7"), "/datastore/label", "10.0.0.5") is None
    assert offered.user_of(read("film7", "DELETE"), download_grants.PATH, "10.0.0.5") is None
    now[0] += download_grants.SECONDS
    assert offered.user_of(read("film7"), download_grants.PATH, "10.0.0.5") is None


def test_caller_without_a_login_gets_no_grant() -> None:
    offered = download_grants.DownloadGrants()
    offer(offered, "film7", Caller("10.0.0.5"))
    assert offered.user_of(read("film7"), download_grants.PATH, "10.0.0.5") is None
