"""What can be seen of a refined mask without the truth: numbers that a calibrator turns into an estimate of its Dice.

They come from SAM (predicted IoU, agreement, stability, jitter), from the student (entropy, certainty, expected Dice,
agreement of an ensemble's members) and from what the labelled cases show (size, position, arrangement, frequency).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from samstudent.errors import UserError
from samstudent.sam.results import Refinement, StructureResult

Float = NDArray[np.float64]

#: z-scores beyond this say no more than "not like the labelled cases".
_LARGEST_Z = 6.0
#: Until the labelled cases say otherwise, a structure's log area and its relative centroid vary by this much.
_USUAL_SD = (0.3, 0.05)
#: For how many labelled cases the usual spread counts.
_USUAL_CASES = 3.0
#: A case's common shift needs this many structures.
_ARRANGED = 3
#: A component below this share of the largest is a speck, not a second structure.
_SPECK = 0.1


@dataclass(frozen=True)
class QualityFeatures:
    """Of one present structure of one case; nan where unknown.

    Attributes:
        predicted_iou: SAM's guess of its own mask's IoU. nan where SAM was not asked.
        agreement: Dice of the coarse mask and SAM's.
        stability: IoU of SAM's masks at a raised and a lowered threshold.
        jitter: mean Dice of SAM's mask and those from jittered boxes.
        entropy: the student's mean binary entropy in bits in and shortly around its coarse mask, 0 to 1.
        certainty: the student's mean probability in the final mask.
        expected: Dice of the final mask that the student's probabilities promise, 2 sum(p m) / (sum(p) + sum(m)).
        ensemble: mean Dice over all pairs of members' masks. nan without members.
        log_area: z-score of the log of the area's share of the image, against the atlas; -6 to 6.
        offset: distance of the centroid from the atlas's, in standard deviations (root mean square over the axes); 0
            to 6.
        arrangement: the same after the shift that all structures of the case have in common is taken off; it tells a
            misplaced structure from an image that is cut otherwise. nan with fewer than three structures.
        components: number of components of probability >= 0.5 that are no specks; 0 where nothing is that probable.
        prevalence: share of labelled cases that show the structure, by Laplace's rule.
    """

    predicted_iou: float = math.nan
    agreement: float = math.nan
    stability: float = math.nan
    jitter: float = math.nan
    entropy: float = math.nan
    certainty: float = math.nan
    expected: float = math.nan
    ensemble: float = math.nan
    log_area: float = math.nan
    offset: float = math.nan
    arrangement: float = math.nan
    components: float = math.nan
    prevalence: float = math.nan

    def as_json(self) -> dict[str, float]:
        """What is known, rounded to four digits."""
        return {name: round(value, 4) for name, value in asdict(self).items() if math.isfinite(value)}

    @classmethod
    def from_json(cls, content: Mapping[str, float]) -> QualityFeatures:
        """The reverse of ``as_json``."""
        return cls(**content)


@dataclass(frozen=True)
class ShapeStatistics:
    """Size and place of each structure in the labelled cases, relative to the image.

    Attributes:
        log_area: float (cases, S), log of the structure's share of the image's pixels; nan where absent.
        centroid: float (cases, S, axes), 0 to 1 along each axis; nan where absent.
        known: bool (cases, S), labels that say where all of the structure is; None: all do.
    """

    log_area: Float
    centroid: Float
    known: NDArray[np.bool_] | None = None

    @classmethod
    def of(cls, truths: Iterable[NDArray[Any]], known: NDArray[np.bool_] | None = None) -> ShapeStatistics:
        """Measure human labels, each bool (S, *spatial) of any size; at least one.

        Args:
            known: bool (cases, S), see ``ShapeStatistics``; others are not measured.

        Raises:
            UserError: there is none, or the numbers of structures or axes differ.
        """
        measured = [_measure(truth) for truth in truths]
        if not measured:
            raise UserError("an atlas needs at least one labelled case")
        if len({place.shape for _, place in measured}) > 1:
            raise UserError("labels of different numbers of structures or axes make no atlas")
        areas, places = (np.stack(parts) for parts in zip(*measured, strict=True))
        if known is None or known.all():
            return cls(areas, places)
        return cls(np.where(known, areas, np.nan), np.where(known[..., None], places, np.nan), known)

    def without(self, case: int) -> ShapeStatistics:
        """The atlas that had not seen the case of this number. A case must not be compared with its own label: the
        signals of labelled cases would look better than those of unlabelled ones ever can."""
        known = None if self.known is None else np.delete(self.known, case, 0)
        return ShapeStatistics(np.delete(self.log_area, case, 0), np.delete(self.centroid, case, 0), known)

    @property
    def prevalence(self) -> Float:
        """Share of cases that show each structure, float (S,); Laplace's rule keeps few cases from being sure."""
        shown = np.isfinite(self.log_area).sum(axis=0)
        cases = len(self.log_area) if self.known is None else self.known.sum(axis=0)
        return np.asarray((shown + 1) / (cases + 2))

    def compare(self, masks: NDArray[Any]) -> tuple[Float, Float, Float]:
        """``log_area``, ``offset`` and ``arrangement`` of masks bool (S, *spatial); each float (S,)."""
        area, place = _measure(masks)
        if place.shape != self.centroid.shape[1:]:
            raise UserError(f"masks of shape {masks.shape} do not fit an atlas of {self.centroid.shape[1:]}")
        area_mean, area_sd = self._area
        place_mean, place_sd = self._place
        shift = place - place_mean
        apart = _rms((shift - _common(shift[None])[0]) / self._apart)
        return (
            np.clip((area - area_mean) / area_sd, -_LARGEST_Z, _LARGEST_Z),
            np.minimum(_rms(shift / place_sd), _LARGEST_Z),
            np.minimum(apart, _LARGEST_Z),
        )

    @cached_property
    def _area(self) -> tuple[Float, Float]:
        return _mean_and_spread(self.log_area, _USUAL_SD[0])

    @cached_property
    def _place(self) -> tuple[Float, Float]:
        return _mean_and_spread(self.centroid, _USUAL_SD[1])

    @cached_property
    def _apart(self) -> Float:
        shift = self.centroid - self._place[0]
        return _mean_and_spread(shift - _common(shift), _USUAL_SD[1])[1]

    def as_json(self) -> dict[str, Any]:
        """Plain values, None for nan."""
        content = {"log_area": _nested(self.log_area), "centroid": _nested(self.centroid)}
        return content if self.known is None else content | {"known": self.known.tolist()}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> ShapeStatistics:
        """The reverse of ``as_json``."""
        known = np.array(content["known"], dtype=bool) if "known" in content else None
        return cls(np.array(content["log_area"], dtype=float), np.array(content["centroid"], dtype=float), known)


