"""Report of an import: what became of each case and its label, and why."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

ImageOutcome = Literal["added", "present", "not taken"]
#: ``kept``: the study has another label, which stays; ``unchanged``: it has the same label already; ``none``: the case
#: has no label in the source.
LabelOutcome = Literal["saved", "replaced", "unchanged", "kept", "none", "not taken"]


@dataclass(frozen=True)
class CaseReport:
    """Outcome of one case.

    Attributes:
        id: case id.
        image: outcome of its image.
        label: outcome of its label.
        reason: why image or label were not taken or kept, one sentence; "": they were taken.
        structures: names of the task's structures with pixels in the label.
        not_annotated: names of the task's structures that are unknown everywhere.
        left_out: names in the label that the task does not have -> number of shapes.
        notes: sentences about parts that were changed.
    """

    id: str
    image: ImageOutcome
    label: LabelOutcome
    reason: str = ""
    structures: tuple[str, ...] = ()
    not_annotated: tuple[str, ...] = ()
    left_out: dict[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def is_taken(self) -> bool:
        """Whether the case is in the study; its label may be another one that was there before."""
        return "not taken" not in (self.image, self.label)


@dataclass(frozen=True)
class ImportReport:
    """Outcome of an import.

    Attributes:
        cases: in the order of the source.
        remarks: sentences about the source as a whole.
    """

    cases: tuple[CaseReport, ...]
    remarks: tuple[str, ...] = ()

    @property
    def is_complete(self) -> bool:
        """Whether all cases of the source are in the study."""
        return all(case.is_taken for case in self.cases)

    def counts(self) -> dict[str, int]:
        """Number of cases for each outcome of images and labels."""
        images = Counter(f"images {case.image}" for case in self.cases)
        labels = Counter(f"labels {case.label}" for case in self.cases if case.label != "none")
        return {**dict(sorted(images.items())), **dict(sorted(labels.items()))}

    def structures(self) -> Counter[str]:
        """Number of labels that show each structure, of those that are in the study now as in the source."""
        done = [case for case in self.cases if case.label in ("saved", "replaced", "unchanged")]
        return Counter(name for case in done for name in case.structures)

    def left_out(self) -> Counter[str]:
        """Number of labels with each name that the task does not have."""
        return Counter(name for case in self.cases for name in case.left_out)

    def as_json(self) -> dict[str, Any]:
        return {
            "counts": self.counts(),
            "structures": dict(self.structures()),
            "left_out": dict(self.left_out()),
            "remarks": list(self.remarks),
            "cases": {case.id: {k: v for k, v in asdict(case).items() if k != "id" and v} for case in self.cases},
        }
