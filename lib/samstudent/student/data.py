"""Training cases in the student's grid, their augmentation, and how batches are drawn from them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
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
from samstudent.imaging.case import CaseImage, for_student
from samstudent.student.grid import Placement, masks_to_student_grid, place, resize, to_student_grid
from samstudent.task import Task

#: Share of every batch that is human-labelled while pseudo labels are used.
HUMAN_SHARE = 0.25


@dataclass(frozen=True)
class TrainingCase:
    """One case as the student sees it. Human labels: weights 1, nothing ignored, except what is not annotated.

    A weight of 0 means that nothing is known of that structure in this case (see ``student.loss``). Where ``soft`` is
    given, it is what is taught; ``masks`` then only say where the structures are.
    """

    id: str
    image: NDArray[Any]  # float32 (C, *grid)
    masks: NDArray[Any]  # bool (S, *grid)
    ignore: NDArray[Any]  # bool (S, *grid)
    weights: NDArray[Any]  # float32 (S,)
    human: bool
    soft: NDArray[Any] | None = None  # float16 (S, *grid) in [0, 1]


def prepare_case(
    id: str,
    image: CaseImage,
    masks: NDArray[Any],
    task: Task,
    *,
    ignore: NDArray[Any] | None = None,
    weights: Sequence[float] | NDArray[Any] | None = None,
    human: bool = True,
    soft: NDArray[Any] | None = None,
) -> TrainingCase:
    """Bring one case to the student's grid.

    Args:
        masks, ignore: bool (S, *spatial) on the image's canonical grid.
        soft: probabilities (S, *spatial) to teach instead of the masks. Where structures may not overlap and their sum
            exceeds 1, they are scaled down to it.
    """
    placement = place(image.grid.spatial_shape, image.grid.spacing, task)
    shown = to_student_grid(for_student(image, task.image), placement)
    if ignore is None or not ignore.any():
        ignored = np.zeros((len(masks), *placement.outer), dtype=bool)
    else:
        # Ignore regions of several structures may share pixels whatever the task says of the structures.
        ignored = masks_to_student_grid(ignore, placement, overlap=True)
    hard = masks_to_student_grid(masks, placement, task.overlap)
    given = np.ones(len(masks), dtype=np.float32) if weights is None else np.asarray(weights, dtype=np.float32)
    taught = None if soft is None else _soft_to_student_grid(soft, placement, task.overlap)
    return TrainingCase(id, shown, hard, ignored, given, human, taught)


def without_label(id: str, image: CaseImage, task: Task) -> TrainingCase:
    """A case of which nothing is known: every structure weighs 0."""
    masks = np.zeros((len(task.names), *image.grid.spatial_shape), dtype=bool)
    return prepare_case(id, image, masks, task, weights=np.zeros(len(masks)), human=False)


def _soft_to_student_grid(soft: NDArray[Any], placement: Placement, overlap: bool) -> NDArray[Any]:
    inner = np.clip(resize(soft, placement.inner), 0, 1)
    if not overlap:
        inner /= np.maximum(inner.sum(axis=0, keepdims=True), 1)
    result = np.zeros((len(soft), *placement.outer), dtype=np.float16)
    result[(slice(None), *placement.window)] = inner
    return result


class Draw(NamedTuple):
    """One place in a batch: which case, and the seed of its augmentation.

    The seed travels with the index, so that a run is the same with any number of loading threads.
    """

    case: int
    seed: int


class MixedBatchSampler(Sampler[list[Draw]]):
    """Batches that hold a set share of human-labelled cases, whatever the numbers of both kinds.

    Every case of a kind is drawn once before any is drawn again. Each ``iter`` gives the next ``steps`` batches of one
    endless seeded sequence.
    """

    def __init__(
        self, human: Sequence[int], pseudo: Sequence[int], batch_size: int, human_share: float, steps: int, seed: int
    ) -> None:
        """Args: indices of human- and pseudo-labelled cases, cases a batch, share of human ones, batches an epoch.

        Raises:
            UserError: there is no human-labelled case.
        """
        if not human:
            raise UserError("there is no human-labelled case to train on")
        self.steps = steps
        self.batch_size = batch_size
        # Without pseudo labels all are human.
        self.human_share = human_share if pseudo else 1.0
        self._rng = np.random.default_rng(seed)
        self._human = _endless(human, self._rng)
        self._pseudo = _endless(pseudo, self._rng)

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[list[Draw]]:
        for _ in range(self.steps):
            humans = self._humans()
            cases = [next(self._human) for _ in range(humans)]
            cases += [next(self._pseudo) for _ in range(self.batch_size - humans)]
            yield [Draw(case, int(self._rng.integers(2**32))) for case in cases]

    def _humans(self) -> int:
        """How many of the next batch are human-labelled: the share of it, at least one; where that leaves no place for
        the others, which a large volume's batch of one never does, chance decides."""
        count = max(1, round(self.human_share * self.batch_size))
        if count >= self.batch_size and self.human_share < 1:
            return int(self._rng.binomial(self.batch_size, self.human_share))
        return count


