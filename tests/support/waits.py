"""Waits for something that cannot call back."""

from __future__ import annotations

import time
from collections.abc import Iterator

#: First pause between two questions whether something has happened.
POLL_SECONDS = 0.1
#: Longest pause.
LONGEST_PAUSE = 0.5


def until(seconds: float) -> Iterator[None]:
    """Turns of a loop that waits, until the time is up.

    The pause between two turns grows to a twentieth of the time so far: each question takes some of the processor that
    the server, its job or the browser needs, and a second of it in ten if asked every 0.1 s.
    """
    began = time.monotonic()
    while (waited := time.monotonic() - began) < seconds:
        yield
        time.sleep(min(max(POLL_SECONDS, waited / 20), LONGEST_PAUSE))
