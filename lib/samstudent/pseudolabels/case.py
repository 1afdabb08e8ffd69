"""The pseudo label of one case."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from samstudent.imaging.case import CaseImage, for_sam
from samstudent.pseudolabels.dice_bound import DiceEstimate
from samstudent.pseudolabels.provenance import Provenance, provenance_of
from samstudent.pseudolabels.quality_filter import FilteredStructure, filter_structures
from samstudent.sam.cached_sam import CachedSam
from samstudent.sam.refiner import Refiner
from samstudent.sam.results import Refinement
from samstudent.student.predict import binarize
from samstudent.task import Task


class Predictor(Protocol):
    """A model that predicts a case: a student, an embedding head, an ensemble of them."""

    version: str

    def predict(self, image: CaseImage, size: tuple[int, ...] | None = None) -> NDArray[Any]: ...


@dataclass(frozen=True)
class PseudoLabel:
    """A prediction of one case, refined by SAM and passed through the quality filter.

    All arrays are (S, *spatial), on the image's canonical grid or (``labelling.label_case``) its working grid.

    Attributes:
        masks: bool; structures that are not accepted are empty.
        ignore: bool; where a rejected structure may be.
        raw: bool; the binarized prediction.
        probabilities: float32, the prediction.
        coarse: bool; masks from which SAM was prompted.
        structures: status and quality of each.
        provenance: versions of student, SAM and recipe.
        soft: float16, soft labels: probabilities after refinement of accepted structures, the prediction of all others.
        refined: bool; all structures, before the quality filter.
    """

    masks: NDArray[Any]
    ignore: NDArray[Any]
    raw: NDArray[Any]
    probabilities: NDArray[Any]
    coarse: NDArray[Any]
    structures: list[FilteredStructure]
    provenance: Provenance
    soft: NDArray[Any]
    refined: NDArray[Any]

    @property
    def rejected(self) -> NDArray[Any]:
        """bool (S, *spatial): refined masks of rejected structures, for display, not for training."""
        flat = (-1, *(1,) * (self.refined.ndim - 1))
        return np.asarray(self.refined & np.array([s.status == "rejected" for s in self.structures]).reshape(flat))

    def info(self) -> dict[str, Any]:
        """Label info for the datastore."""
        structures = {s.name: s.as_json() for s in self.structures}
        return {"provenance": self.provenance.as_json(), "structures": structures}


def pseudo_label_case(image: CaseImage, student: Predictor, sam: CachedSam, task: Task) -> PseudoLabel:
    """Pseudo label of one case by the task's recipe."""
    probabilities = student.predict(image)
    refiner = Refiner.for_task(task, sam.backend, sam.cache)
    refined = refiner.refine(probabilities, for_sam(image, task.image), image.grid.spacing)
    return pseudo_label_of(refined, probabilities, task, provenance_of(student.version, sam.backend, task))


def pseudo_label_of(
    refined: Refinement,
    probabilities: NDArray[Any],
    task: Task,
    provenance: Provenance,
    estimates: Mapping[str, DiceEstimate] | None = None,
) -> PseudoLabel:
    """Pseudo label of a refinement. A structure without a refined mask is never accepted.

    Args:
        refined: of ``probabilities``.
        probabilities: float32 (S, *spatial).
        task: structures and quality thresholds.
        provenance: versions of student, SAM and recipe.
        estimates: estimated Dice by structure, as in ``quality_filter.filter_structures``.
    """
    structures = [
        # All of its pixels belong to other structures: accepted, it would be taught as absent.
        replace(found, status="rejected") if found.status == "accepted" and not mask.any() else found
        for found, mask in zip(
            filter_structures(refined.structures, probabilities, task, estimates), refined.masks, strict=True
        )
    ]
    flat = (-1, *(1,) * (refined.masks.ndim - 1))
    accepted = np.array([s.status == "accepted" for s in structures]).reshape(flat)
    rejected = np.array([s.status == "rejected" for s in structures]).reshape(flat)
    ignore = (refined.masks | refined.coarse) & rejected
    return PseudoLabel(
        masks=refined.masks & accepted,
        ignore=ignore,
        raw=binarize(probabilities, task),
        probabilities=probabilities,
        coarse=refined.coarse,
        structures=structures,
        provenance=provenance,
        soft=np.where(accepted, refined.soft, probabilities).astype(np.float16),
        refined=refined.masks,
    )


def mix(members: NDArray[Any], weight: float) -> NDArray[Any]:
    """Weighted mean float32 (S, *spatial) of one or two ``members`` (M, S, *spatial); ``weight`` is the second's."""
    first = members[0].astype(np.float32)  # A CPU computes float16 ten times slower.
    return first if len(members) == 1 else first + np.float32(weight) * (members[1].astype(np.float32) - first)
