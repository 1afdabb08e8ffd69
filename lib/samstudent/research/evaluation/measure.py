"""Measurement of models on one labelled case: Dice and surface distances of each structure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from samstudent.errors import UserError
from samstudent.imaging.annotations import LabelledMasks
from samstudent.imaging.case import CaseImage
from samstudent.imaging.formats import kind_of
from samstudent.imaging.image_paths import ImagePath
from samstudent.inference.round_model import RoundModel
from samstudent.metrics import dice_where_known, surface_distances, surface_distances_95
from samstudent.rounds.case_store import CaseSource
from samstudent.rounds.scoring import without_nan
from samstudent.rounds.trained import Trained
from samstudent.task import Task

Unit = Literal["mm", "pixels"]
#: Values of the structures in the order of the task; None: not measured.
Row = Sequence[float | None]


@dataclass(frozen=True)
class EvaluatedModel:
    """One of the models.

    Attributes:
        name: "r0003" or "r0003+sam".
        model: model of the round.
        refine: whether SAM refines the masks.
        trained: training cases of the round's student.
    """

    name: str
    model: RoundModel
    refine: bool
    trained: Trained

    def predict(self, image: CaseImage) -> NDArray[Any]:
        """Masks bool (S, *spatial)."""
        return self.model.predict(image, refine=self.refine).masks


@dataclass(frozen=True)
class ModelScores:
    """Figures of a model on one case; None: not measured.

    Attributes:
        dice: 0 to 1; None where neither label nor mask has the structure, or the label does not annotate it.
        distance: mean symmetric surface distance; None unless both have the structure.
        distance_95: 95th percentile of the surface distances (HD95).
    """

    dice: Row
    distance: Row
    distance_95: Row


@dataclass(frozen=True)
class MeasuredCase:
    """Figures of all models on one case.

    Attributes:
        id: of the case.
        unit: of the distances: mm, or pixels of images without a spacing.
        trained: model -> id under which this image trained its student; empty: it trained none of them.
        scores: figures by name of the model.
    """

    id: str
    unit: Unit
    trained: Mapping[str, str]
    scores: Mapping[str, ModelScores]

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def measure_case(source: CaseSource, models: Sequence[EvaluatedModel], task: Task, *, of_study: bool) -> MeasuredCase:
    """Measure models on a case.

    Args:
        source: the case.
        models: with different names.
        task: the task.
        of_study: as of ``EvaluationCases``.

    Raises:
        UserError, OSError: image or label cannot be read.
    """
    content = source.content()
    image, truth = source.read(task)
    if truth is None:
        raise UserError(f"case {source.id} has no human label")
    trained = {}
    for model in models:
        known = model.trained if of_study else Trained(images=model.trained.images)
        if (id := known.case_of(source.id, content.image)) is not None:
            trained[model.name] = id
    unit = unit_of(image)
    spacing = image.grid.spacing if unit == "mm" else (1.0,) * task.dimension
    scores = {model.name: _scores(truth, model.predict(image), spacing) for model in models}
    return MeasuredCase(source.id, unit, trained, scores)


def unit_of(image: CaseImage) -> Unit:
    """Unit of distances in an image: pixels, if its file has no spacing."""
    if image.path is None:
        return "pixels"
    place = ImagePath.of(image.path).place
    kind = "dicom" if place.is_dir() else kind_of(place)
    # Of DICOM without a spacing the reader returns 1 mm, as ITK does; a radiograph of exactly 1 mm is less probable.
    unknown = kind in ("png", "jpeg", "tiff") or (kind == "dicom" and set(image.grid.spacing) == {1.0})
    return "pixels" if unknown else "mm"


def _scores(truth: LabelledMasks, masks: NDArray[Any], spacing: Sequence[float]) -> ModelScores:
    known = truth.known_part(masks)
    return ModelScores(
        without_nan(dice_where_known(truth, masks)),
        without_nan(surface_distances(truth.masks, known, spacing)),
        without_nan(surface_distances_95(truth.masks, known, spacing)),
    )


def mean_dice(case: MeasuredCase, model: str) -> float:
    """Mean Dice of a case over the structures that label or mask have; nan: none."""
    values = [value for value in case.scores[model].dice if value is not None]
    return float(np.mean(values)) if values else float("nan")
