"""Predicted masks of one image, with the quality of each structure and the versions of the models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from samstudent.errors import NotFound
from samstudent.imaging.grid import Grid
from samstudent.imaging.label_writing import label_map
from samstudent.inference.result_files import write_result
from samstudent.inference.round_refiner import formula_quality
from samstudent.pseudolabels.dice_bound import DiceEstimate
from samstudent.sam.results import Refinement, StructureResult
from samstudent.task import Task


@dataclass(frozen=True)
class PredictedStructure:
    """One structure of a prediction. Numbers are None where they are unknown.

    Attributes:
        name: of the structure.
        present: whether the mask has a pixel.
        pixels: number of the mask's pixels or voxels.
        quality: estimate of the mask's Dice, 0 to 1; only of masks that SAM refined.
        lower_bound: Dice that the mask reaches with a certainty of 90 %.
        estimated_by: origin of the quality: the round's quality model, fitted to its labels, or the formula
            sqrt(predicted IoU x agreement), which is not calibrated.
        predicted_iou: SAM's own estimate of its mask's overlap.
        agreement: Dice of the student's mask and SAM's.
    """

    name: str
    present: bool
    pixels: int
    quality: float | None = None
    lower_bound: float | None = None
    estimated_by: Literal["quality model", "formula"] | None = None
    predicted_iou: float | None = None
    agreement: float | None = None


@dataclass(frozen=True)
class Origin:
    """Versions of the models of a prediction.

    Attributes:
        round: id of the round; None: given masks were refined without a round.
        student: SHA-256, hex, of the student's model file; None: the masks were given.
        sam: ``RoundRefiner.facts``; None: SAM was not run.
    """

    round: str | None
    student: str | None
    sam: Mapping[str, Any] | None = None

    @property
    def model(self) -> str:
        """Name of the server's model with the same masks: "student" or "student+sam"; "sam" for given masks."""
        if self.student is None:
            return "sam"
        return "student" if self.sam is None else "student+sam"

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


@dataclass(frozen=True, eq=False)
class Prediction:
    """Masks of one image.

    Attributes:
        masks: bool (S, *spatial) in the order of ``task.names``, in canonical orientation: (y, x) as displayed, or
            (z, y, x) with axes to the patient's head, front and right. ``grid.to_file(masks)`` has the file's axes.
        structures: one entry for each mask.
        grid: grid of the image.
        task: the task.
        origin: versions of the models.
        source: file or folder of the image; None: it was an array.
    """

    masks: NDArray[np.bool_]
    structures: Sequence[PredictedStructure]
    grid: Grid
    task: Task
    origin: Origin
    source: Path | None = None

    def __getitem__(self, name: str) -> NDArray[np.bool_]:
        """Mask of a structure, bool (*spatial).

        Raises:
            NotFound: the task has no such structure.
        """
        if name not in self.task.names:
            raise NotFound(f"structure {name!r}: the task has {', '.join(self.task.names)}")
        return np.asarray(self.masks[self.task.names.index(name)])

    def label_map(self) -> NDArray[np.uint8]:
        """One label map, uint8 (*spatial): 0 background, i + 1 for ``masks[i]``; of overlapping structures the smaller
        one has the pixel."""
        return label_map(self.masks)

    def save(self, path: str | Path) -> Path:
        """Write the masks on the file grid of the image, and return the path.

        Args:
            path: with the ending of the format: ``.seg.nrrd`` and ``.dcm`` (DICOM SEG; the image must be DICOM) keep
                names and overlaps; ``.nii.gz``, ``.nii``, ``.nrrd`` and, in 2D, ``.png`` and ``.tif`` are label maps.

        Raises:
            UserError: another ending, a volume as PNG or TIFF, or DICOM SEG of an image that is not DICOM.
        """
        return write_result(Path(path), self.masks, self.task, self.grid, self.source, self._provenance())

    def _provenance(self) -> dict[str, str]:
        origin = self.origin
        found = {"model": origin.model, "round": origin.round, "student": origin.student}
        found["sam_digest"] = None if origin.sam is None else str(origin.sam["digest"])
        return {key: value for key, value in found.items() if value}


def structures_of(masks: NDArray[Any], task: Task) -> list[PredictedStructure]:
    """Structures of masks bool (S, *spatial) that SAM did not refine."""
    return [
        PredictedStructure(name, bool(mask.any()), int(np.count_nonzero(mask)))
        for name, mask in zip(task.names, masks, strict=True)
    ]


def refined_structures(
    refinement: Refinement, task: Task, estimates: Mapping[str, DiceEstimate]
) -> list[PredictedStructure]:
    """Structures of a refinement; ``estimates``: of ``RoundRefiner.estimates``, otherwise the formula is used."""
    found = structures_of(refinement.masks, task)
    return [
        _with_quality(structure, result, estimates.get(structure.name)) if structure.present else structure
        for structure, result in zip(found, refinement.structures, strict=True)
    ]


def _with_quality(
    structure: PredictedStructure, result: StructureResult, estimate: DiceEstimate | None
) -> PredictedStructure:
    figures = result.predicted_iou, result.agreement
    if estimate is not None:
        return PredictedStructure(
            structure.name, True, structure.pixels, estimate.dice, estimate.lower, "quality model", *figures
        )
    quality = formula_quality(result)
    return PredictedStructure(
        structure.name, True, structure.pixels, quality, None, None if quality is None else "formula", *figures
    )
