"""Results of a refinement: masks, soft masks, and the figures of each structure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from samstudent.sam.prompts import Mask

Soft = NDArray[np.float16]


@dataclass(frozen=True)
class StructureResult:
    """Prompts, figures and source of one structure.

    Figures are None where the structure is absent or SAM was not run on it. In volumes predicted IoU and stability are
    means over the slices, weighted by the coarse mask's area.

    Attributes:
        name: of the structure.
        present: whether the coarse mask has it.
        prompts: one per stage (and slice): ``Prompt.as_json`` with ``stage`` from 1, ``mask_input`` "logits" or "mask"
            where one was given, and ``slice`` (z) in volumes.
        predicted_iou: SAM's own estimate of its last mask's overlap with the truth.
        agreement: Dice of the coarse mask and SAM's mask, also where the coarse mask is the result; 0 where SAM's is
            empty or lost all its pixels to other structures.
        refined: whether the mask is at least partly SAM's, in at least one slice.
        source: source of the mask: the recipe's ``source``, or "student" where ``refined`` is False.
        stability: SAM's stability score, the IoU of its masks at logits above +1 and above -1.
    """

    name: str
    present: bool
    prompts: list[dict[str, Any]]
    predicted_iou: float | None
    agreement: float | None
    refined: bool = False
    source: str | None = None
    stability: float | None = None

    def as_json(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Tally:
    """Pixels of one structure: of its coarse mask, of SAM's mask, and of both."""

    coarse: int
    sam: int
    common: int


@dataclass(frozen=True)
class Refinement:
    """Structures before and after SAM.

    Attributes:
        masks: bool (S, *spatial).
        coarse: bool (S, *spatial), the masks from which SAM was prompted.
        structures: one result per structure in the same order.
        soft: float16 (S, *spatial), the probability of each structure after refinement; ``masks`` is where it is at
            least 0.5. 0 where absent.
        tallies: of a 2D image, pixel counts on the working grid for ``merge_slices``; None where SAM was not run.
    """

    masks: Mask
    coarse: Mask
    structures: list[StructureResult]
    soft: Soft
    tallies: Sequence[Tally | None] = ()

    def as_json(self) -> list[dict[str, Any]]:
        """One entry per structure."""
        return [structure.as_json() for structure in self.structures]


def merge_slices(
    names: Sequence[str], slices: Sequence[tuple[int, Sequence[StructureResult], Sequence[Tally | None]]]
) -> list[StructureResult]:
    """One result per structure of a volume, from (z, ``structures``, ``tallies``) of its slices."""
    merged = []
    for i, name in enumerate(names):
        parts = [(z, structures[i], tallies[i]) for z, structures, tallies in slices if structures[i].present]
        if not parts:
            merged.append(StructureResult(name, False, [], None, None))
            continue
        run = [(result, tally) for _, result, tally in parts if tally is not None]
        areas = [tally.coarse for _, tally in run]
        both = sum(tally.coarse + tally.sam for _, tally in run)
        merged.append(
            StructureResult(
                name,
                True,
                [{"slice": z, **entry} for z, result, _ in parts for entry in result.prompts],
                _mean([result.predicted_iou for result, _ in run], areas),
                2 * sum(tally.common for _, tally in run) / both if run else None,
                any(result.refined for _, result, _ in parts),
                next((result.source for _, result, _ in parts if result.refined), "student"),
                _mean([result.stability for result, _ in run], areas),
            )
        )
    return merged


def _mean(values: Sequence[float | None], weights: Sequence[int]) -> float | None:
    """Weighted mean of the known values; None without any."""
    known = [(value, weight) for value, weight in zip(values, weights, strict=True) if value is not None]
    return sum(v * w for v, w in known) / sum(w for _, w in known) if known else None
