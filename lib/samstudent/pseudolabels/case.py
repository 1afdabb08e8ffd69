"""The pseudo label of one case."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from samstudent.images import CaseImage, for_sam
from samstudent.pseudolabels.provenance import Provenance, provenance_of
from samstudent.pseudolabels.quality import Gated, gate
from samstudent.sam.backends import SamBackend
from samstudent.sam.cache import EmbeddingCache
from samstudent.sam.refine import refine
from samstudent.task import Task


class Predictor(Protocol):
    """What is needed of a student (``samstudent.student.predict.Student``)."""

    version: str

    def predict(self, image: CaseImage) -> NDArray[Any]: ...


@dataclass(frozen=True)
class PseudoLabel:
    """A student's answer on one case, refined and gated. All arrays (S, *spatial) on the image's canonical grid."""

    masks: NDArray[Any]  # bool; structures that are not accepted are empty
    ignore: NDArray[Any]  # bool; where a rejected structure may be
    raw: NDArray[Any]  # bool; the student's own masks
    probabilities: NDArray[Any]  # float32; the student's
    coarse: NDArray[Any]  # bool; what SAM was prompted with
    structures: list[Gated]
    provenance: Provenance

    def info(self) -> dict[str, Any]:
        """For the datastore, beside the label."""
        structures = {s.name: s.as_json() for s in self.structures}
        return {"provenance": self.provenance.as_json(), "structures": structures}


def pseudo_label_case(
    image: CaseImage, student: Predictor, backend: SamBackend, task: Task, cache: EmbeddingCache | None = None
) -> PseudoLabel:
    """Predict, refine and gate one case."""
    probabilities = student.predict(image)
    refined = refine(probabilities, for_sam(image, task.image), backend, task, cache)
    structures = gate(refined.structures, probabilities, task)
    flat = (-1, *(1,) * (refined.masks.ndim - 1))
    accepted = np.array([s.status == "accepted" for s in structures]).reshape(flat)
    rejected = np.array([s.status == "rejected" for s in structures]).reshape(flat)
    return PseudoLabel(
        masks=refined.masks & accepted,
        ignore=(refined.masks | refined.coarse) & rejected,
        raw=own_masks(probabilities, task),
        probabilities=probabilities,
        coarse=refined.coarse,
        structures=structures,
        provenance=provenance_of(student.version, backend, task),
    )


def own_masks(probabilities: NDArray[Any], task: Task) -> NDArray[Any]:
    """A student's own masks bool (S, *spatial): each probable one, or the likeliest where they may not overlap."""
    if task.overlap:
        return np.asarray(probabilities >= 0.5)
    present = probabilities.max(axis=0) > 1 - probabilities.sum(axis=0)
    values = np.arange(len(probabilities)).reshape(-1, *(1,) * (probabilities.ndim - 1))
    return np.asarray((probabilities.argmax(axis=0) == values) & present)
