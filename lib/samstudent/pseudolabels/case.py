"""The pseudo label of one case."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from samstudent.imaging.case import CaseImage, for_sam
from samstudent.pseudolabels.disputed import disputed
from samstudent.pseudolabels.provenance import Provenance, provenance_of
from samstudent.pseudolabels.quality import Gated, gate
from samstudent.sam.cache import EmbeddingCache
from samstudent.sam.model import SamBackend
from samstudent.sam.refine import Refinement, refine
from samstudent.task import Task


class Predictor(Protocol):
    """What is needed of a student (``samstudent.student.predict.Student``)."""

    version: str

    def predict(self, image: CaseImage, size: tuple[int, ...] | None = None) -> NDArray[Any]: ...


@dataclass(frozen=True)
class PseudoLabel:
    """A student's answer on one case, refined and gated.

    All arrays (S, *spatial), on the image's canonical grid or (``trust.trusted_label``) its working grid.
    """

    masks: NDArray[Any]  # bool; structures that are not accepted are empty
    ignore: NDArray[Any]  # bool; where a rejected structure may be
    raw: NDArray[Any]  # bool; the student's own masks
    probabilities: NDArray[Any]  # float32; the student's
    coarse: NDArray[Any]  # bool; what SAM was prompted with
    structures: list[Gated]
    provenance: Provenance
    #: float16; what is taught where ``pseudo_labels.soft`` is set: after refinement for accepted structures, the
    #: student's own word on all others.
    soft: NDArray[Any]
    refined: NDArray[Any]  # bool; all structures, before the gate

    @property
    def rejected(self) -> NDArray[Any]:
        """bool (S, *spatial): refined masks of structures that the gate rejected; for people, not for training."""
        flat = (-1, *(1,) * (self.refined.ndim - 1))
        return np.asarray(self.refined & np.array([s.status == "rejected" for s in self.structures]).reshape(flat))

    def info(self) -> dict[str, Any]:
        """For the datastore, beside the label."""
        structures = {s.name: s.as_json() for s in self.structures}
        return {"provenance": self.provenance.as_json(), "structures": structures}


def pseudo_label_case(
    image: CaseImage, student: Predictor, backend: SamBackend, task: Task, cache: EmbeddingCache | None = None
) -> PseudoLabel:
    """Predict, refine and gate one case."""
    probabilities = student.predict(image)
    seen = for_sam(image, task.image)
    refined = refine(probabilities, seen, backend, task, cache, spacing=image.grid.spacing)
    return pseudo_label_of(refined, probabilities, task, provenance_of(student.version, backend, task))


def pseudo_label_of(
    refined: Refinement,
    probabilities: NDArray[Any],
    task: Task,
    provenance: Provenance,
    estimates: Mapping[str, float] | None = None,
) -> PseudoLabel:
    """Gate a refinement; ``estimates`` as in ``quality.gate``. A structure without a refined mask is never accepted."""
    structures = [
        # Other structures took every pixel: accepted, it would be taught as absent.
        replace(gated, status="rejected") if gated.status == "accepted" and not mask.any() else gated
        for gated, mask in zip(gate(refined.structures, probabilities, task, estimates), refined.masks, strict=True)
    ]
    flat = (-1, *(1,) * (refined.masks.ndim - 1))
    accepted = np.array([s.status == "accepted" for s in structures]).reshape(flat)
    rejected = np.array([s.status == "rejected" for s in structures]).reshape(flat)
    ignore = (refined.masks | refined.coarse) & rejected
    if task.pseudo_labels.ignore_disputed:
        ignore |= disputed(refined.masks, refined.coarse) & accepted
    return PseudoLabel(
        masks=refined.masks & accepted,
        ignore=ignore,
        raw=own_masks(probabilities, task),
        probabilities=probabilities,
        coarse=refined.coarse,
        structures=structures,
        provenance=provenance,
        soft=np.where(accepted, refined.soft, probabilities).astype(np.float16),
        refined=refined.masks,
    )


def own_masks(probabilities: NDArray[Any], task: Task) -> NDArray[Any]:
    """A student's own masks bool (S, *spatial): each probable one, or the likeliest where they may not overlap."""
    if task.overlap:
        return np.asarray(probabilities >= 0.5)
    present = probabilities.max(axis=0) > 1 - probabilities.sum(axis=0)
    values = np.arange(len(probabilities)).reshape(-1, *(1,) * (probabilities.ndim - 1))
    return np.asarray((probabilities.argmax(axis=0) == values) & present)


def mix(views: NDArray[Any], share: float) -> NDArray[Any]:
    """The weighted mean float32 (S, *spatial) of one or two views (V, S, *spatial); ``share`` is the second's."""
    first = views[0].astype(np.float32)  # A CPU computes float16 ten times slower.
    return first if len(views) == 1 else first + np.float32(share) * (views[1].astype(np.float32) - first)
