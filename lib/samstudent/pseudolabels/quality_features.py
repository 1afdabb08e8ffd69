"""Quality features of a refined mask: measurements without the truth, for an estimate of its Dice.

Two come from SAM (its own estimate, agreement with the student), two from the predictions (soft Dice, agreement of
students and embedding heads), and two from the labelled cases (size and position).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from samstudent.errors import UserError
from samstudent.sam.results import Refinement

Float = NDArray[np.float64]

#: Largest z-score; larger values are clipped.
_LARGEST_Z = 6.0
#: Prior standard deviations of a structure's log area and of its relative centroid.
_PRIOR_SD = (0.3, 0.05)
#: Weight of the prior, in labelled cases.
_PRIOR_CASES = 3.0
#: Smallest number of structures for a case's common shift.
_MIN_STRUCTURES = 3


@dataclass(frozen=True)
class QualityFeatures:
    """Features of one structure that a refined case shows; nan where unknown.

    Attributes:
        predicted_iou: SAM's estimate of its own mask's IoU, 0 to 1. nan where SAM was not run.
        agreement: Dice of the coarse mask and SAM's, 0 to 1.
        expected_dice: soft Dice of the final mask and the probabilities, 2 sum(p m) / (sum(p) + sum(m)).
        member_agreement: Dice of the students' and the embedding heads' masks, 0 to 1. nan without heads.
        size: distance of the log of the relative area from the mean of the labelled cases, in standard deviations, 0
            to 6.
        position: distance of the centroid from the mean of the labelled cases, in standard deviations (root mean square
            over the axes), 0 to 6; with three structures or more without the common shift of the case, which
            distinguishes a misplaced structure from another field of view.
    """

    predicted_iou: float = math.nan
    agreement: float = math.nan
    expected_dice: float = math.nan
    member_agreement: float = math.nan
    size: float = math.nan
    position: float = math.nan

    def as_json(self) -> dict[str, float]:
        """Known features, rounded to four digits."""
        return {name: round(value, 4) for name, value in asdict(self).items() if math.isfinite(value)}


@dataclass(frozen=True)
class ShapeStatistics:
    """Size and position of each structure in the labelled cases, relative to the image.

    Attributes:
        log_area: float (cases, S), log of the structure's area relative to the image's; nan where it is absent or not
            known.
        centroid: float (cases, S, axes), 0 to 1 along each axis; nan likewise.
    """

    log_area: Float
    centroid: Float

    @classmethod
    def of(cls, truths: Iterable[NDArray[Any]], known: NDArray[np.bool_] | None = None) -> ShapeStatistics:
        """Measure human labels.

        Args:
            truths: each bool (S, *spatial) of any size; at least one.
            known: bool (cases, S), whether a label annotates the structure everywhere; None: all do.

        Raises:
            UserError: there is none, or the numbers of structures or axes differ.
        """
        measured = [_measure(truth) for truth in truths]
        if not measured:
            raise UserError("shape statistics need at least one labelled case")
        if len({place.shape for _, place in measured}) > 1:
            raise UserError("labels of different numbers of structures or axes have no common shape statistics")
        areas, places = (np.stack(parts) for parts in zip(*measured, strict=True))
        if known is None:
            return cls(areas, places)
        return cls(np.where(known, areas, np.nan), np.where(known[..., None], places, np.nan))

    def without(self, case: int) -> ShapeStatistics:
        """Statistics without one case. A case must not be compared with its own label, otherwise labelled cases would
        have smaller distances than unlabelled ones."""
        return ShapeStatistics(np.delete(self.log_area, case, 0), np.delete(self.centroid, case, 0))

    def compare(self, masks: NDArray[Any]) -> tuple[Float, Float]:
        """``size`` and ``position`` (see ``QualityFeatures``) of masks bool (S, *spatial); each float (S,)."""
        area, place = _measure(masks)
        if place.shape != self.centroid.shape[1:]:
            raise UserError(f"masks of shape {masks.shape} do not fit statistics of {self.centroid.shape[1:]}")
        area_mean, area_sd = self._area
        place_mean, place_sd = self._place
        shift = place - place_mean
        common = _common(shift[None])[0]
        apart = np.where(np.isfinite(common), (shift - common) / self._apart, shift / place_sd)
        rms = np.sqrt((apart**2).mean(axis=-1))
        return np.minimum(np.abs(area - area_mean) / area_sd, _LARGEST_Z), np.minimum(rms, _LARGEST_Z)

    @cached_property
    def _area(self) -> tuple[Float, Float]:
        return _mean_and_spread(self.log_area, _PRIOR_SD[0])

    @cached_property
    def _place(self) -> tuple[Float, Float]:
        return _mean_and_spread(self.centroid, _PRIOR_SD[1])

    @cached_property
    def _apart(self) -> Float:
        shift = self.centroid - self._place[0]
        return _mean_and_spread(shift - _common(shift), _PRIOR_SD[1])[1]

    def as_json(self) -> dict[str, Any]:
        """Plain values, None for nan."""
        return {"log_area": _nested(self.log_area), "centroid": _nested(self.centroid)}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> ShapeStatistics:
        """The reverse of ``as_json``."""
        return cls(np.array(content["log_area"], dtype=float), np.array(content["centroid"], dtype=float))


def quality_features_of(
    refinement: Refinement, probabilities: NDArray[Any], statistics: ShapeStatistics, members: NDArray[Any]
) -> list[QualityFeatures | None]:
    """Features of each structure; None for those that the coarse mask does not have.

    Args:
        refinement: of the probabilities.
        probabilities: float (S, *spatial).
        statistics: of the labelled cases, without this one.
        members: probabilities float (M, S, *spatial), of the students and maybe the embedding heads.
    """
    drawn = refinement.masks.reshape(len(refinement.masks), -1).any(axis=1)
    flat = drawn.reshape(-1, *(1,) * (refinement.masks.ndim - 1))
    final = np.where(flat, refinement.masks, refinement.coarse)
    size, position = statistics.compare(final)
    features: list[QualityFeatures | None] = []
    for i, result in enumerate(refinement.structures):
        if not result.present:
            features.append(None)
            continue
        inside = float(probabilities[i][final[i]].sum(dtype=np.float64))
        total = float(final[i].sum()) + float(probabilities[i].sum(dtype=np.float64))
        features.append(
            QualityFeatures(
                predicted_iou=math.nan if result.predicted_iou is None else float(result.predicted_iou),
                agreement=math.nan if result.agreement is None else float(result.agreement),
                expected_dice=2 * inside / total,
                member_agreement=_dice(*(m[i] >= 0.5 for m in members)) if len(members) == 2 else math.nan,
                size=float(size[i]),
                position=float(position[i]),
            )
        )
    return features


def _dice(a: NDArray[Any], b: NDArray[Any]) -> float:
    """Dice of two masks; 0 where both are empty, as the structure is present in the coarse mask."""
    return 2 * int((a & b).sum()) / max(int(a.sum()) + int(b.sum()), 1)


def _measure(masks: NDArray[Any]) -> tuple[Float, Float]:
    """Log relative area (S,) and relative centroid (S, axes) of masks bool (S, *spatial); nan where empty."""
    spatial = masks.shape[1:]
    area, place = np.full(len(masks), np.nan), np.full((len(masks), len(spatial)), np.nan)
    for i, mask in enumerate(masks):
        if size := int(mask.sum()):
            area[i] = math.log(size / mask.size)
            for axis, length in enumerate(spatial):
                profile = mask.sum(axis=tuple(a for a in range(mask.ndim) if a != axis))
                place[i, axis] = (profile @ (np.arange(length) + 0.5)) / size / length
    return area, place


def _mean_and_spread(values: Float, prior_sd: float) -> tuple[Float, Float]:
    """Mean over the cases (axis 0) without nan, and the predictive standard deviation of a further case.

    The variance is shrunk towards that of all structures together, and this towards ``prior_sd``, with the weight of a
    few cases: two similar labelled cases must not make every third one an outlier.
    """
    known = np.isfinite(values)
    count = known.sum(axis=0)
    mean = np.where(count > 0, np.where(known, values, 0).sum(axis=0) / np.maximum(count, 1), np.nan)
    squares = np.where(known, (values - mean) ** 2, 0).sum(axis=0)
    freedom = np.maximum(count - 1, 0)
    together = (squares.sum() + _PRIOR_CASES * prior_sd**2) / (freedom.sum() + _PRIOR_CASES)
    variance = (squares + _PRIOR_CASES * together) / (freedom + _PRIOR_CASES)
    return mean, np.sqrt(variance * (1 + 1 / np.maximum(count, 1)))


def _common(shift: Float) -> Float:
    """Median over the structures of shifts (cases, S, axes), as (cases, 1, axes); nan where too few are known."""
    common = np.full((len(shift), 1, shift.shape[2]), np.nan)
    for case, values in enumerate(shift):
        known = values[np.isfinite(values).all(axis=1)]
        if len(known) >= _MIN_STRUCTURES:
            common[case] = np.median(known, axis=0)
    return common


def _nested(values: Float) -> Any:
    if values.ndim > 1:
        return [_nested(part) for part in values]
    return [round(float(value), 5) if math.isfinite(value) else None for value in values]
