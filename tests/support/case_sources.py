"""Synthetic cases as sources of a round."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from samstudent.imaging.annotations import LabelledMasks
from samstudent.imaging.case import CaseImage
from samstudent.rounds.case_store import CaseContent
from support.drawn import case_image, shapes


@dataclass
class DrawnSource:
    """Synthetic shapes of seed ``id``; counts how often they are decoded."""

    id: str
    labelled: bool = True
    unknown: np.ndarray[Any, Any] | None = None
    decoded: int = field(default=0)

    def content(self) -> CaseContent:
        return CaseContent(f"image of {self.id}", f"label of {self.id}" if self.labelled else None)

    def read(self, task: Any) -> tuple[CaseImage, LabelledMasks | None]:
        self.decoded += 1
        pixels, masks = shapes(int(self.id))
        return case_image(pixels, spacing=0.5), LabelledMasks(masks, self.unknown) if self.labelled else None
