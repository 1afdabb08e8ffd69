"""Images that may be read without a token: opt in, one image, one address, for a while."""

from __future__ import annotations

import pytest
from fastapi import Request
from monailabel.endpoints.user.auth import User

from samstudent.errors import UserError
from samstudent.serving import offers
from samstudent.serving.identity import Caller, enter, leave

ANNA = User(username="anna", email="", name="Anna", roles=["monailabel-annotator"])


def read(image: str, method: str = "GET") -> Request:
    return Request({"type": "http", "method": method, "query_string": f"image={image}".encode(), "headers": []})


def offer(offered: offers.Offers, image: str, who: Caller) -> None:
    entered = enter(who)
    offered.add(image)
    leave(entered)


def test_it_is_off_unless_somebody_switches_it_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(offers.SWITCH, raising=False)
    assert offers.configured() is None
    monkeypatch.setenv(offers.SWITCH, "yes")
    assert offers.configured() is not None
    monkeypatch.setenv(offers.SWITCH, "maybe")
    with pytest.raises(UserError, match=offers.SWITCH):
        offers.configured()


def test_only_what_was_offered_from_where_and_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr(offers.time, "monotonic", lambda: now[0])
    offered = offers.Offers()
    offer(offered, "film7", Caller("10.0.0.5", ANNA))
    assert offered.user_of(read("film7"), offers.PATH, "10.0.0.5") == ANNA
    assert offered.user_of(read("film8"), offers.PATH, "10.0.0.5") is None
    assert offered.user_of(read("film7"), offers.PATH, "10.0.0.6") is None
    assert offered.user_of(read("film7"), "/datastore/label", "10.0.0.5") is None
    assert offered.user_of(read("film7", "DELETE"), offers.PATH, "10.0.0.5") is None
    now[0] += offers.SECONDS
    assert offered.user_of(read("film7"), offers.PATH, "10.0.0.5") is None


def test_who_is_not_logged_in_leaves_nothing_behind() -> None:
    offered = offers.Offers()
    offer(offered, "film7", Caller("10.0.0.5"))
    assert offered.user_of(read("film7"), offers.PATH, "10.0.0.5") is None
