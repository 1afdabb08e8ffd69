"""When a round starts by itself.

Whether a trigger is pending is computed anew each time, from what is on disk: when labels were saved, and when the last
concluded round started. So a trigger survives a restart, is not lost while a training runs, and cannot be doubled.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable
from datetime import datetime, timedelta, tzinfo
from datetime import time as datetime_time
from pathlib import Path
from typing import Any

import tzlocal
from pydantic import BaseModel, ValidationError

from samstudent.errors import UserError
from samstudent.rounds.ledger import Ledger
from samstudent.rounds.round_record import RoundRecord
from samstudent.task import ScheduleSection
from samstudent.util.files import atomic_write
from samstudent.util.timer import Timer

logger = logging.getLogger(__name__)
#: The longest wait between two starts that came to nothing, in seconds.
LONGEST_WAIT = 3600.0


def new_labels(label_times: Iterable[float], last_concluded: float | None, now: float) -> list[float]:
    """Times of labels that no concluded round has used: saved, or saved again, since the last one started.

    Times to come (a file server's clock is ahead) wait for their time; else such a label were new after every round.
    """
    since = float("-inf") if last_concluded is None else last_concluded
    return sorted(t for t in label_times if since < t <= now)


def due(
    section: ScheduleSection,
    now: float,
    label_times: list[float],
    last_concluded: float | None,
    created: float,
    zone: tzinfo | None = None,
) -> str | None:
    """Why a round is due, or None.

    Args:
        section: the task's schedule.
        now: seconds since 1970, as all times here.
        label_times: when each case's human label was last saved.
        last_concluded: start of the last round that was done or failed. A failed one counts, else a broken data set
            would be tried for ever; an interrupted one does not, its trigger stays pending.
        created: when the schedule was first set up; times of day before it are not made up for. Unknown if it is to
            come: the clock was set back.
        zone: of ``section.at``; None: the server's own.

    Returns:
        The reason, for people.
    """
    new = new_labels(label_times, last_concluded, now)
    if section.every_labels is not None and len(new) >= section.every_labels:
        return f"{len(new)} new labels (every {section.every_labels})"
    if section.at is not None:
        latest = _last_time(section.at, now, zone)
        there_by_then = [t for t in new if t <= latest]
        if (latest >= created or created > now) and there_by_then:
            return f"{section.at} o'clock, {len(there_by_then)} new label{'s' * (len(there_by_then) > 1)}"
    return None


def next_time(section: ScheduleSection, now: float, zone: tzinfo | None = None) -> datetime | None:
    """The next time of day at which a round may start; None where the schedule has none."""
    if section.at is None:
        return None
    return next(at for at in _times(section.at, now, zone) if at.timestamp() > now)


def _last_time(at: str, now: float, zone: tzinfo | None) -> float:
    """The latest moment, not after ``now``, when the clock came to ``at``."""
    return max(stamp for moment in _times(at, now, zone) if (stamp := moment.timestamp()) <= now)


def _times(at: str, now: float, zone: tzinfo | None) -> list[datetime]:
    """The time of day on each day from two before to two after ``now``.

    Where the clocks go forward over ``at``, 02:30 means 03:30; where they go back and it comes twice, the first.
    """
    # Not APScheduler's CronTrigger: that of 3.11.3 leaves out the midnight after the spring change, and fires twice in
    # autumn.
    zone = zone or tzlocal.get_localzone()
    wall = datetime_time.fromisoformat(at)
    today = datetime.fromtimestamp(now, zone).date()
    return [datetime.combine(today + timedelta(days=days), wall, tzinfo=zone) for days in range(-2, 3)]


class _Kept(BaseModel):
    """schedule.json"""

    created: float
    paused: bool = False


class Scheduler:
    """Looks every ``poll_seconds`` whether a round is due and starts it when nothing else runs."""

    def __init__(
        self,
        section: ScheduleSection,
        ledger: Ledger,
        label_times: Callable[[], list[float]],
        busy: Callable[[], bool],
        start: Callable[[str], object],
        poll_seconds: float = 30.0,
        clock: Callable[[], float] = time.time,
        zone: tzinfo | None = None,
    ) -> None:
        """Set up; ``run`` begins the polling.

        Args:
            section: the task's schedule.
            ledger: the study's rounds; its folder keeps ``schedule.json``.
            label_times: when each case's human label was last saved, seconds since 1970.
            busy: whether a training runs or waits in the host.
            start: begins a round for the given reason and returns soon; the round opens its record in the ledger.
            poll_seconds: pause between two looks; also the shortest wait after a start that came to nothing.
            clock: the present time; for tests.
            zone: time zone of the time of day; None: the server's own.
        """
        self.section = section
        self.ledger = ledger
        self._label_times, self._busy, self._start = label_times, busy, start
        self._poll_seconds = poll_seconds
        self._clock, self._zone = clock, zone
        self._path: Path = ledger.folder / "schedule.json"
        self._lock = threading.RLock()
        self._timer: Timer | None = None
        self.last_error: str | None = None
        # Starts since the last concluded round, the time of the last of them, and that round's own start.
        self._starts = 0
        self._started_at = 0.0
        self._concluded: float | None = None

    def run(self) -> None:
        """Begin polling in a thread. After an error in one look, kept for ``status``, the next happens all the same."""
        if self.section.every_labels is None and self.section.at is None:
            return
        self._timer = Timer(self._poll_seconds, self.look, "schedule")

    def stop(self) -> None:
        """End the polling; rounds that run go on."""
        if self._timer is not None:
            self._timer.stop()
            self._timer = None

    def pause(self, paused: bool) -> None:
        """Hold (True) or release (False) the schedule, also over restarts. Triggers are kept meanwhile."""
        with self._lock:
            self._write(self._kept().model_copy(update={"paused": paused}))

    def look(self) -> None:
        """Start a round if one is due and nothing stands against it. Raises nothing."""
        with self._lock:
            try:
                self._look()
            except Exception as error:
                logger.exception("The schedule could not look whether a round is due")
                self.last_error = f"{type(error).__name__}: {error}"

    def status(self) -> dict[str, Any]:
        """What is going on, as JSON values.

        Returns:
            ``pending``: why a round is due, or None; ``waiting``: why it does not start yet, or None; ``running``,
            ``last_round``: id, status, reason, times and decision, or None; ``next_time``: ISO 8601 with offset, of the
            time of day; ``new_labels``: since the last round; ``every_labels``, ``at``: the task's; ``paused``;
            ``last_error``: of a look or start that failed, until a start succeeds or a round is concluded.
        """
        now = self._clock()
        records = self.ledger.rounds()
        running = next((r for r in reversed(records) if r.status == "running"), None)
        since = running.started if running else _concluded(records, now)
        label_times = self._label_times()
        pending = due(self.section, now, label_times, since, self._kept().created, self._zone)
        at = next_time(self.section, now, self._zone)
        finished = [r for r in records if r.status != "running"]
        return {
            "pending": pending,
            "waiting": self._obstacle(now, running) if pending else None,
            "running": _brief(running),
            "last_round": _brief(finished[-1]) if finished else None,
            "next_time": at.isoformat() if at else None,
            "new_labels": len(new_labels(label_times, since, now)),
            "every_labels": self.section.every_labels,
            "at": self.section.at,
            "paused": self._kept().paused,
            "last_error": self.last_error,
        }

    def _look(self) -> None:
        now = self._clock()
        if not self._path.exists():
            self._write(self._kept())
        records = self.ledger.rounds()
        self._started_at = min(self._started_at, now)  # the clock may have been set back
        concluded = _concluded(records, now)
        if concluded != self._concluded:
            self._starts, self._concluded, self.last_error = 0, concluded, None
        running = next((r for r in reversed(records) if r.status == "running"), None)
        obstacle = self._obstacle(now, running)
        self._notice_vanished(records, busy=obstacle == "a training runs")
        reason = due(self.section, now, self._label_times(), concluded, self._kept().created, self._zone)
        if reason is None or obstacle is not None:
            return
        self._starts, self._started_at = self._starts + 1, now
        logger.info("The schedule starts a round: %s", reason)
        self._start(reason)
        self.last_error = None

    def _notice_vanished(self, records: list[RoundRecord], busy: bool) -> None:
        """Say so when the last start left nothing behind: its process died before it opened a round."""
        if self._starts and not busy and not any(r.started >= self._started_at for r in records):
            self.last_error = self.last_error or "a start came to nothing: no round was opened; see the server's log"

    def _obstacle(self, now: float, running: RoundRecord | None) -> str | None:
        """Why a pending round may not start now."""
        if self._kept().paused:
            return "the schedule is held"
        if running is not None or self._busy():
            return "a training runs"
        if self._starts:
            # Doubled each time: a child that dies at once (out of memory, broken installation) must not be hammered.
            wait = min(self._poll_seconds * 2 ** (self._starts - 1), LONGEST_WAIT) - (now - self._started_at)
            if wait > 0:
                return f"the last {self._starts} start(s) led to no finished round; next try in {wait:.0f} s"
        return None

    def _kept(self) -> _Kept:
        """schedule.json, or what it would hold if it were made now."""
        try:
            return _Kept.model_validate_json(self._path.read_bytes())
        except FileNotFoundError:
            return _Kept(created=self._clock())
        except ValidationError as error:
            raise UserError(
                f"{self._path}: unreadable; restore it from a backup, or rename it: the schedule begins anew"
            ) from error

    def _write(self, kept: _Kept) -> None:
        atomic_write(self._path, kept.model_dump_json())


def _concluded(records: list[RoundRecord], now: float) -> float | None:
    """Start of the last one. One that is to come does not count: the clock was set back since, and labels saved now
    were never new to it. Better a round too many than none for days."""
    return max((r.started for r in records if r.status in ("done", "failed") and r.started <= now), default=None)


def _brief(record: RoundRecord | None) -> dict[str, Any] | None:
    fields = {"id", "status", "reason", "started", "finished", "promoted", "decision", "error"}
    return record.model_dump(mode="json", include=fields) if record else None
