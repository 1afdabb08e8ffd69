"""Which series, or which of its images, is a case. Pure: lists in, references out."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from samstudent.server.pacs.client import Instance, Series
from samstudent.server.pacs.settings import FILMS

#: Ends the files that stand for images in the study's folder of a PACS: what must be known to fetch them.
EXTENSION = ".dicom.json"


@dataclass(frozen=True)
class Reference:
    """One case in the PACS.

    Attributes:
        case: its id. Of a volume, and of a radiograph that is alone in its series, the Series Instance UID, by which
            viewers ask; of others the SOP Instance UID.
        study, series: UIDs.
        image: SOP Instance UID of a single image; None: the case is the whole series.
        images: how many images the series has.
        facts: what the PACS says of the series, by keyword.
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
        """What a viewer needs to open it; OHIF reads these keys of a next sample."""
        retrieve = f"{url}/studies/{self.study}/series/{self.series}"
        info = {**self.facts, "StudyInstanceUID": self.study, "SeriesInstanceUID": self.series}
        if self.image:
            info["SOPInstanceUID"] = self.image
        return info | {"RetrieveURL": retrieve}


def is_volume(series: Series) -> bool:
    """Whether a series is one volume; otherwise each of its images stands for itself."""
    return series.images > 1 and series.modality not in FILMS


def volume(series: Series) -> Reference:
    """A whole series as one case."""
    return Reference(series.uid, series.study, series.uid, None, series.images, series.facts)


def films(series: Series, instances: Sequence[Instance], known: Mapping[str, str]) -> list[Reference]:
    """Each image of a series as a case; images of several frames (films of the heart, clips) are left out.

    Args:
        series: what is listed of it.
        instances: its images.
        known: SOP Instance UID -> case id that it was given before; ids never change, labels hang on them.
    """
    stills = [instance for instance in instances if instance.frames == 1]
    alone = len(stills) == 1 and series.uid not in known.values()
    found = []
    for still in stills:
        case = known.get(still.uid) or (series.uid if alone else still.uid)
        found.append(Reference(case, series.study, series.uid, still.uid, series.images, series.facts))
    return found