def _endless(indices: Sequence[int], rng: np.random.Generator) -> Iterator[int]:
    while True:
        yield from (int(i) for i in rng.permutation(indices))


class AugmentedCases(Dataset[dict[str, torch.Tensor]]):
    """Cases by number; ``[Draw]`` gives one augmented item of tensors, as ``StudentLoss`` takes them in batches.

    ``image`` and ``weights``; ``label`` where structures do not overlap and the case's targets are hard, else
    ``masks``; ``ignore``. With ``plain`` also ``plain``: the image after the same changes of geometry, but with its
    intensities as they were.
    """

    def __init__(
        self, cases: Sequence[TrainingCase], task: Task, plain: bool = False, absent: NDArray[Any] | None = None
    ) -> None:
        """Args: absent: bool (S,), structures that human-labelled cases teach as absent, see ``never_known``."""
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
            # As few channels as say it all: 32 structures that do not overlap are one.
            item["hard"] = _channels(case.masks if self.overlap else label_of(case.masks))
        if case.ignore.any():
            # Where they do not overlap, the loss ignores pixels for all structures alike.
            item["ignore"] = _channels(case.ignore if self.overlap else case.ignore.any(axis=0, keepdims=True))
        if case.image.ndim == 4:
            item["foreground"] = _channels(case.masks.any(axis=0, keepdims=True))
        self.geometry.set_random_state(seed=draw.seed)
        self.intensity.set_random_state(seed=draw.seed)
        moved = self.geometry(item)
        # The cropping transform of volumes answers with a list of crops.
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
    """MONAI transforms by ``task.training``: those of geometry, for image and targets, and those of intensity.

    3D cases are padded and cropped to ``student.size`` first. Crops are centred on a structure every second time: most
    of a volume is background.
    """
    training, size, dimension = task.training, task.student.size, task.dimension
    # Which kinds of target an item has differs from case to case.
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
    """Structures bool (S,) of which no case says anything, from the weights (S,) of each case; at least one case.

    They are taught as absent: nobody could learn them, and an output that is never taught draws anything anywhere.
    """
    return ~(np.stack(weights) > 0).any(axis=0)


def make_loader(
    cases: Sequence[TrainingCase], task: Task, steps: int, seed: int, plain: bool = False
) -> DataLoader[dict[str, torch.Tensor]]:
    """Batches for one epoch of ``steps``; iterating again goes on with fresh ones. For ``plain`` see the data set."""
    # One look at each: an experiment's are read from disk.
    kinds = [(case.human, case.weights) for case in cases]
    human = [i for i, (is_human, _) in enumerate(kinds) if is_human]
    pseudo = [i for i, (is_human, _) in enumerate(kinds) if not is_human]
    training = task.training
    sampler = MixedBatchSampler(human, pseudo, training.batch_size, HUMAN_SHARE, steps, seed)
    data = AugmentedCases(cases, task, plain, never_known([weights for _, weights in kinds]))
    return DataLoader(data, batch_sampler=sampler, collate_fn=collate)
