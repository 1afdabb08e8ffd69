"""Synchronisation of a study with its PACS: new images and segmentations come in, labels go out.

What has to go out is computed, not queued: every label of which the PACS is not known to have this version. So there
is no queue to lose, and a label saved while the PACS is away, or by another process, goes out like any other.
"""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from samstudent.errors import Unavailable, UserError
from samstudent.imaging.label_tags import PSEUDO
from samstudent.server.pacs import outgoing
from samstudent.server.pacs.case_list import CaseList
from samstudent.server.pacs.client import Refused
from samstudent.server.pacs.incoming import SegmentationImport
from samstudent.server.pacs.pacs_study import PacsStudy
from samstudent.server.pacs.sync_state import LabelVersion

logger = logging.getLogger(__name__)

#: A label that the PACS refused, or that cannot be made a segmentation, is tried again after so long.
TRY_AGAIN_SECONDS = 600.0
#: Longest pause between two attempts while the PACS is away, seconds.
LONGEST_PAUSE = 30.0
#: A poll that finds a whole new PACS publishes what it has after so many seconds; the next one goes on.
LONGEST_POLL = 20.0
#: Number of segmentations that did not become labels in the status.
LISTED_LEFT_OUT = 20
#: Largest share of the time that polls take: a large PACS is polled less often.
SHARE_OF_TIME = 0.1


@dataclass
class State:
    """State of the connection, for people.

    Attributes:
        connected: None: not tried yet.
        reason: why it is not connected; else "".
        since: time of the last change of ``connected``, seconds since 1970.
        polled: time of the last poll that came to its end; None: there was none.
    """

    connected: bool | None = None
    reason: str = ""
    since: float = field(default_factory=time.time)
    polled: float | None = None


