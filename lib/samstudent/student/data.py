"""Batches of training cases: sampling and augmentation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import radians
from typing import Any, NamedTuple

import numpy as np
import torch
from monai.transforms.compose import Compose
from monai.transforms.croppad.dictionary import RandCropByPosNegLabeld, SpatialPadd
from monai.transforms.intensity.dictionary import (
    RandAdjustContrastd,
    RandGaussianNoised,
    RandGaussianSmoothd,
    RandScaleIntensityd,
    RandShiftIntensityd,
)
from monai.transforms.spatial.dictionary import RandAffined, RandFlipd
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset, Sampler, default_collate

from samstudent.errors import UserError
from samstudent.student.training_case import TrainingCase
from samstudent.task import Task

#: Fraction of every batch that is human-labelled while pseudo labels are used.
HUMAN_FRACTION = 0.25


class Draw(NamedTuple):
    """One item of a batch: number of the case and seed of its augmentation.

    The seed is part of the item, so that a run is the same with any number of loading threads.
    """

    case: int
    seed: int


class MixedBatchSampler(Sampler[list[Draw]]):
    """Batches with a fixed fraction of human-labelled cases, whatever the numbers of both kinds.

    Every case of a kind is drawn once before any is drawn again. Each ``iter`` yields the next ``steps`` batches of one
    endless seeded sequence.

    Args:
        human: numbers of the human-labelled cases.
        pseudo: numbers of the others.
        batch_size: cases in a batch.
        human_fraction: fraction of human-labelled cases in a batch, 0 to 1.
        steps: batches of an epoch.
        seed: of the sequence.

    Raises:
        UserError: there is no human-labelled case.
    """

    def __init__(
        self, human: Sequence[int], pseudo: Sequence[int], batch_size: int, human_fraction: float, steps: int, seed: int
    ) -> None:
        if not human:
            raise UserError("there is no human-labelled case to train on")
        self.steps = steps
        self.batch_size = batch_size
        self.human_fraction = human_fraction if pseudo else 1.0
        self._rng = np.random.default_rng(seed)
        self._human = _endless(human, self._rng)
        self._pseudo = _endless(pseudo, self._rng)

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[list[Draw]]:
        for _ in range(self.steps):
            count = self._human_count()
            cases = [next(self._human) for _ in range(count)]
            cases += [next(self._pseudo) for _ in range(self.batch_size - count)]
            yield [Draw(case, int(self._rng.integers(2**32))) for case in cases]

    def _human_count(self) -> int:
        """Number of human-labelled cases in the next batch: the fraction of it, at least one. Where that leaves no
        place for the others, as in the batches of one of large volumes, the number is drawn."""
        count = max(1, round(self.human_fraction * self.batch_size))
        if count >= self.batch_size and self.human_fraction < 1:
            return int(self._rng.binomial(self.batch_size, self.human_fraction))
        return count


def _endless(indices: Sequence[int], rng: np.random.Generator) -> Iterator[int]:
    while True:
        yield from (int(i) for i in rng.permutation(indices))


class AugmentedCases(Dataset[dict[str, torch.Tensor]]):
    """Augmented cases: ``[Draw]`` is one item of tensors, as ``StudentLoss`` expects them in batches.

    An item has ``image``, ``weights``, ``ignore``, and ``label`` where structures do not overlap and the case's targets
    are hard, else ``masks``.

    Args:
        cases: the cases.
        task: structures and augmentation.
        plain: add ``plain`` to each item: the image after the same changes of geometry, with unchanged intensities.
        absent: bool (S,), structures trained as absent on human-labelled cases, see ``never_known``; None: none.
    """

    def __init__(
        self, cases: Sequence[TrainingCase], task: Task, plain: bool = False, absent: NDArray[Any] | None = None
    ) -> None:
        self.cases = cases
        self.absent = np.zeros(len(task.names), dtype=bool) if absent is None else absent
        self.overlap, self.plain = task.overlap, plain
        self.geometry, self.intensity = augmentation(task)

    def __getitem__(self, draw: Draw) -> dict[str, torch.Tensor]:
        case = self.cases[draw.case]
        item: dict[str, Any] = {"image": torch.from_numpy(case.image)}
        soft = case.soft
        if soft is not None:
            item["soft"] = torch.from_numpy(soft.astype(np.float32))
        else:
            # As few channels as possible: structures that do not overlap need one.
            item["hard"] = _channels(case.masks if self.overlap else label_of(case.masks))
        if case.ignore.any():
            # Where they do not overlap, the loss ignores a pixel for all structures.
            item["ignore"] = _channels(case.ignore if self.overlap else case.ignore.any(axis=0, keepdims=True))
        if case.image.ndim == 4:
            item["foreground"] = _channels(case.masks.any(axis=0, keepdims=True))
        self.geometry.set_random_state(seed=draw.seed)
        self.intensity.set_random_state(seed=draw.seed)
        moved = self.geometry(item)
        # The cropping transform of volumes returns a list of crops.
        moved = {key: torch.as_tensor(value) for key, value in (moved[0] if isinstance(moved, list) else moved).items()}
        image = moved["image"].float()
        result = {"image": torch.as_tensor(self.intensity({"image": image})["image"]).float()}
        weights = np.where(self.absent, np.float32(1), case.weights) if case.human else case.weights
        result["weights"] = torch.from_numpy(weights)
        ignored = (len(case.masks) if self.overlap else 1, *image.shape[1:])
        result["ignore"] = moved["ignore"].bool() if "ignore" in moved else torch.zeros(ignored, dtype=torch.bool)
        if soft is not None or self.overlap:
            result["masks"] = moved["soft" if soft is not None else "hard"].float()
        else:
            result["label"] = moved["hard"][0].to(torch.uint8)
        if self.plain:
            result["plain"] = image
        return result


def _channels(array: NDArray[Any]) -> torch.Tensor:
    return torch.from_numpy(array.astype(np.float32))


def label_of(masks: NDArray[Any]) -> NDArray[Any]:
    """Whole numbers (1, *grid) of masks (S, *grid) that do not overlap: 0 background, else 1 + index."""
    label = np.zeros((1, *masks.shape[1:]), dtype=np.uint8)
    for value, mask in enumerate(masks, 1):
        label[0][mask] = value
    return label


def collate(items: Sequence[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """A batch of items; labels become masks where another item of the batch has masks."""
    if any("masks" in item for item in items):
        items = [item if "masks" in item else _with_masks(item) for item in items]
    batch: dict[str, torch.Tensor] = default_collate(list(items))
    return batch


def _with_masks(item: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    values = torch.arange(1, len(item["weights"]) + 1).reshape(-1, *(1,) * item["label"].ndim)
    masks = (item["label"][None] == values).float()
    return {key: value for key, value in item.items() if key != "label"} | {"masks": masks}


def augmentation(task: Task) -> tuple[Compose, Compose]:
    """MONAI transforms of ``task.training``: of geometry, for image and targets, and of intensity, for the image.

    3D cases are padded and cropped to ``student.size`` first. Half of the crops are centred on a structure: most of a
    volume is background.
    """
    training, size, dimension = task.training, task.student.size, task.dimension
    # The keys of an item differ from case to case.
    every: list[str] = ["image", "hard", "ignore", "soft"]
    geometry: list[Any] = []
    if dimension == 3:
        cropped = [*every, "foreground"]
        geometry += [
            SpatialPadd(cropped, spatial_size=size, allow_missing_keys=True),
            RandCropByPosNegLabeld(
                cropped,
                label_key="foreground",
                spatial_size=size,
                pos=1,
                neg=1,
                num_samples=1,
                allow_missing_keys=True,
            ),
        ]
    if training.rotate or training.zoom or training.shift:
        angle = radians(training.rotate)
        geometry.append(
            RandAffined(
                every,
                prob=0.9,
                # In 3D in the plane of the slices only (about z, array axis 0): the planes in which it is labelled.
                rotate_range=angle if dimension == 2 else (angle, 0.0, 0.0),
                scale_range=[training.zoom] * dimension,
                translate_range=[training.shift * side for side in size],
                mode=["bilinear", "nearest", "nearest", "bilinear"],
                padding_mode="zeros",
                allow_missing_keys=True,
            )
        )
    axes = "yx" if dimension == 2 else "zyx"
    geometry += [
        RandFlipd(every, prob=0.5, spatial_axis=axes.index(axis), allow_missing_keys=True) for axis in training.mirror
    ]
    intensity: list[Any] = []
    if strength := training.intensity:
        sigma = (0.25, 0.25 + 4 * strength)
        intensity = [
            RandAdjustContrastd("image", prob=0.3, gamma=(1 / (1 + strength), 1 + strength)),
            RandScaleIntensityd("image", prob=0.3, factors=strength),
            RandShiftIntensityd("image", prob=0.3, offsets=strength / 2),
            RandGaussianSmoothd("image", sigma, sigma, sigma, prob=0.2),
            RandGaussianNoised("image", prob=0.3, std=strength / 4),
        ]
    return Compose(geometry), Compose(intensity)


def never_known(weights: Sequence[NDArray[Any]]) -> NDArray[Any]:
    """Structures bool (S,) that no case annotates, from the weights (S,) of each case; at least one case.

    They are trained as absent: an output that is never trained has arbitrary predictions.
    """
    return ~(np.stack(weights) > 0).any(axis=0)


def make_loader(
    cases: Sequence[TrainingCase], task: Task, steps: int, seed: int, plain: bool = False
) -> DataLoader[dict[str, torch.Tensor]]:
    """Batches of one epoch of ``steps``; the next iteration continues. ``plain``: as of ``AugmentedCases``."""
    # Read once: an experiment's cases lie on disk.
    kinds = [(case.human, case.weights) for case in cases]
    human = [i for i, (is_human, _) in enumerate(kinds) if is_human]
    pseudo = [i for i, (is_human, _) in enumerate(kinds) if not is_human]
    training = task.training
    sampler = MixedBatchSampler(human, pseudo, training.batch_size, HUMAN_FRACTION, steps, seed)
    data = AugmentedCases(cases, task, plain, never_known([weights for _, weights in kinds]))
    return DataLoader(data, batch_sampler=sampler, collate_fn=collate)
