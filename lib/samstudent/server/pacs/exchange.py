"""Both sides brought up to date: new images and segmentations of the PACS come in, labels go out.

What has to go out is worked out, not queued: every label of which the PACS is not known to have this version. So there
is no queue to lose, and a label saved while the PACS is away, or by another process, goes out like any other.
"""

from __future__ import annotations

import logging
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from samstudent.errors import Unavailable, UserError
from samstudent.server.pacs import incoming, outgoing
from samstudent.server.pacs.client import Refused, Series
from samstudent.server.pacs.listing import Reference, films, is_volume, volume

if TYPE_CHECKING:
    from samstudent.server.pacs.datastore import PacsDatastore

logger = logging.getLogger(__name__)

PSEUDO = "pseudo"
#: A label that the PACS refused, or that cannot be made a segmentation, is tried again after so long.
TRY_AGAIN_SECONDS = 600.0
#: While the PACS is away it is looked for at most this seldom.
LONGEST_PAUSE = 30.0
#: A look that finds a whole new PACS tells of what it has after so long, and goes on.
LONGEST_LOOK = 20.0
#: So many segmentations that did not become labels are told of.
TOLD = 20
#: A look takes at most this share of the time: a large PACS is looked at less often.
SHARE_OF_TIME = 0.1


@dataclass
class State:
    """How the connection is, for people."""

    connected: bool | None = None
    #: Why it is not.
    reason: str = ""
    #: Seconds since 1970: since when it is so; when everything was last looked at.
    since: float = field(default_factory=time.time)
    looked: float | None = None


