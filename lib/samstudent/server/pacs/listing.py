"""Cases in the lists of a PACS: a whole series, or each image of it. Pure functions."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from samstudent.server.pacs.client import Instance, Series
from samstudent.server.pacs.settings import FILMS

#: Extension of the reference files, which replace images in the study of a PACS.
EXTENSION = ".dicom.json"


@dataclass(frozen=True)
class Reference:
    """One case in the PACS.

    Attributes:
        case: id of the case: the Series Instance UID for a volume and for a single radiograph of a series, as used by
            viewers; otherwise the SOP Instance UID.
        study, series: UIDs.
        image: SOP Instance UID of a single image or multi-frame volume; None: the case is the whole series.
        images: number of images of the series.
        facts: attributes of the series by keyword.
    """

    case: str
    study: str
    series: str
    image: str | None
    images: int
    facts: Mapping[str, str] = field(default_factory=dict)

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Reference:
        return cls(**json.loads(text))

    def info(self, url: str) -> dict[str, Any]:
        """Metadata by which viewers open the case; OHIF reads these keys of a sample."""
        retrieve = f"{url}/studies/{self.study}/series/{self.series}"
        info = {**self.facts, "StudyInstanceUID": self.study, "SeriesInstanceUID": self.series}
        if self.image:
            info["SOPInstanceUID"] = self.image
        return info | {"RetrieveURL": retrieve}


def is_volume(series: Series) -> bool:
    """Whether a series is one volume; otherwise each image is a case."""
    return series.images > 1 and series.modality not in FILMS


def volume(series: Series) -> Reference:
    """Reference to a series as one case."""
    return Reference(series.uid, series.study, series.uid, None, series.images, series.facts)


def multi_frame(series: Series, instances: Sequence[Instance]) -> list[Reference]:
    """Reference to the volume in the only file of a series (enhanced CT or MR); none if it has one frame."""
    if len(instances) != 1 or instances[0].frames < 2:
        return []
    return [Reference(series.uid, series.study, series.uid, instances[0].uid, series.images, series.facts)]


def films(series: Series, instances: Sequence[Instance], known: Mapping[str, str]) -> list[Reference]:
    """References to the images of a series as cases, without multi-frame images (clips).

    Args:
        series: series.
        instances: images of the series.
        known: case ids by SOP Instance UID of earlier polls; ids do not change, because labels refer to them.
    """
    stills = [instance for instance in instances if instance.frames == 1]
    is_series = len(stills) == 1 and series.uid not in known.values()
    found = []
    for still in stills:
        case = known.get(still.uid) or (series.uid if is_series else still.uid)
        found.append(Reference(case, series.study, series.uid, still.uid, series.images, series.facts))
    return found
