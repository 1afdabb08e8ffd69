"""Synchronisation of a study with its PACS: import of images and segmentations, export of labels.

There is no queue: every label without a recorded transfer of its current version is exported, also if it was saved
while the PACS was unreachable, or by another process.
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

#: Interval between two attempts to export a label that failed, seconds.
TRY_AGAIN_SECONDS = 600.0
#: Longest pause between two polls while the PACS is unreachable, seconds.
LONGEST_PAUSE = 30.0
#: Longest duration of one poll, seconds; the next one continues, so that cases of a new PACS appear early.
LONGEST_POLL = 20.0
#: Largest number of skipped segmentations in the status.
LISTED_LEFT_OUT = 20
#: Largest share of the time that polls take: a large PACS is polled less often.
SHARE_OF_TIME = 0.1


@dataclass
class State:
    """State of the connection.

    Attributes:
        connected: None: not polled yet.
        reason: reason of a missing connection, or "".
        since: time of the last change of ``connected``, seconds since 1970.
        polled: time of the last completed poll, seconds since 1970; None: there was none.
    """

    connected: bool | None = None
    reason: str = ""
    since: float = field(default_factory=time.time)
    polled: float | None = None


class Exchange:
    """Synchronisation of one study with its PACS, in a thread of the server after ``start``.

    Args:
        study: study with cases and labels.
    """

    def __init__(self, study: PacsStudy) -> None:
        self.study = study
        self.state = State()
        self._cases, self._segmentations = CaseList(study), SegmentationImport(study)
        self._mutex = threading.Lock()
        self._wake = threading.Event()
        self._thread: threading.Thread | None = None
        #: Whether the last poll was completed.
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
                self._try(self.send)
            started = time.monotonic()
            if self._try(lambda: self.poll(LONGEST_POLL)):
                pause = max(self.study.pacs.settings.poll_seconds, (time.monotonic() - started) / SHARE_OF_TIME)
                if not self._complete:
                    pause = 0.0
            else:
                pause = min(max(2 * pause, self.study.pacs.settings.poll_seconds), LONGEST_PAUSE)

    @staticmethod
    def _try(action: Callable[[], None]) -> bool:
        """Whether an action ended without an error."""
        try:
            action()
        except Unavailable:
            return False  # recorded in the state, and logged once
        except Exception:
            logger.exception("error of the synchronisation with the PACS; it is repeated")
            return False
        return True

    # ---- one poll ----

    def poll(self, seconds: float = float("inf")) -> None:
        """Import new images and segmentations, and export missing labels.

        Args:
            seconds: longest duration of the import; the next poll continues it.

        Raises:
            Unavailable: no response from the PACS, or an invalid one; nothing was changed.
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
        """Export missing labels, human labels first. Raises Unavailable; the next call exports the rest."""
        with self._mutex, self._track_connection(proves_connection=False):
            for label in sorted(self.waiting(is_due=True), key=lambda label: label.tag == PSEUDO):
                if label.tag == PSEUDO and self._wake.is_set():
                    return  # a human label was saved, and its client waits
                self._send_one(label)

    def _send_one(self, label: LabelVersion) -> None:
        case, tag, version = label
        sync_state = self.study.sync_state
        series, instance = self._uids(label)
        # Recorded before: after a crash it must not be imported as a segmentation of another program.
        sync_state.set_examined(instance, case, "sent by this server")
        try:
            outgoing.send(self.study, case, tag, (series, instance))
        except Exception as error:
            if isinstance(error, Unavailable) and not isinstance(error, Refused):
                raise
            # An error of one label must not prevent the others.
            log = logger.error if isinstance(error, UserError) else logger.exception
            log("label %r of %s is not in the PACS: %s", tag, case, error)
            sync_state.set_failed(label, str(error) or type(error).__name__)
            return
        self._set_connection(None)
        if self.study.version(case, tag) == version:  # otherwise another label was saved in the meantime
            sync_state.set_stored(label, series, instance)

    def waiting(self, is_due: bool = False) -> Iterator[LabelVersion]:
        """Labels that should be in the PACS and have no recorded transfer.

        Args:
            is_due: without those whose last attempt failed within ``TRY_AGAIN_SECONDS``.
        """
        stored, failures = self.study.sync_state.stored_labels(), self.study.sync_state.failures()
        # Absolute, because the clock may have been set back.
        late = {label for label, last in failures.items() if abs(time.time() - last.time) < TRY_AGAIN_SECONDS}
        for label in self.study.labels_to_send():
            if label not in stored and not (is_due and label in late):
                yield label

    def wait_for(self, case: str, tag: str, seconds: float) -> None:
        """Wait until the transfer of a label has succeeded or failed.

        Args:
            case: id of the case.
            tag: tag of the label.
            seconds: longest wait.
        """
        end = time.monotonic() + seconds
        while time.monotonic() < end and self._thread is not None and self.state.connected is not False:
            label = LabelVersion(case, tag, self.study.version(case, tag))
            if self.study.sync_state.stored_label(label) or label in self.study.sync_state.failures():
                return
            time.sleep(0.05)

    def status(self) -> dict[str, Any]:
        """State of connection and labels, as JSON values."""
        failures = self.study.sync_state.failures()
        state = {True: "connected", False: "away", None: "not polled yet"}[self.state.connected]
        return {
            "url": self.study.pacs.url,
            "state": state,
            "reason": self.state.reason,
            "since": self.state.since,
            "polled": self.state.polled,
            "cases": len(self.study.list_images()),
            "waiting": [
                {"case": x.case, "tag": x.tag, "reason": failures[x].reason if x in failures else "not sent yet"}
                for x in self.waiting()
            ],
            "left_out": self.study.sync_state.left_out(LISTED_LEFT_OUT),
            "clips": [{"SOPInstanceUID": clip, "frames": frames} for clip, frames in self._cases.clips.items()],
            "unreadable": [{"case": case, "reason": reason} for case, reason in self.study.unreadable().items()],
        }

    def _uids(self, label: LabelVersion) -> tuple[str, str]:
        """Series and instance UID of a label's segmentation, always the same, so that it is stored once."""
        name = f"{self._server}/{label.case}/{label.tag}/{label.version}"
        series, instance = (uuid.uuid5(uuid.NAMESPACE_URL, f"{name}/{kind}") for kind in ("series", "instance"))
        return f"2.25.{series.int}", f"2.25.{instance.int}"

    @contextmanager
    def _track_connection(self, proves_connection: bool) -> Iterator[None]:
        """Record the state of the connection after the block.

        Args:
            proves_connection: whether a block without an error has always sent a request to the PACS.
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
                logger.error("%s; the server continues with its data and tries again", error)
            self.state.connected, self.state.since = is_connected, time.time()
        self.state.reason = str(error) if error else ""