class Exchange:
    """The traffic of one study with its PACS. ``start`` lets it go on by itself; only the server does that."""

    def __init__(self, datastore: PacsDatastore) -> None:
        self.datastore = datastore
        self.pacs, self.memory, self.task = datastore.pacs, datastore.memory, datastore.task
        self.state = State()
        self._mutex = threading.Lock()
        self._wake = threading.Event()
        self._thread: threading.Thread | None = None
        #: Whether the last look came to its end.
        self._complete = True
        #: Series -> number of images at the last look; of those that are no case, and of those that are growing.
        self._counts: dict[str, int] = {}
        #: Series of segmentations -> the image series they belong to, which is not in the study.
        self._homeless: dict[str, str] = {}
        self._server = self.memory.fact("server", uuid.uuid4().hex)

    # ---- going on by itself ----

    def start(self) -> None:
        """Look and send from now on, in a thread of its own, until the process ends."""
        self._thread = threading.Thread(target=self._run, name="pacs", daemon=True)
        self._thread.start()

    def wake(self) -> None:
        """A label was saved: send it now."""
        self._wake.set()

    def _run(self) -> None:
        pause = 0.0
        while True:
            if self._wake.wait(pause):
                self._wake.clear()
                self._guarded(self.send)
            started = time.monotonic()
            if self._guarded(lambda: self.look(LONGEST_LOOK)):
                pause = max(self.pacs.settings.poll_seconds, (time.monotonic() - started) / SHARE_OF_TIME)
                if not self._complete:
                    pause = 0.0
            else:
                pause = min(max(2 * pause, self.pacs.settings.poll_seconds), LONGEST_PAUSE)

    @staticmethod
    def _guarded(action: Any) -> bool:
        try:
            action()
        except Unavailable:
            return False  # noted in the state, and logged once
        except Exception:
            logger.exception("the exchange with the PACS goes on after an error")
            return False
        return True

    # ---- one look ----

    def look(self, seconds: float = float("inf")) -> None:
        """Take in what is new in the PACS, and send what it lacks.

        Args:
            seconds: after so long this look takes in nothing further; the next one goes on.

        Raises:
            Unavailable: the PACS is away, or answers nonsense; nothing was changed by that.
        """
        end = time.monotonic() + seconds
        self._complete = True
        with self._mutex, self._noting(proves=True):
            listed = self.pacs.series()
            self._take_cases([series for series in listed if series.modality != "SEG"], end)
            self._take_segmentations([series for series in listed if series.modality == "SEG"], end)
            self.state.looked = time.time()
        self.send()

    def send(self) -> None:
        """Send the labels that the PACS lacks, humans' first. Raises Unavailable; the rest goes with the next call."""
        with self._mutex, self._noting(proves=False):
            for case, tag, version in sorted(self.waiting(again=True), key=lambda label: label[1] == PSEUDO):
                if tag == PSEUDO and self._wake.is_set():
                    return  # somebody has just saved a label and is waiting
                self._send_one(case, tag, version)

    def _send_one(self, case: str, tag: str, version: str) -> None:
        series, instance = self._uids(case, tag, version)
        # Noted before, lest it be taken for another's if this process ends right after.
        self.memory.saw(instance, case, "sent by this server")
        try:
            outgoing.send(self.datastore, case, tag, (series, instance))
        except Exception as error:
            if isinstance(error, Unavailable) and not isinstance(error, Refused):
                raise
            # One label that cannot be sent, whatever the reason, must not hold up the others.
            log = logger.error if isinstance(error, UserError) else logger.exception
            log("label %r of %s is not in the PACS: %s", tag, case, error)
            self.memory.had_trouble(case, tag, version, str(error) or type(error).__name__)
            return
        self._note(None)
        if self.datastore.version(case, tag) == version:  # else another was saved meanwhile, and perhaps sent
            self.memory.put_there(case, tag, version, series, instance)

    def waiting(self, again: bool = False) -> Iterator[tuple[str, str, str]]:
        """(case, tag, version) of each label that should be in the PACS and is not known to be.

        ``again``: leave out those that were tried in vain a short while ago.
        """
        there = self.memory.there()
        # Not "less than": where the clock was set back, it would wait until then.
        late = {k for k, (_, tried) in self.memory.troubles().items() if abs(time.time() - tried) < TRY_AGAIN_SECONDS}
        for label in self.datastore.labels_to_send():
            if label not in there and not (again and label in late):
                yield label

    def wait_for(self, case: str, tag: str, seconds: float) -> None:
        """Return when this label is in the PACS, cannot be sent, or the time is up."""
        end = time.monotonic() + seconds
        while time.monotonic() < end and self._thread is not None and self.state.connected is not False:
            version = self.datastore.version(case, tag)
            if self.memory.where(case, tag, version) or (case, tag, version) in self.memory.troubles():
                return
            time.sleep(0.05)

    def status(self) -> dict[str, Any]:
        """For people and for the server's page."""
        troubles = self.memory.troubles()
        state = {True: "connected", False: "away", None: "not asked yet"}[self.state.connected]
        return {
            "url": self.pacs.url,
            "state": state,
            "reason": self.state.reason,
            "since": self.state.since,
            "looked": self.state.looked,
            "cases": len(self.datastore.list_images()),
            "waiting": [
                {"case": case, "tag": tag, "reason": troubles.get((case, tag, version), ("not sent yet",))[0]}
                for case, tag, version in self.waiting()
            ],
            "left_out": self.memory.left_out(TOLD),
            "unreadable": [{"case": case, "reason": why} for case, why in self.datastore.unreadable().items()],
        }

    # ---- steps ----

    def _take_cases(self, listed: Sequence[Series], end: float) -> None:
        """Make the study's list that of the PACS."""
        before = self.datastore.references()
        by_series: dict[str, list[Reference]] = {}
        for reference in before.values():
            by_series.setdefault(reference.series, []).append(reference)
        after: dict[str, Reference] = {}
        counts: dict[str, int] = {}
        for series in listed:
            known = by_series.get(series.uid, [])
            if not known and series.uid not in self._counts and time.monotonic() > end:
                self._complete = False
                continue
            try:
                found = self._cases_of(series, known)
            except Refused as error:  # one series that the PACS only lists must not hide the others
                logger.warning("series %s: %s", series.uid, error)
                found = known
            after |= {reference.case: reference for reference in found}
            counts[series.uid] = series.images
        self._counts = counts
        self.datastore.put_references(after)

    def _cases_of(self, series: Series, known: list[Reference]) -> list[Reference]:
        last = self._counts.get(series.uid)
        if series.images == 0 and not known and last is None:  # a PACS that does not count
            series = replace(series, images=len(self.pacs.instances(series.study, series.uid)))
        elif series.images == 0:
            return known
        if series.images == (known[0].images if known else last):
            return known
        if is_volume(series):
            if self.task.dimension != 3:
                return []
            # Slices come one by one: it is a case when no more have come since the last look.
            settled = last == series.images or (last is None and not self._counts)
            return [volume(series)] if settled else known
        if self.task.dimension != 2:
            return []
        instances = self.pacs.instances(series.study, series.uid)
        return films(series, instances, {r.image: r.case for r in known if r.image})

    def _take_segmentations(self, listed: Sequence[Series], end: float) -> None:
        """Take in what others have stored; a human's becomes the label of its case."""
        looked = self.memory.looked_through()
        references = self.datastore.references()
        in_study = {reference.series for reference in references.values()}
        found: list[incoming.Found] = []
        with tempfile.TemporaryDirectory() as folder:
            done: list[Series] = []
            for series in listed:
                source = self._homeless.get(series.uid)
                known = looked.get(series.uid) == series.images and series.images
                if known or (source is not None and source not in in_study):
                    continue
                if time.monotonic() > end:
                    self._complete = False
                    break
                found += self._fetched(series, Path(folder))
                done.append(series)
            for item in sorted(found, key=lambda item: item.time):  # the newest last, it stays in force
                incoming.take(self.datastore, item, references)
        for series in done:
            strange = [i.source for i in found if i.series == series.uid and i.source and i.source not in in_study]
            if strange:  # asked again when these images come into the study
                self._homeless[series.uid] = strange[0]
            else:
                self._homeless.pop(series.uid, None)
                self.memory.look_done(series.uid, series.images)

    def _fetched(self, series: Series, folder: Path) -> Iterator[incoming.Found]:
        """The segmentations of a series that were not seen before."""
        try:
            instances = self.pacs.instances(series.study, series.uid)
        except Refused as error:
            logger.warning("segmentations of series %s: %s", series.uid, error)
            return
        for instance in instances:
            if self.memory.has_seen(instance.uid):
                continue
            try:
                path = self.pacs.fetch_instance(series.study, series.uid, instance.uid, folder)
            except Refused as error:
                logger.warning("segmentation %s: %s", instance.uid, error)
                self.memory.saw(instance.uid, None, f"left out: {error}")
                continue
            yield incoming.read(path, series.uid, instance.uid)

    def _uids(self, case: str, tag: str, version: str) -> tuple[str, str]:
        """Series and instance of a label's segmentation: the same whenever it is sent, so that it is there once."""
        name = f"{self._server}/{case}/{tag}/{version}"
        series, instance = (uuid.uuid5(uuid.NAMESPACE_URL, f"{name}/{kind}") for kind in ("series", "instance"))
        return f"2.25.{series.int}", f"2.25.{instance.int}"

    @contextmanager
    def _noting(self, proves: bool) -> Iterator[None]:
        """Keep the state as a block of talking to the PACS finds it. ``proves``: done, it has shown that it answers."""
        try:
            yield
        except Unavailable as error:
            self._note(error)
            raise
        if proves:
            self._note(None)

    def _note(self, error: Unavailable | None) -> None:
        """A change is logged once."""
        connected = error is None
        if connected != self.state.connected:
            if connected:
                logger.info("PACS %s: connected", self.pacs.url)
            else:
                logger.error("%s; the server goes on with what it has, and tries again", error)
            self.state.connected, self.state.since = connected, time.time()
        self.state.reason = str(error) if error else ""