class Exchange:
    """Synchronisation of one study with its PACS; runs by itself after ``start``, which only the server calls.

    Args:
        study: its cases and labels.
    """

    def __init__(self, study: PacsStudy) -> None:
        self.study = study
        self.state = State()
        self._cases, self._segmentations = CaseList(study), SegmentationImport(study)
        self._mutex = threading.Lock()
        self._wake = threading.Event()
        self._thread: threading.Thread | None = None
        #: Whether the last poll came to its end.
        self._complete = True
        self._server = study.sync_state.constant("server", uuid.uuid4().hex)

    # ---- the thread ----

    def start(self) -> None:
        """Poll and send from now on, in a daemon thread."""
        self._thread = threading.Thread(target=self._run, name="pacs", daemon=True)
        self._thread.start()

    def wake(self) -> None:
        """Send now: a label was saved."""
        self._wake.set()

    def _run(self) -> None:
        pause = 0.0
        while True:
            if self._wake.wait(pause):
                self._wake.clear()
                self._guarded(self.send)
            started = time.monotonic()
            if self._guarded(lambda: self.poll(LONGEST_POLL)):
                pause = max(self.study.pacs.settings.poll_seconds, (time.monotonic() - started) / SHARE_OF_TIME)
                if not self._complete:
                    pause = 0.0
            else:
                pause = min(max(2 * pause, self.study.pacs.settings.poll_seconds), LONGEST_PAUSE)

    @staticmethod
    def _guarded(action: Callable[[], None]) -> bool:
        try:
            action()
        except Unavailable:
            return False  # noted in the state, and logged once
        except Exception:
            logger.exception("the exchange with the PACS goes on after an error")
            return False
        return True

    # ---- one poll ----

    def poll(self, seconds: float = float("inf")) -> None:
        """Take in what is new in the PACS, and send the labels that it lacks.

        Args:
            seconds: after so long this poll takes in nothing further; the next one goes on.

        Raises:
            Unavailable: the PACS does not answer, or answers nonsense; nothing was changed by that.
        """
        end = time.monotonic() + seconds
        with self._mutex, self._track_connection(proves_connection=True):
            listed = self.study.pacs.series()
            has_all_cases = self._cases.update([series for series in listed if series.modality != "SEG"], end)
            has_all_labels = self._segmentations.update([series for series in listed if series.modality == "SEG"], end)
            self._complete = has_all_cases and has_all_labels
            self.state.polled = time.time()
        self.send()

    def send(self) -> None:
        """Send the labels that the PACS lacks, humans' first. Raises Unavailable; the rest goes with the next call."""
        with self._mutex, self._track_connection(proves_connection=False):
            for label in sorted(self.waiting(is_due=True), key=lambda label: label.tag == PSEUDO):
                if label.tag == PSEUDO and self._wake.is_set():
                    return  # somebody has just saved a label and is waiting
                self._send_one(label)

    def _send_one(self, label: LabelVersion) -> None:
        case, tag, version = label
        sync_state = self.study.sync_state
        series, instance = self._uids(label)
        # Recorded before, lest it be taken for another's if this process ends right after.
        sync_state.set_examined(instance, case, "sent by this server")
        try:
            outgoing.send(self.study, case, tag, (series, instance))
        except Exception as error:
            if isinstance(error, Unavailable) and not isinstance(error, Refused):
                raise
            # One label that cannot be sent, whatever the reason, must not hold up the others.
            log = logger.error if isinstance(error, UserError) else logger.exception
            log("label %r of %s is not in the PACS: %s", tag, case, error)
            sync_state.set_failed(label, str(error) or type(error).__name__)
            return
        self._set_connection(None)
        if self.study.version(case, tag) == version:  # else another was saved meanwhile, and perhaps sent
            sync_state.set_stored(label, series, instance)

    def waiting(self, is_due: bool = False) -> Iterator[LabelVersion]:
        """The labels that should be in the PACS and are not known to be there.

        Args:
            is_due: without those of which an attempt failed within the last ``TRY_AGAIN_SECONDS``.
        """
        stored, failures = self.study.sync_state.stored_labels(), self.study.sync_state.failures()
        # Not "less than": where the clock was set back, it would wait until then.
        late = {label for label, last in failures.items() if abs(time.time() - last.time) < TRY_AGAIN_SECONDS}
        for label in self.study.labels_to_send():
            if label not in stored and not (is_due and label in late):
                yield label

    def wait_for(self, case: str, tag: str, seconds: float) -> None:
        """Return when a label is in the PACS, cannot be sent, or the time is up.

        Args:
            case: its id.
            tag: of the label.
            seconds: longest wait.
        """
        end = time.monotonic() + seconds
        while time.monotonic() < end and self._thread is not None and self.state.connected is not False:
            label = LabelVersion(case, tag, self.study.version(case, tag))
            if self.study.sync_state.stored_label(label) or label in self.study.sync_state.failures():
                return
            time.sleep(0.05)

    def status(self) -> dict[str, Any]:
        """State of connection and labels, for people and for the server's page."""
        failures = self.study.sync_state.failures()
        state = {True: "connected", False: "away", None: "not asked yet"}[self.state.connected]
        return {
            "url": self.study.pacs.url,
            "state": state,
            "reason": self.state.reason,
            "since": self.state.since,
            "looked": self.state.polled,
            "cases": len(self.study.list_images()),
            "waiting": [
                {"case": x.case, "tag": x.tag, "reason": failures[x].reason if x in failures else "not sent yet"}
                for x in self.waiting()
            ],
            "left_out": self.study.sync_state.left_out(LISTED_LEFT_OUT),
            "unreadable": [{"case": case, "reason": why} for case, why in self.study.unreadable().items()],
        }

    def _uids(self, label: LabelVersion) -> tuple[str, str]:
        """Series and instance UID of a label's segmentation, the same whenever it is sent: it is stored once."""
        name = f"{self._server}/{label.case}/{label.tag}/{label.version}"
        series, instance = (uuid.uuid5(uuid.NAMESPACE_URL, f"{name}/{kind}") for kind in ("series", "instance"))
        return f"2.25.{series.int}", f"2.25.{instance.int}"

    @contextmanager
    def _track_connection(self, proves_connection: bool) -> Iterator[None]:
        """Record whether the PACS answered during the block.

        Args:
            proves_connection: a block that ends without an error has talked to the PACS.
        """
        try:
            yield
        except Unavailable as error:
            self._set_connection(error)
            raise
        if proves_connection:
            self._set_connection(None)

    def _set_connection(self, error: Unavailable | None) -> None:
        """Record the state of the connection; a change is logged once."""
        is_connected = error is None
        if is_connected != self.state.connected:
            if is_connected:
                logger.info("PACS %s: connected", self.study.pacs.url)
            else:
                logger.error("%s; the server goes on with what it has, and tries again", error)
            self.state.connected, self.state.since = is_connected, time.time()
        self.state.reason = str(error) if error else ""
