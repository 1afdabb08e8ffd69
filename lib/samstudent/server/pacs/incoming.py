"""Import of segmentations from the PACS: manual and semi-automatic ones become labels of their cases."""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import pydicom
from pydicom.dataset import Dataset

from samstudent.errors import Unavailable
from samstudent.imaging.dicom_seg import is_automatic, references_of, structures_of
from samstudent.imaging.dicom_size_checks import check_dicom
from samstudent.imaging.label_tags import FINAL
from samstudent.server.auth import audit
from samstudent.server.pacs.client import Refused, Series
from samstudent.server.pacs.listing import Reference
from samstudent.server.pacs.pacs_study import PacsStudy
from samstudent.server.pacs.sync_state import LEFT_OUT, LabelVersion

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Found:
    """Segmentation fetched from the PACS.

    Attributes:
        path: temporary file.
        series, instance: UIDs.
        header: dataset without pixels; None: unreadable file.
        source: UID of the referenced image series, or None.
        images: UIDs of the referenced images.
        time: content time as "YYYYMMDDHHMMSS.ffffff".
    """

    path: Path
    series: str
    instance: str
    header: Dataset | None
    source: str | None
    images: frozenset[str]
    time: str


class SegmentationImport:
    """Import of each segmentation of a PACS, once.

    Args:
        study: study that receives the labels.
    """

    def __init__(self, study: PacsStudy) -> None:
        self.study = study
        #: Image series that are not in the study, by UID of the segmentation series that refers to them.
        self._without_images: dict[str, str] = {}

    def update(self, listed: Sequence[Series], end: float) -> bool:
        """Import the segmentations that were stored since the last poll.

        Args:
            listed: all segmentation series of the PACS.
            end: time (``time.monotonic``) after which no further series is examined.

        Returns:
            Whether all were examined.
        """
        examined = self.study.sync_state.examined_series()
        references = self.study.references()
        in_study = {reference.series for reference in references.values()}
        is_complete = True
        found: list[Found] = []
        done: list[Series] = []
        with tempfile.TemporaryDirectory() as folder:
            for series in listed:
                source = self._without_images.get(series.uid)
                is_known = examined.get(series.uid) == series.images and series.images
                if is_known or (source is not None and source not in in_study):
                    continue
                if time.monotonic() > end:
                    is_complete = False
                    break
                found += self._fetched(series, Path(folder))
                done.append(series)
            for item in sorted(found, key=lambda item: item.time):  # the newest last: it stays the label
                take(self.study, item, references)
        for series in done:
            sources = [i.source for i in found if i.series == series.uid and i.source and i.source not in in_study]
            if sources:  # examined again when these images come into the study
                self._without_images[series.uid] = sources[0]
            else:
                self._without_images.pop(series.uid, None)
                self.study.sync_state.set_series_examined(series.uid, series.images)
        return is_complete

    def _fetched(self, series: Series, folder: Path) -> Iterator[Found]:
        """The segmentations of a series that were not examined before."""
        pacs, sync_state = self.study.pacs, self.study.sync_state
        try:
            instances = pacs.instances(series.study, series.uid)
        except Refused as error:
            logger.warning("segmentations of series %s: %s", series.uid, error)
            return
        for instance in instances:
            if sync_state.is_examined(instance.uid):
                continue
            try:
                path = pacs.fetch_instance(series.study, series.uid, instance.uid, folder)
            except Refused as error:
                logger.warning("segmentation %s: %s", instance.uid, error)
                sync_state.set_examined(instance.uid, None, f"{LEFT_OUT}{error}")
                continue
            yield read(path, series.uid, instance.uid)


def read(path: Path, series: str, instance: str) -> Found:
    """Header of a segmentation file.

    Args:
        path: file.
        series: Series Instance UID.
        instance: SOP Instance UID.
    """
    try:
        check_dicom(path)
        header = pydicom.dcmread(path, stop_before_pixels=True)
        source, images = references_of(header)
        drawn = f"{header.get('ContentDate') or ''}{header.get('ContentTime') or ''}"
    except Exception as error:  # whatever another program has written
        logger.warning("segmentation %s cannot be read: %s", instance, error)
        return Found(path, series, instance, None, None, frozenset(), "")
    return Found(path, series, instance, header, source, frozenset(images), drawn)


def take(study: PacsStudy, found: Found, references: Mapping[str, Reference]) -> None:
    """Save a segmentation as the label of its case, or record the reason to skip it.

    Nothing is recorded while its images are missing: they may still arrive.

    Args:
        study: study that receives the label.
        found: segmentation.
        references: references of the study's cases, by case id.
    """
    case = case_of(found, references)
    if case is None and found.source and all(r.series != found.source for r in references.values()):
        return
    try:
        outcome = _outcome(study, found, case)
    except (Unavailable, OSError):
        raise
    except Exception as error:  # any content of other programs; it must not stop every poll
        outcome = f"{LEFT_OUT}{error}"
    logger.info("segmentation %s of case %s: %s", found.instance, case, outcome)
    study.sync_state.set_examined(found.instance, case, outcome)


def case_of(found: Found, references: Mapping[str, Reference]) -> str | None:
    """Id of the case of a segmentation; None: no case, or several possible ones."""
    named = [r for r in references.values() if r.image in found.images]
    of_series = [r for r in references.values() if r.series == found.source]
    candidates = named or [r for r in of_series if r.image is None] or (of_series if not found.images else [])
    return candidates[0].case if len(candidates) == 1 else None


def _outcome(study: PacsStudy, found: Found, case: str | None) -> str:
    header = found.header
    if header is None:
        return f"{LEFT_OUT}unreadable file"
    if case is None:
        return f"{LEFT_OUT}it refers to no image of the study, or to several"
    if not header.get("SegmentSequence"):
        return f"{LEFT_OUT}it has no segments"
    if is_automatic(header):
        return f"{LEFT_OUT}drawn by a program alone"
    if not structures_of(header, study.task):
        return f"{LEFT_OUT}none of its segments is a structure of the task"
    if found.time and found.time < _time_of(study.get_label_info(case, FINAL)):
        return f"{LEFT_OUT}older than the current label"
    info = {
        "source": "PACS",
        "user": str(header.get("ContentCreatorName") or "").rstrip("^"),
        "software": " ".join(filter(None, (str(header.get(k) or "") for k in ("Manufacturer", "SeriesDescription")))),
        "content_time": found.time,
        "SeriesInstanceUID": found.series,
        "SOPInstanceUID": found.instance,
    }
    study.take_from_pacs(case, found.path, info)
    label = LabelVersion(case, FINAL, study.version(case, FINAL))
    study.sync_state.set_stored(label, found.series, found.instance)
    try:
        audit.record("label saved", info["user"] or "anonymous", case=case, tag=FINAL, instance=found.instance)
    except audit.AuditFailed as error:
        logger.error("%s", error)  # there is no client to inform
    return "saved as the label"


def _time_of(info: Mapping[str, object]) -> str:
    """Time of a label as ``Found.time``; of a label that a client saved one day earlier, because DICOM times are local
    times of the viewer."""
    if "content_time" in info or "time" not in info:
        return str(info.get("content_time", ""))
    return (datetime.fromtimestamp(float(str(info["time"]))) - timedelta(days=1)).strftime("%Y%m%d%H%M%S.%f")
