"""Images that a client without a token may fetch: those that its user was just offered as his next sample.

3D Slicer's module logs in, asks for the next sample, and then has Slicer download the image, which sends no token
(MONAI 6743). Where it is switched on (``SAMSTUDENT_SLICER_DOWNLOADS``), an image that was offered to somebody who is
logged in may be read without a token: only that image, from the same address, for two minutes.
"""

from __future__ import annotations

import time
from threading import Lock

from fastapi import Request
from monailabel.endpoints.user.auth import User

from samstudent.server.auth.current_user import caller
from samstudent.util.environment import yes_or_no

SWITCH = "SAMSTUDENT_SLICER_DOWNLOADS"
SECONDS = 120.0
PATH = "/datastore/image"


class Offers:
    """Who was offered what, by address and image id."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._offered: dict[tuple[str, str], tuple[User, float]] = {}

    def add(self, image: str) -> None:
        """The caller was offered this image. Nothing is kept of one who is not logged in."""
        who, now = caller(), time.monotonic()
        if who.user is None or not who.address:
            return
        with self._lock:
            self._offered = {key: kept for key, kept in self._offered.items() if kept[1] > now}
            self._offered[who.address, image] = who.user, now + SECONDS

    def user_of(self, request: Request, path: str, address: str) -> User | None:
        """For whom a request without a token reads an image that was offered to him; None: for nobody."""
        if request.method not in ("GET", "HEAD") or path != PATH:
            return None
        with self._lock:
            user, until = self._offered.get((address, request.query_params.get("image", "")), (None, 0.0))
        return user if time.monotonic() < until else None


def configured() -> Offers | None:
    """None: not switched on. Raises UserError naming the variable, where it is neither true nor false."""
    return Offers() if yes_or_no(SWITCH, False) else None