def quality_features_of(
    refinement: Refinement,
    probabilities: NDArray[Any],
    atlas: ShapeStatistics | None,
    members: NDArray[Any] | None = None,
) -> list[QualityFeatures | None]:
    """QualityFeatures of each structure; None for those that the coarse mask does not have.

    Args:
        refinement: of ``refine``.
        probabilities: the student's (an ensemble's mean), float (S, *spatial) on the same grid.
        atlas: of the labelled cases, without this one; None: size, place and frequency stay unknown.
        members: probabilities of an ensemble's members, float (K, S, *spatial); None or K = 1: no such signal.
    """
    final = np.where(_any(refinement.masks), refinement.masks, refinement.coarse)
    unknown = np.full(len(final), np.nan)
    area, offset, arrangement = (unknown, unknown, unknown) if atlas is None else atlas.compare(final)
    prevalence = unknown if atlas is None else atlas.prevalence
    signals: list[QualityFeatures | None] = []
    for i, result in enumerate(refinement.structures):
        if not result.present:
            signals.append(None)
            continue
        signals.append(
            QualityFeatures(
                **_of_sam(result),
                **_of_student(probabilities[i], refinement.coarse[i], final[i]),
                ensemble=math.nan if members is None else _pairwise([member[i] >= 0.5 for member in members]),
                log_area=float(area[i]),
                offset=float(offset[i]),
                arrangement=float(arrangement[i]),
                prevalence=float(prevalence[i]),
            )
        )
    return signals


