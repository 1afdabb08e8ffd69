"""Download grants: images that a client without a token may fetch, since its user was just offered them.

3D Slicer's module logs in, asks for the next sample, and then has Slicer download the image, which sends no token
(MONAI 6743). Where it is switched on (``SAMSTUDENT_SLICER_DOWNLOADS``), an image that was offered to somebody who is
logged in may be read without a token: only that image, from the same address, for two minutes.
"""

from __future__ import annotations

import time
from threading import Lock

from fastapi import Request

from samstudent.server.auth.current_user import User, caller
from samstudent.util.environment import yes_or_no

SWITCH = "SAMSTUDENT_SLICER_DOWNLOADS"
SECONDS = 120.0
PATH = "/datastore/image"


class DownloadGrants:
    """Images that were offered to a user, by network address and image id."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._grants: dict[tuple[str, str], tuple[User, float]] = {}

    def add(self, image: str) -> None:
        """Let the caller's client fetch this image; nothing happens where nobody is logged in."""
        who, now = caller(), time.monotonic()
        if who.user is None or not who.address:
            return
        with self._lock:
            self._grants = {key: kept for key, kept in self._grants.items() if kept[1] > now}
            self._grants[who.address, image] = who.user, now + SECONDS

    def user_of(self, request: Request, path: str, address: str) -> User | None:
        """User for whom a request without a token may read its image; None: no such grant."""
        if request.method not in ("GET", "HEAD") or path != PATH:
            return None
        with self._lock:
            user, until = self._grants.get((address, request.query_params.get("image", "")), (None, 0.0))
        return user if time.monotonic() < until else None


def configured() -> DownloadGrants | None:
    """Grants of a server; None: switched off. Raises UserError where the variable is neither true nor false."""
    return DownloadGrants() if yes_or_no(SWITCH, False) else None
