"""Labeller of cases: pseudo labels from a model and SAM, by the task's recipe or by a fitted policy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from samstudent.imaging.case import CaseImage
from samstudent.pseudolabels.case import PseudoLabel, pseudo_label_case
from samstudent.pseudolabels.labelling import label_case
from samstudent.pseudolabels.policy import LabelingPolicy
from samstudent.pseudolabels.provenance import Provenance, provenance_of
from samstudent.sam.cached_sam import CachedSam
from samstudent.sam.model import SamBackend
from samstudent.task import Task

#: Called with id, image and pseudo label of each newly labelled case.
OnCase = Callable[[str, CaseImage, PseudoLabel], None]


@dataclass(frozen=True)
class CaseLabeller:
    """Labeller: a model, SAM, and a labeling policy.

    Attributes:
        task: the task.
        student: a student; with ``policy`` a ``MemberPredictor``: a teacher, or a student.
        sam: without ``policy`` the active one, adapted or not, with it the plain one; None: only the student's own
            masks are made (``pseudo_raw``).
        policy: labeling policy; None: the task's recipe is used.
    """

    task: Task
    student: Any
    sam: CachedSam | None
    policy: LabelingPolicy | None = None

    @property
    def made_with(self) -> Provenance:
        """Provenance of this labeller's refined pseudo labels; without SAM of the student's own masks."""
        return made_with(self.student.version, None if self.sam is None else self.sam.backend, self.task, self.policy)

    def label(self, image: CaseImage, sam: CachedSam) -> PseudoLabel:
        """Pseudo label of one image, refined by SAM."""
        if self.policy is None:
            return pseudo_label_case(image, self.student, sam, self.task)
        return label_case(image, self.student, self.policy, sam)


def made_with(version: str, backend: SamBackend | None, task: Task, policy: LabelingPolicy | None = None) -> Provenance:
    """Provenance of pseudo labels.

    Args:
        version: of the student or teacher.
        backend: see ``CaseLabeller.sam``.
        task: the task.
        policy: see ``CaseLabeller.policy``.
    """
    if policy is None or backend is None:
        return provenance_of(version, backend, task)
    return provenance_of(version, policy.adapted or backend, policy.task, policy.digest)
