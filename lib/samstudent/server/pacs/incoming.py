"""A segmentation that somebody stored in the PACS becomes the label of its case, if a human has had a part in it."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pydicom
from pydicom.dataset import Dataset

from samstudent.errors import Unavailable
from samstudent.imaging.dicom_seg import is_machines, references_of, structures_of
from samstudent.imaging.dicom_size_checks import check_dicom
from samstudent.server.auth import audit
from samstudent.server.datastore.study_folder import FINAL
from samstudent.server.pacs.listing import Reference

if TYPE_CHECKING:
    from samstudent.server.pacs.datastore import PacsDatastore

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Found:
    """A segmentation fetched from the PACS.

    Attributes:
        path: its file, for as long as it is dealt with.
        series, instance: its UIDs.
        header: all of it but the pixels; None: it cannot be read.
        source: the image series that it was drawn on, as far as it says so.
        images: images that it names.
        time: of its content, as "YYYYMMDDHHMMSS.ffffff".
    """

    path: Path
    series: str
    instance: str
    header: Dataset | None
    source: str | None
    images: frozenset[str]
    time: str


def read(path: Path, series: str, instance: str) -> Found:
    """What can be said of it without its pixels."""
    try:
        check_dicom(path)
        header = pydicom.dcmread(path, stop_before_pixels=True)
        source, images = references_of(header)
        time = f"{header.get('ContentDate') or ''}{header.get('ContentTime') or ''}"
    except Exception as error:  # whatever another program has written
        logger.warning("segmentation %s cannot be read: %s", instance, error)
        return Found(path, series, instance, None, None, frozenset(), "")
    return Found(path, series, instance, header, source, frozenset(images), time)


def take(datastore: PacsDatastore, found: Found, references: Mapping[str, Reference]) -> None:
    """Make it the label of its case, or note why not; not yet, where its images may still come into the study."""
    case = case_of(found, references)
    if case is None and found.source and all(r.series != found.source for r in references.values()):
        return
    try:
        outcome = _outcome(datastore, found, case)
    except (Unavailable, OSError):
        raise
    except Exception as error:  # whatever another program has written; else each look would end at it
        outcome = f"left out: {error}"
    logger.info("segmentation %s of case %s: %s", found.instance, case, outcome)
    datastore.memory.saw(found.instance, case, outcome)


def case_of(found: Found, references: Mapping[str, Reference]) -> str | None:
    """The one case that it was drawn on."""
    named = [r for r in references.values() if r.image in found.images]
    whole = [r for r in references.values() if r.series == found.source]
    candidates = named or [r for r in whole if r.image is None] or (whole if not found.images else [])
    return candidates[0].case if len(candidates) == 1 else None


def _outcome(datastore: PacsDatastore, found: Found, case: str | None) -> str:
    header = found.header
    if header is None:
        return "left out: it cannot be read"
    if case is None:
        return "left out: it refers to no image of the study, or to several"
    if not header.get("SegmentSequence"):
        return "left out: it has no segments"
    if is_machines(header):
        return "left out: drawn by a program alone"
    if not structures_of(header, datastore.task):
        return "left out: none of its segments is a structure of the task"
    if found.time and found.time < _time_of(_info(datastore, case)):
        return "left out: older than the label in force"
    info = {
        "source": "PACS",
        "user": str(header.get("ContentCreatorName") or "").rstrip("^"),
        "software": " ".join(filter(None, (str(header.get(k) or "") for k in ("Manufacturer", "SeriesDescription")))),
        "content_time": found.time,
        "SeriesInstanceUID": found.series,
        "SOPInstanceUID": found.instance,
    }
    datastore.take_from_pacs(case, found.path, info)
    datastore.memory.put_there(case, FINAL, datastore.version(case, FINAL), found.series, found.instance)
    try:
        audit.record("label saved", info["user"] or "anonymous", case=case, tag=FINAL, instance=found.instance)
    except audit.AuditFailed as error:
        logger.error("%s", error)  # nobody waits to be told
    return "taken as the label"


def _time_of(info: Mapping[str, object]) -> str:
    """When a label was drawn, as ``Found.time``. Of one that a client saved, a day before that: DICOM tells the time of
    wherever the viewer is."""
    if "content_time" in info or "time" not in info:
        return str(info.get("content_time", ""))
    return (datetime.fromtimestamp(float(str(info["time"]))) - timedelta(days=1)).strftime("%Y%m%d%H%M%S.%f")


def _info(datastore: PacsDatastore, case: str) -> dict[str, object]:
    return datastore.get_label_info(case, FINAL) if datastore.is_labelled(case) else {}
