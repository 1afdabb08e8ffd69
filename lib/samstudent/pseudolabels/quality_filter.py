"""Quality filter: acceptance of refined masks for training, and their weights.

Quality of a structure is an estimate of its Dice. With enough labelled cases it is that of a
``quality_model.QualityModel``, the ``estimates`` of ``filter_structures``.

The default is a formula: sqrt(predicted IoU x agreement), the geometric mean of SAM's estimate of its own mask and of
the Dice of the student's coarse mask and SAM's. Both are in [0, 1] and complement each other: the predicted IoU is high
for a sharp mask of the wrong object, and the agreement is high where SAM only repeats a bad prompt. If one of them is
near zero, so is the quality.
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
from samstudent.pseudolabels.dice_bound import CERTAINTY, DiceEstimate
from samstudent.sam.results import StructureResult
from samstudent.task import Task

Status = Literal["accepted", "rejected", "absent"]
#: Masks are the training targets where the filter accepts more than this fraction of the structures that were found.
MASKS_FROM = 0.5


def structure_quality(result: StructureResult) -> float:
    """Quality in [0, 1] of one refined structure by the formula; 0 if it is absent or SAM's mask is empty."""
    return sam_quality(result.predicted_iou, result.agreement) if result.present else 0.0


def sam_quality(predicted_iou: float | None, agreement: float | None) -> float:
    """The formula, in [0, 1]: 0 without an agreement, the agreement itself without a predicted IoU (None or nan)."""
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
    #: Dice that the mask reaches with the certainty ``dice_bound.CERTAINTY``, 0 to 1; None: not known.
    lower_bound: float | None = None
    #: Of an absent structure: certainty of the absence, 1 - the student's highest probability anywhere.
    absence: float | None = None
    predicted_iou: float | None = None
    agreement: float | None = None

    def as_json(self) -> dict[str, Any]:
        """Plain values for the label's info.

        ``quality`` (estimated Dice), ``lower_bound`` (Dice that the mask reaches with the probability ``certainty``),
        ``absence``, ``predicted_iou`` and ``agreement``, all 0 to 1; unknown ones are missing.
        """
        numbers = {"quality": self.quality, "lower_bound": self.lower_bound, "absence": self.absence}
        numbers |= {"certainty": None if self.lower_bound is None else CERTAINTY}
        numbers |= {"predicted_iou": self.predicted_iou, "agreement": self.agreement}
        return {"status": self.status} | {k: round(float(v), 4) for k, v in numbers.items() if v is not None}


def filter_structures(
    results: Sequence[StructureResult],
    probabilities: NDArray[Any],
    task: Task,
    estimates: Mapping[str, DiceEstimate] | None = None,
) -> list[FilteredStructure]:
    """Status of each structure by its quality and ``task.threshold_of``.

    Args:
        results: of ``refine``, in the order of ``task.names``.
        probabilities: the student's, float (S, *spatial).
        estimates: estimated Dice by name of a structure (``QualityModel.estimates``), in place of the formula for these
            structures. None: the formula for all.
    """
    filtered = []
    for result, probability in zip(results, probabilities, strict=True):
        if not result.present:
            filtered.append(FilteredStructure(result.name, "absent", None, absence=float(1 - probability.max())))
            continue
        estimate = (estimates or {}).get(result.name) or DiceEstimate(structure_quality(result))
        quality = estimate.dice
        status: Status = "accepted" if quality >= task.threshold_of(result.name) else "rejected"
        numbers = {"predicted_iou": result.predicted_iou, "agreement": result.agreement}
        numbers["lower_bound"] = estimate.lower
        filtered.append(FilteredStructure(result.name, status, quality, **numbers))
    return filtered


def uses_probabilities(labels: Iterable[Mapping[str, Mapping[str, Any]]], targets: Targets = "auto") -> bool:
    """Whether the training targets are the probabilities of these pseudo labels, or their masks.

    Masks with weights exclude wrong structures; but where the filter accepts few, they leave little to train on
    (docs/decisions/0014-masks-or-probabilities.md).

    Args:
        labels: ``structures`` of the info of each pseudo label.
        targets: of ``Ablations``.
    """
    if targets != "auto":
        return targets == "probabilities"
    counts = Counter(record.get("status") for structures in labels for record in structures.values())
    return counts["accepted"] <= MASKS_FROM * (counts["accepted"] + counts["rejected"])


def absence_prior(present: NDArray[Any], annotated: NDArray[Any] | None = None) -> NDArray[Any]:
    """Absence prior: probability float32 (S,) in (0, 1) that a structure which a student does not find is absent.

    A structure that every labelled case shows was probably missed, and is not absent. Taught as background, it would be
    missed more often by each further student. Laplace's rule limits the certainty from few labelled cases.

    Args:
        present: bool (cases, S), whether the human label of a case shows the structure.
        annotated: bool (cases, S), whether the label annotates the structure; None: always.
    """
    annotated = np.ones_like(present, dtype=bool) if annotated is None else annotated
    cases, shown = annotated.sum(axis=0), (present & annotated).sum(axis=0)
    return np.asarray(1 - (shown + 1) / (cases + 2), dtype=np.float32)


def training_weights(structures: Mapping[str, Mapping[str, Any]], task: Task, by_quality: bool = True) -> NDArray[Any]:
    """Weights float32 (S,) for the loss, from the ``structures`` in a pseudo label's info.

    The weight of accepted structures is their quality, that of absent ones the certainty of the absence; that of
    rejected ones, and of those missing in the info, is 0: nothing is known of them.

    Args:
        structures: by name.
        task: task that defines their order.
        by_quality: False: the weight of accepted and absent structures is 1.
    """
    weights = np.zeros(len(task.names), dtype=np.float32)
    for index, name in enumerate(task.names):
        record = structures.get(name, {})
        if record.get("status") in ("accepted", "absent"):
            certainty = record.get("quality" if record["status"] == "accepted" else "absence")
            weights[index] = 1.0 if certainty is None or not by_quality else certainty
    return weights
