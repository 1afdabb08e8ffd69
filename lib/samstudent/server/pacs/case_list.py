"""Update of the cases of a PACS study after each poll."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import replace

from samstudent.server.pacs.client import Refused, Series
from samstudent.server.pacs.listing import Reference, films, is_volume, multi_frame, volume
from samstudent.server.pacs.pacs_study import PacsStudy
from samstudent.server.pacs.settings import FILMS

logger = logging.getLogger(__name__)


class CaseList:
    """Update of the list of cases; images of unchanged series are not queried again.

    Args:
        study: study with the cases.

    Attributes:
        clips: SOP Instance UID -> number of frames, of the clips that are left out.
    """

    def __init__(self, study: PacsStudy) -> None:
        self.study = study
        self.clips: dict[str, int] = {}
        #: Numbers of images at the last poll by Series Instance UID, also of series that are no case or still grow.
        self._counts: dict[str, int] = {}

    def update(self, listed: Sequence[Series], end: float) -> bool:
        """Replace the cases of the study by those of the PACS.

        Args:
            listed: all image series of the PACS.
            end: time (``time.monotonic``) after which no further new series is added.

        Returns:
            Whether all series were added.
        """
        by_series: dict[str, list[Reference]] = {}
        for reference in self.study.references().values():
            by_series.setdefault(reference.series, []).append(reference)
        cases: dict[str, Reference] = {}
        counts: dict[str, int] = {}
        is_complete, known_clips = True, len(self.clips)
        for series in listed:
            known = by_series.get(series.uid, [])
            if not known and series.uid not in self._counts and time.monotonic() > end:
                is_complete = False
                continue
            try:
                found = self._cases_of(series, known)
            except Refused as error:  # one inaccessible series must not prevent the others
                logger.warning("series %s: %s", series.uid, error)
                found = known
            cases |= {reference.case: reference for reference in found}
            counts[series.uid] = series.images
        self._counts = counts
        if len(self.clips) > known_clips:
            logger.warning(
                "PACS %s: clips are left out: %d, of %d frames; only of a study folder frames are cases",
                self.study.pacs.url, len(self.clips), sum(self.clips.values()),
            )  # fmt: skip
        self.study.put_references(cases)
        return is_complete

    def _cases_of(self, series: Series, known: list[Reference]) -> list[Reference]:
        last = self._counts.get(series.uid)
        pacs, dimension = self.study.pacs, self.study.task.dimension
        if series.images == 0 and not known and last is None:  # a PACS without numbers of images
            series = replace(series, images=len(pacs.instances(series.study, series.uid)))
        elif series.images == 0:
            return known
        if series.images == (known[0].images if known else last):
            return known
        if is_volume(series):
            if dimension != 3:
                return []
            # Slices arrive one by one: a series is complete when no more have arrived since the last poll.
            is_settled = last == series.images or (last is None and not self._counts)
            return [volume(series)] if is_settled else known
        if dimension != 2 and series.modality in FILMS:
            return []
        instances = pacs.instances(series.study, series.uid)
        if dimension != 2:
            return multi_frame(series, instances)
        self.clips |= {instance.uid: instance.frames for instance in instances if instance.frames > 1}
        return films(series, instances, {r.image: r.case for r in known if r.image})
