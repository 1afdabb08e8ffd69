"""Download grants: images that a client may read without a token for a short time.

3D Slicer's module logs in and requests the next sample, but then Slicer downloads the image without a token (MONAI
6743). If ``SAMSTUDENT_SLICER_DOWNLOADS`` is true, an image that was selected for a logged-in user may be read without a
token: only this image, from the same address, for two minutes.
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
    """Granted images, by network address and image id."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._grants: dict[tuple[str, str], tuple[User, float]] = {}

    def add(self, image: str) -> None:
        """Grant the current user's client access to an image; no operation without a login."""
        who, now = caller(), time.monotonic()
        if who.user is None or not who.address:
            return
        with self._lock:
            self._grants = {key: grant for key, grant in self._grants.items() if grant[1] > now}
            self._grants[who.address, image] = who.user, now + SECONDS

    def user_of(self, request: Request, path: str, address: str) -> User | None:
        """User of the grant for a request without a token; None: no grant."""
        if request.method not in ("GET", "HEAD") or path != PATH:
            return None
        with self._lock:
            user, until = self._grants.get((address, request.query_params.get("image", "")), (None, 0.0))
        return user if time.monotonic() < until else None


def configured() -> DownloadGrants | None:
    """Grants of a server; None: disabled. Raises UserError if the variable is neither true nor false."""
    return DownloadGrants() if yes_or_no(SWITCH, False) else None