def _of_sam(result: StructureResult) -> dict[str, float]:
    found = {
        "predicted_iou": result.predicted_iou,
        "agreement": result.agreement,
        "stability": result.stability,
        "jitter": result.jitter,
    }
    return {name: math.nan if value is None else float(value) for name, value in found.items()}


def _of_student(probability: NDArray[Any], coarse: NDArray[Any], final: NDArray[Any]) -> dict[str, float]:
    """Features of one structure's probabilities (*spatial), its coarse mask and the final one, neither empty."""
    radius = int(np.clip(round(0.05 * coarse.sum() ** (1 / coarse.ndim)), 1, 16))
    box = ndimage.find_objects(coarse.astype(np.uint8))[0]
    window = tuple(slice(max(part.start - radius, 0), part.stop + radius) for part in box)
    near = ndimage.maximum_filter(coarse[window], size=2 * radius + 1)
    p = np.clip(probability[window][near].astype(np.float64), 1e-6, 1 - 1e-6)
    inside = float(probability[final].sum(dtype=np.float64))
    size = int(final.sum())
    return {
        "entropy": float(-(p * np.log2(p) + (1 - p) * np.log2(1 - p)).mean()),
        "certainty": inside / size,
        "expected": 2 * inside / (size + float(probability.sum(dtype=np.float64))),
        "components": float(_components(probability >= 0.5)),
    }


def _components(mask: NDArray[Any]) -> int:
    labels, count = ndimage.label(mask, structure=np.ones((3,) * mask.ndim, dtype=bool))
    if not count:
        return 0
    sizes = np.bincount(labels.ravel())[1:]
    return int((sizes >= _SPECK * sizes.max()).sum())


def _pairwise(masks: Sequence[NDArray[Any]]) -> float:
    """Mean Dice over all pairs; two empty masks count 0, for they speak against the structure that is there."""
    pairs = list(combinations(masks, 2))
    if not pairs:
        return math.nan
    sizes = [max(int(a.sum()) + int(b.sum()), 1) for a, b in pairs]
    return float(np.mean([2 * int((a & b).sum()) / size for (a, b), size in zip(pairs, sizes, strict=True)]))


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


def _mean_and_spread(values: Float, usual: float) -> tuple[Float, Float]:
    """Mean over the cases (axis 0) without nan, and the standard deviation to expect of one more case.

    The variance is drawn towards that of all structures together, and this towards ``usual``, as if a few cases more
    had shown it: two labelled cases that happen to be alike must not make every third one an outlier.
    """
    known = np.isfinite(values)
    count = known.sum(axis=0)
    mean = np.where(count > 0, np.where(known, values, 0).sum(axis=0) / np.maximum(count, 1), np.nan)
    squares = np.where(known, (values - mean) ** 2, 0).sum(axis=0)
    freedom = np.maximum(count - 1, 0)
    together = (squares.sum() + _USUAL_CASES * usual**2) / (freedom.sum() + _USUAL_CASES)
    variance = (squares + _USUAL_CASES * together) / (freedom + _USUAL_CASES)
    return mean, np.sqrt(variance * (1 + 1 / np.maximum(count, 1)))


def _common(shift: Float) -> Float:
    """The median over the structures of shifts (cases, S, axes), as (cases, 1, axes); nan where too few are there."""
    common = np.full((len(shift), 1, shift.shape[2]), np.nan)
    for case, values in enumerate(shift):
        known = values[np.isfinite(values).all(axis=1)]
        if len(known) >= _ARRANGED:
            common[case] = np.median(known, axis=0)
    return common


def _rms(values: Float) -> Float:
    return np.asarray(np.sqrt((values**2).mean(axis=-1)))


def _any(masks: NDArray[Any]) -> NDArray[Any]:
    """Whether each mask of (S, *spatial) has anything, shaped to go with them."""
    found = masks.reshape(len(masks), -1).any(axis=1)
    return np.asarray(found.reshape(-1, *(1,) * (masks.ndim - 1)))


def _nested(values: Float) -> Any:
    if values.ndim > 1:
        return [_nested(part) for part in values]
    return [round(float(value), 5) if math.isfinite(value) else None for value in values]
