"""Limit on failed logins, against guessing of passwords."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable

from samstudent.errors import UserError

#: Time for which a failure counts, seconds.
WINDOW = 300.0
#: Largest number of failures of one name from one address in that time.
MOST_OF_A_NAME = 5
#: Largest number of failures of all names from one address, which a whole hospital may share.
MOST_OF_AN_ADDRESS = 50
#: Largest number of names and addresses in memory; the oldest are dropped first.
MOST_REMEMBERED = 10_000


class Throttled(UserError):
    """Too many failed logins (HTTP 429, with Retry-After)."""

    status = 429

    def __init__(self, seconds: float) -> None:
        self.retry_after = max(1, round(seconds))
        super().__init__(f"too many failed logins; try again in {self.retry_after} seconds")


class Throttle:
    """Failed logins of the last minutes, in memory, by name and address: a stranger cannot lock out a user."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._failures: OrderedDict[tuple[str, ...], deque[float]] = OrderedDict()
        self._lock = threading.Lock()

    def check(self, name: str, address: str) -> None:
        """Raises Throttled after too many failures."""
        with self._lock:
            for key, most in self._keys(name, address):
                recent = self._recent(key)
                if len(recent) >= most:
                    raise Throttled(recent[-most] + WINDOW - self._now())

    def failed(self, name: str, address: str) -> None:
        with self._lock:
            for key, most in self._keys(name, address):
                self._failures.setdefault(key, deque(maxlen=most)).append(self._now())
                self._failures.move_to_end(key)
            while len(self._failures) > MOST_REMEMBERED:
                self._failures.popitem(last=False)

    def succeeded(self, name: str, address: str) -> None:
        with self._lock:
            self._failures.pop((name, address), None)

    @staticmethod
    def _keys(name: str, address: str) -> tuple[tuple[tuple[str, ...], int], ...]:
        return ((name, address), MOST_OF_A_NAME), ((address,), MOST_OF_AN_ADDRESS)

    def _recent(self, key: tuple[str, ...]) -> list[float]:
        return [at for at in self._failures.get(key, ()) if self._now() - at < WINDOW]
