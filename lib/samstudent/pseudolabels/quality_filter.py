"""The quality filter: which refined masks are good enough to train on, and with what weight.

Quality of a structure is an estimate of its Dice. Where there are enough labelled cases it is that of a
``quality_model.QualityModel``, given to ``filter_structures`` as ``estimates``.

The safe default is a formula: sqrt(predicted IoU x agreement), the geometric mean of what SAM thinks of its own mask
and of the Dice of the student's coarse mask and SAM's. Both are in [0, 1] and each sees what the other misses: SAM is
content with a sharp mask of the wrong thing, and the agreement is high where SAM only echoes a bad prompt. One of them
near zero takes the quality to zero.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from samstudent.pseudolabels.ablations import Targets
from samstudent.sam.results import StructureResult
from samstudent.task import Task

Status = Literal["accepted", "rejected", "absent"]
#: Masks are taught where the filter accepts more than this share of the structures that were found.
MASKS_FROM = 0.5


def structure_quality(result: StructureResult) -> float:
    """Quality in [0, 1] of one refined structure; 0 if it is not there or SAM drew nothing."""
    return sam_quality(result.predicted_iou, result.agreement) if result.present else 0.0


def sam_quality(predicted_iou: float | None, agreement: float | None) -> float:
    """The formula, in [0, 1]: 0 without an agreement, the agreement alone without a predicted IoU (None or nan)."""
    if agreement is None or not math.isfinite(agreement):
        return 0.0
    agreement = min(max(agreement, 0.0), 1.0)
    if predicted_iou is None or not math.isfinite(predicted_iou):
        return agreement
    # SAM's estimate is a regression and may leave [0, 1].
    return math.sqrt(min(max(predicted_iou, 0.0), 1.0) * agreement)


@dataclass(frozen=True)
class FilteredStructure:
    """One structure of one case after the quality filter. ``quality`` is None for an absent one."""

    name: str
    status: Status
    quality: float | None
    #: Of an absent structure: how sure the student is of that, 1 - its highest probability anywhere.
    absence: float | None = None
    predicted_iou: float | None = None
    agreement: float | None = None

    def as_json(self) -> dict[str, Any]:
        """For the label's info."""
        numbers = {"quality": self.quality, "absence": self.absence}
        numbers |= {"predicted_iou": self.predicted_iou, "agreement": self.agreement}
        return {"status": self.status} | {k: round(float(v), 4) for k, v in numbers.items() if v is not None}


def filter_structures(
    results: Sequence[StructureResult],
    probabilities: NDArray[Any],
    task: Task,
    estimates: Mapping[str, float] | None = None,
) -> list[FilteredStructure]:
    """Status of each structure by its quality and ``task.threshold_of``.

    Args:
        results: of ``refine``, in the order of ``task.names``.
        probabilities: the student's, float (S, *spatial).
        estimates: Dice by a structure's name, 0 to 1 (``QualityModel.estimates``), in place of the formula for the
            structures that they have. None: the formula for all.
    """
    estimates = estimates or {}
    filtered = []
    for result, probability in zip(results, probabilities, strict=True):
        if not result.present:
            filtered.append(FilteredStructure(result.name, "absent", None, absence=float(1 - probability.max())))
            continue
        quality = estimates.get(result.name, structure_quality(result))
        status: Status = "accepted" if quality >= task.threshold_of(result.name) else "rejected"
        numbers = {"predicted_iou": result.predicted_iou, "agreement": result.agreement}
        filtered.append(FilteredStructure(result.name, status, quality, **numbers))
    return filtered


def teach_probabilities(labels: Iterable[Mapping[str, Mapping[str, Any]]], targets: Targets = "auto") -> bool:
    """Whether the next student learns the probabilities of these pseudo labels, or their masks.

    Masks with weights keep out what is wrong; but where the filter accepts little they leave little to learn from
    (docs/decisions/0014-masks-or-probabilities.md).

    Args:
        labels: of each pseudo label the ``structures`` in its info.
        targets: of ``Ablations``.
    """
    if targets != "auto":
        return targets == "probabilities"
    counts = Counter(record.get("status") for structures in labels for record in structures.values())
    return counts["accepted"] <= MASKS_FROM * (counts["accepted"] + counts["rejected"])


def absence_prior(present: NDArray[Any], annotated: NDArray[Any] | None = None) -> NDArray[Any]:
    """Absence prior: probability float32 (S,) in (0, 1) that a structure which a student does not find is absent.

    What every labelled case shows is most likely overlooked, not absent. Taught as background, it would be found even
    less often by the next student, and die out. Laplace's rule keeps few labelled cases from being sure.

    Args:
        present: bool (cases, S), whether a human's label of a case shows the structure; at least no case.
        annotated: bool (cases, S), whether it says anything of the structure; None: always.
    """
    annotated = np.ones_like(present, dtype=bool) if annotated is None else annotated
    cases, shown = annotated.sum(axis=0), (present & annotated).sum(axis=0)
    return np.asarray(1 - (shown + 1) / (cases + 2), dtype=np.float32)


def training_weights(structures: Mapping[str, Mapping[str, Any]], task: Task, by_quality: bool = True) -> NDArray[Any]:
    """Weights float32 (S,) for the loss, from the ``structures`` in a pseudo label's info.

    Accepted structures weigh their quality, absent ones how sure their absence is; rejected ones, and those that the
    info does not have, 0: nothing is known of them.

    Args:
        structures: by name.
        task: names their order.
        by_quality: False: accepted and absent structures weigh 1.
    """
    weights = np.zeros(len(task.names), dtype=np.float32)
    for index, name in enumerate(task.names):
        record = structures.get(name, {})
        if record.get("status") in ("accepted", "absent"):
            certainty = record.get("quality" if record["status"] == "accepted" else "absence")
            weights[index] = 1.0 if certainty is None or not by_quality else certainty
    return weights
