"""Metrics of masks: Dice and surface distance per structure, and their table over cases.

numpy in, numpy out; MONAI's metrics inside. The paper (arXiv 2411.12602) leaves out structures that are absent in the
truth, so that false positives do not count. Here a false positive has a Dice of 0 and is counted separately, so that
both means can be reported.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from monai.metrics.hausdorff_distance import compute_hausdorff_distance
from monai.metrics.meandice import compute_dice
from monai.metrics.surface_distance import compute_average_surface_distance
from numpy.typing import NDArray
from scipy import ndimage

from samstudent.errors import UserError
from samstudent.imaging.annotations import LabelledMasks

Masks = NDArray[Any]


@dataclass(frozen=True)
class StructureScore:
    """One structure's Dice over many cases.

    Attributes:
        name: of the structure.
        mean: over the cases whose truth has it, as in the paper; nan if none has.
        dice_with_false_positives: over these and the false positives, which count 0; nan if there are neither.
        cases: number of cases whose truth has it.
        missed: number of these whose prediction lacks it.
        false_alarms: number of cases whose truth lacks it and whose prediction has it.
    """

    name: str
    mean: float
    dice_with_false_positives: float
    cases: int
    missed: int
    false_alarms: int


def dice(truth: Masks, prediction: Masks) -> float:
    """Dice coefficient of two masks, bool (*spatial): nan if both are empty, 0 if only one is."""
    return float(dice_per_structure(truth[None], prediction[None])[0])


def dice_per_structure(truth: Masks, prediction: Masks) -> NDArray[np.float64]:
    """Dice coefficient of each structure.

    Args:
        truth: bool (S, *spatial).
        prediction: the same shape.

    Returns:
        float (S,); nan where truth and prediction are both empty, 0 where only one is.
    """
    true, predicted = _tensors(truth, prediction)
    scores = compute_dice(predicted, true, include_background=True, ignore_empty=False)[0].double().numpy()
    scores[~_present(truth) & ~_present(prediction)] = np.nan  # MONAI's value is 1; an absent structure must not count
    return np.asarray(scores)


def dice_where_known(truth: LabelledMasks, prediction: Masks) -> NDArray[np.float64]:
    """``dice_per_structure`` of annotated structures; nan for those that are not annotated."""
    return dice_per_structure(truth.masks, truth.known_part(prediction))


def surface_distances(truth: Masks, prediction: Masks, spacing: Sequence[float]) -> NDArray[np.float64]:
    """Mean surface distance of each structure, symmetric.

    Computed in the window around both masks, which takes seconds for 32 teeth on 80 radiographs.

    Args:
        truth: bool (S, *spatial), 2D or 3D.
        prediction: the same shape.
        spacing: mm per pixel in array order, as ``Grid.spacing``.

    Returns:
        mm, float (S,); nan where either mask is empty.
    """
    mm, found = _lengths(truth, spacing), np.full(len(truth), np.nan)
    for number, true, predicted in _windows(truth, prediction):
        found[number] = compute_average_surface_distance(
            predicted, true, include_background=True, symmetric=True, spacing=mm
        ).item()
    return found


def surface_distances_95(truth: Masks, prediction: Masks, spacing: Sequence[float]) -> NDArray[np.float64]:
    """95th percentile of the surface distances of each structure (HD95): the larger one of both directions.

    Arguments and returned values are those of ``surface_distances``.
    """
    mm, found = _lengths(truth, spacing), np.full(len(truth), np.nan)
    for number, true, predicted in _windows(truth, prediction):
        found[number] = compute_hausdorff_distance(
            predicted, true, include_background=True, percentile=95, spacing=mm
        ).item()
    return found


def dice_table(truths: Iterable[Masks], predictions: Iterable[Masks], names: Sequence[str]) -> list[StructureScore]:
    """Scores of every structure over cases, and a last row ``mean`` over the structures that have a score.

    Args:
        truths: one bool (S, *spatial) for each case; cases may differ in size.
        predictions: the same, in the same order.
        names: of the S structures.
    """
    scores, present = [], []
    for truth, prediction in zip(truths, predictions, strict=True):
        if len(truth) != len(names):
            raise UserError(f"masks of {len(truth)} structures, but {len(names)} names")
        scores.append(dice_per_structure(truth, prediction))
        present.append(np.stack([_present(truth), _present(prediction)], -1))
    if not scores:
        raise UserError("no cases to compare")
    columns, found = np.array(scores).T, np.array(present).transpose(1, 0, 2)
    rows = [_score(name, column, have) for name, column, have in zip(names, columns, found, strict=True)]
    total = StructureScore(
        "mean",
        mean_of(row.mean for row in rows),
        mean_of(row.dice_with_false_positives for row in rows),
        len(scores),
        sum(row.missed for row in rows),
        sum(row.false_alarms for row in rows),
    )
    return [*rows, total]


def mean_of(values: Iterable[float]) -> float:
    """Mean without nan; nan without a value."""
    measured = [value for value in values if not np.isnan(value)]
    return float(np.mean(measured)) if measured else float("nan")


def mean_and_error(differences: NDArray[np.float64]) -> tuple[float, float]:
    """Mean of the paired differences of two models, (cases,), and its standard error."""
    return float(differences.mean()), float(differences.std(ddof=1) / len(differences) ** 0.5)


def _score(name: str, dice_of_cases: NDArray[np.float64], found: NDArray[Any]) -> StructureScore:
    """Score of one structure; ``found``: bool (cases, 2), whether truth and prediction have it."""
    true, predicted = found[:, 0], found[:, 1]
    return StructureScore(
        name,
        mean_of(dice_of_cases[true]),
        mean_of(dice_of_cases),
        int(true.sum()),
        int((true & ~predicted).sum()),
        int((~true & predicted).sum()),
    )


def _lengths(truth: Masks, spacing: Sequence[float]) -> list[float]:
    if len(spacing) != truth.ndim - 1:
        raise UserError(f"spacing needs {truth.ndim - 1} numbers, one for each axis, not {list(spacing)}")
    return [float(s) for s in spacing]


def _windows(truth: Masks, prediction: Masks) -> Iterator[tuple[int, torch.Tensor, torch.Tensor]]:
    """(number, true, predicted) of each structure that both have: its masks in the window around both, (1, 1, *)."""
    _check_shapes(truth, prediction)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a warning of MONAI about its own argument
        for number in np.flatnonzero(_present(truth) & _present(prediction)):
            both = np.stack([truth[number], prediction[number]]).astype(bool)
            window = ndimage.find_objects(both.any(0).astype(np.uint8))[0]
            true, predicted = torch.from_numpy(both[(slice(None), *window)])[:, None, None]
            yield int(number), true, predicted


def _present(masks: Masks) -> NDArray[Any]:
    return np.asarray(masks, bool).reshape(len(masks), -1).any(1)


def _tensors(truth: Masks, prediction: Masks) -> tuple[torch.Tensor, torch.Tensor]:
    """Both as float (1, S, *spatial), for MONAI."""
    _check_shapes(truth, prediction)
    true, predicted = (torch.from_numpy(np.ascontiguousarray(m, bool)[None]).float() for m in (truth, prediction))
    return true, predicted


def _check_shapes(truth: Masks, prediction: Masks) -> None:
    if truth.shape != prediction.shape:
        raise UserError(f"truth has the shape {truth.shape}, prediction {prediction.shape}; they must be equal")
