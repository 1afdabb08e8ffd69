"""Simulated annotator with errors: displaced outlines and missed structures.

Labels of a data set were often corrected by several people. Those of one person under time pressure differ from them,
and a strategy that prefers difficult cases may suffer more from it than a random choice.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from samstudent.imaging.annotations import LabelledMasks
from samstudent.imaging.case import CaseImage
from samstudent.research.folder import FolderCase
from samstudent.task import Task

#: Share of structures that are missed, relative to ``noise``: one of 20 where outlines are off by 10 %
#: of the structure's size.
_MISSED = 0.5
#: Length over which the displacement of an outline changes, as a share of the structure's size.
_SMOOTH = 0.25


@dataclass(frozen=True)
class NoisyCase(FolderCase):
    """Case whose label has an annotator's errors, always the same ones.

    Attributes:
        noise: as of ``noisy_masks``.
    """

    noise: float = 0.0

    @classmethod
    def of(cls, case: FolderCase, noise: float) -> NoisyCase:
        """The case with errors in its label, if it has one; their size is part of the label's digest."""
        digests = case.digests
        if digests.label is not None:
            digests = replace(digests, label=f"{digests.label} noise {noise:g}")
        return cls(case.id, case.image, case.label, case.bits, digests, noise)

    def read(self, task: Task) -> tuple[CaseImage, LabelledMasks | None]:
        """Image and label with errors; None: no label."""
        image, label = super().read(task)
        if label is not None:
            label = replace(label, masks=noisy_masks(label.masks, self.noise, task.overlap, self.id))
        return image, label


def noisy_masks(masks: NDArray[Any], noise: float, overlap: bool, case_id: str) -> NDArray[Any]:
    """Masks with an annotator's errors.

    Each outline is displaced by a smooth random distance, and ``noise / 2`` of the structures are missed.

    Args:
        masks: bool (S, *spatial).
        noise: standard deviation of the displacement as a share of the structure's size, the side of a square (cube) of
            its area (volume).
        overlap: whether structures may overlap; otherwise a pixel belongs to the one in which it lies deepest.
        case_id: the errors of a case are drawn from it.

    Returns:
        bool (S, *spatial).
    """
    seed = int.from_bytes(hashlib.sha256(case_id.encode()).digest()[:8], "big")
    depths = np.stack([_displaced(mask, noise, np.random.default_rng([seed, i])) for i, mask in enumerate(masks)])
    inside = depths > 0
    if not overlap:
        inside &= np.arange(len(masks)).reshape(-1, *(1,) * (masks.ndim - 1)) == depths.argmax(axis=0)
    return np.asarray(inside)


def _displaced(mask: NDArray[Any], noise: float, rng: np.random.Generator) -> NDArray[Any]:
    """Depth of each pixel below the displaced outline, in pixels; negative outside."""
    if not mask.any() or rng.random() < _MISSED * noise:
        return np.full(mask.shape, -np.inf)
    size = float(mask.sum()) ** (1 / mask.ndim)
    # The distance to the outline, which lies between two pixels.
    depth = np.where(
        mask,
        ndimage.distance_transform_edt(mask) - 0.5,
        0.5 - ndimage.distance_transform_edt(~mask),
    )
    field = ndimage.gaussian_filter(rng.standard_normal(mask.shape), max(1.0, _SMOOTH * size))
    return np.asarray(depth + noise * size * field / max(float(field.std()), 1e-9))
