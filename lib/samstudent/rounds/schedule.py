"""Schedule of rounds that start automatically.

A pending trigger is computed at each check from files: the times of the labels and the start of the last concluded
round. So it survives a restart, is not lost while a training runs, and cannot be doubled.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta, tzinfo
from datetime import time as datetime_time
from pathlib import Path
from typing import Any

import tzlocal
from pydantic import BaseModel, ValidationError

from samstudent.errors import UserError
from samstudent.rounds.ledger import Ledger
from samstudent.rounds.repeat import repetition
from samstudent.rounds.round_record import RoundRecord
from samstudent.task import ScheduleSection
from samstudent.util.files import atomic_write
from samstudent.util.timer import Timer

logger = logging.getLogger(__name__)
#: Longest wait between two starts without a finished round, in seconds.
LONGEST_WAIT = 3600.0


def new_labels(label_times: Iterable[float], last_concluded: float | None, now: float) -> list[float]:
    """Times of labels that no concluded round has used: saved since the last one started.

    Times in the future (a file server's clock is ahead) do not count yet; otherwise such a label would be new after
    every round.
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
    """Reason for a round that is due, or None.

    Args:
        section: the task's schedule.
        now: seconds since 1970, as all times here.
        label_times: times at which the human labels were last saved.
        last_concluded: start of the last round that is done or failed. A failed round counts, otherwise a broken data
            set would be tried endlessly; an interrupted one does not, its trigger stays pending.
        created: time at which the schedule was set up; times of day before it do not count. A time in the future (the
            clock was set back) is ignored.
        zone: of ``section.at``; None: the server's own.
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
    """The next moment at the scheduled time of day; None: the schedule has no time of day."""
    if section.at is None:
        return None
    return next(at for at in _times(section.at, now, zone) if at.timestamp() > now)


def _last_time(at: str, now: float, zone: tzinfo | None) -> float:
    """The latest moment at the time of day ``at``, not after ``now``."""
    return max(stamp for moment in _times(at, now, zone) if (stamp := moment.timestamp()) <= now)


def _times(at: str, now: float, zone: tzinfo | None) -> list[datetime]:
    """The time of day on each day from two before to two after ``now``.

    Where the clocks go forward over ``at``, 02:30 means 03:30; where they go back and it occurs twice, the first.
    """
    # Not APScheduler's CronTrigger: version 3.11.3 skips the midnight after the spring change, and fires twice in
    # autumn.
    zone = zone or tzlocal.get_localzone()
    wall = datetime_time.fromisoformat(at)
    today = datetime.fromtimestamp(now, zone).date()
    return [datetime.combine(today + timedelta(days=days), wall, tzinfo=zone) for days in range(-2, 3)]


class _ScheduleFile(BaseModel):
    """Content of schedule.json."""

    created: float
    paused: bool = False


@dataclass(frozen=True)
class ScheduledJobs:
    """Functions of the server that the scheduler calls.

    Attributes:
        label_times: returns the times at which the human labels were last saved, seconds since 1970.
        busy: returns whether a training runs or waits.
        start: starts a round for a reason and returns at once; the round opens its record in the ledger.
    """

    label_times: Callable[[], list[float]]
    busy: Callable[[], bool]
    start: Callable[[str], object]


@dataclass(frozen=True)
class ScheduleClock:
    """Time of the scheduler.

    Attributes:
        poll_seconds: pause between two checks; also the shortest wait after a start without a finished round.
        now: returns the current time, seconds since 1970.
        zone: time zone of the time of day; None: the server's own.
    """

    poll_seconds: float = 30.0
    now: Callable[[], float] = time.time
    zone: tzinfo | None = None


class Scheduler:
    """Periodic check whether a round is due; starts it when nothing else runs.

    Args:
        section: the task's schedule.
        ledger: the study's rounds; ``schedule.json`` is in its folder.
        jobs: functions of the server.
        clock: time and pauses.
    """

    def __init__(
        self, section: ScheduleSection, ledger: Ledger, jobs: ScheduledJobs, clock: ScheduleClock = ScheduleClock()
    ) -> None:
        self.section = section
        self.ledger = ledger
        self._jobs = jobs
        self._poll_seconds, self._clock, self._zone = clock.poll_seconds, clock.now, clock.zone
        self._path: Path = ledger.folder / "schedule.json"
        self._lock = threading.RLock()
        self._timer: Timer | None = None
        self.last_error: str | None = None
        # Starts since the last concluded round, time of the latest of them, and start of that round.
        self._starts = 0
        self._started_at = 0.0
        self._concluded: float | None = None

    def run(self) -> None:
        """Start the periodic check in a thread. An error in one check is part of ``status`` and does not stop it."""
        if not self.section.automatic:
            return
        self._timer = Timer(self._poll_seconds, self.check, "schedule")

    def stop(self) -> None:
        """Stop the periodic check; running rounds continue."""
        if self._timer is not None:
            self._timer.stop()
            self._timer = None

    def pause(self, paused: bool) -> None:
        """Pause (True) or resume (False) the schedule, also across restarts. Triggers stay pending."""
        with self._lock:
            self._write(self._file().model_copy(update={"paused": paused}))

    def check(self) -> None:
        """Start a round if one is due and nothing prevents it. Raises nothing."""
        with self._lock:
            try:
                self._check()
            except Exception as error:
                logger.exception("the check whether a round is due failed")
                self.last_error = f"{type(error).__name__}: {error}"

    def status(self) -> dict[str, Any]:
        """State of the schedule, as JSON values.

        Returns:
            ``pending``: reason of a due round, or None; ``waiting``: reason why it does not start yet, or None;
            ``running``, ``last_round``: id, status, reason, times and decision, or None; ``next_time``: ISO 8601 with
            offset, of the time of day; ``new_labels``: their number since the last round; ``every_labels``, ``at``,
            ``repeat``: the task's; ``repetition``: why another round on the same labels follows the last one, or why
            not, None while a round runs or before the first; ``paused``; ``last_error``: of a check or start that
            failed, until a start succeeds or a round is concluded.
        """
        now = self._clock()
        records = self.ledger.rounds()
        running = next((r for r in reversed(records) if r.status == "running"), None)
        since = running.started if running else _concluded(records, now)
        label_times = self._jobs.label_times()
        pending = self._due(records, now, label_times, since)
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
            "repeat": self.section.repeat,
            "repetition": repetition(records).why if finished and running is None else None,
            "paused": self._file().paused,
            "last_error": self.last_error,
        }

    def _check(self) -> None:
        now = self._clock()
        if not self._path.exists():
            self._write(self._file())
        records = self.ledger.rounds()
        self._started_at = min(self._started_at, now)  # the clock may have been set back
        concluded = _concluded(records, now)
        if concluded != self._concluded:
            self._starts, self._concluded, self.last_error = 0, concluded, None
        running = next((r for r in reversed(records) if r.status == "running"), None)
        obstacle = self._obstacle(now, running)
        self._record_lost_start(records, busy=obstacle == "a training runs")
        reason = self._due(records, now, self._jobs.label_times(), concluded)
        if reason is None or obstacle is not None:
            return
        self._starts, self._started_at = self._starts + 1, now
        logger.info("the schedule starts a round: %s", reason)
        self._jobs.start(reason)
        self.last_error = None

    def _due(self, records: list[RoundRecord], now: float, label_times: list[float], since: float | None) -> str | None:
        """Reason for a round that is due: new labels (``due``), or the rise of Dice by the last round."""
        reason = due(self.section, now, label_times, since, self._file().created, self._zone)
        if (
            reason is not None
            or not (self.section.automatic and self.section.repeat)
            or any(r.status == "running" for r in records)
        ):
            return reason
        found = repetition(records)
        return found.why if found.due else None

    def _record_lost_start(self, records: list[RoundRecord], busy: bool) -> None:
        """Set ``last_error`` after a start whose process ended before it opened a round."""
        if self._starts and not busy and not any(r.started >= self._started_at for r in records):
            self.last_error = self.last_error or "a start opened no round; see the server's log"

    def _obstacle(self, now: float, running: RoundRecord | None) -> str | None:
        """Reason why a pending round may not start now, or None."""
        if self._file().paused:
            return "the schedule is paused"
        if running is not None or self._jobs.busy():
            return "a training runs"
        if self._starts:
            # Doubled each time: a process may end at once each time (out of memory, broken installation).
            wait = min(self._poll_seconds * 2 ** (self._starts - 1), LONGEST_WAIT) - (now - self._started_at)
            if wait > 0:
                return f"the last {self._starts} start(s) led to no finished round; next try in {wait:.0f} s"
        return None

    def _file(self) -> _ScheduleFile:
        """Content of schedule.json, or of a new one."""
        try:
            return _ScheduleFile.model_validate_json(self._path.read_bytes())
        except FileNotFoundError:
            return _ScheduleFile(created=self._clock())
        except ValidationError as error:
            raise UserError(
                f"{self._path}: unreadable; restore it from a backup, or rename it: a new schedule begins"
            ) from error

    def _write(self, content: _ScheduleFile) -> None:
        atomic_write(self._path, content.model_dump_json())


def _concluded(records: list[RoundRecord], now: float) -> float | None:
    """Start of the last concluded round; None: there is none.

    A start in the future does not count: the clock was set back since, and one round too many is better than none for
    days.
    """
    return max((r.started for r in records if r.status in ("done", "failed") and r.started <= now), default=None)


def _brief(record: RoundRecord | None) -> dict[str, Any] | None:
    fields = {"id", "status", "reason", "started", "finished", "promoted", "decision", "error"}
    return record.model_dump(mode="json", include=fields) if record else None
