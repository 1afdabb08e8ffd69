"""The embedding head: a few convolutions on SAM's image embeddings that segment without prompts.

SAM's decoder only segments what it is prompted with, and a student that learned from ten cases prompts it badly. But
the encoder was trained on far more images than any hospital has labels of. So a few convolutions on its cached
embeddings learn where the structures lie, in about a minute. Embedding heads take part in rounds as members of the
teacher's ensemble; they are never served: that would take SAM's encoder for every image.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional as F

from samstudent.errors import UserError
from samstudent.imaging.annotations import LabelledMasks
from samstudent.imaging.case import CaseImage, for_sam
from samstudent.pseudolabels.cached_sam import CachedSam
from samstudent.sam.embedding import Embedding
from samstudent.student.data import label_of, never_known
from samstudent.student.network import output_channels
from samstudent.student.predict import load_weights, save_model
from samstudent.student.training import OnStep, make_trainer
from samstudent.task import Task
from samstudent.util.device import pick_device

#: Slices in a batch.
BATCH = 6
#: Many more steps only learn the few cases by heart (docs/decisions/0007-embedding-heads-and-probabilities.md).
_STEPS = 150
_RATE = 1e-3
#: Standard deviation of the noise on features, as a share of their own.
_NOISE = 0.1
#: SAM 2 puts finer levels behind these channels; these are enough.
_EMBEDDING_CHANNELS = 256


class HeadNetwork(nn.Module):
    """Embeddings float32 (B, 256, h, w) to logits (B, channels, 4h, 4w)."""

    def __init__(self, outputs: int, width: int = 64) -> None:
        super().__init__()

        def block(inputs: int, stride: int = 1, kernel: int = 3) -> nn.Sequential:
            convolution = nn.Conv2d(inputs, width, kernel, stride, kernel // 2)
            return nn.Sequential(convolution, nn.InstanceNorm2d(width, affine=True), nn.GELU())

        # Dropped channels: the few cases must not hang on single features.
        self.reduce = nn.Sequential(nn.Dropout2d(0.2), block(_EMBEDDING_CHANNELS, kernel=1))
        # Which tooth it is, only its neighbours tell.
        self.context = nn.Sequential(block(width, stride=2), block(width, stride=2), block(width))
        self.mix = nn.Sequential(block(2 * width), block(width))
        self.head = nn.Sequential(
            nn.Conv2d(width, width // 2, 3, padding=1), nn.GELU(), nn.Conv2d(width // 2, outputs, 1)
        )

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        reduced = self.reduce(features)
        context = _scale(self.context(reduced), reduced.shape[-2:])
        mixed = self.mix(torch.cat([reduced, context], dim=1))
        height, width = mixed.shape[-2:]
        logits = self.head(_scale(mixed, (2 * height, 2 * width)))
        return _scale(logits, (4 * height, 4 * width))


@dataclass(frozen=True)
class HeadCase:
    """One slice to train a head on, in SAM's padded frame of L = 4h pixels.

    Attributes:
        features: float16 (256, h, w).
        masks: bool (S, L, L).
        size: (y, x) of the part of the frame that the image fills.
        weights: float32 (S,), 0 for structures that are not annotated; None: all are.
        ignore: bool (S, L, L), where others are unknown; None: nowhere.
    """

    features: torch.Tensor
    masks: torch.Tensor
    size: tuple[int, int]
    weights: torch.Tensor | None = None
    ignore: torch.Tensor | None = None


@dataclass(frozen=True)
class HeadTraining:
    """How a head is trained.

    Attributes:
        seed: of weights, batches and augmentation.
        device: as PyTorch names it; None: a GPU where there is one.
        steps: optimisation steps; None: ``head_steps``.
        on_step: called after each with its number, their number and the loss.
    """

    seed: int = 0
    device: str | None = None
    steps: int | None = None
    on_step: OnStep | None = None


#: Seed 0, as many steps as ``head_steps``.
DEFAULT_TRAINING = HeadTraining()


def head_steps(task: Task) -> int:
    """Optimisation steps of a head, never more than of a student."""
    return min(_STEPS, task.training.steps)


def head_cases(image: CaseImage, truth: LabelledMasks, task: Task, sam: CachedSam) -> list[HeadCase]:
    """The slices of one labelled case: the image of a 2D case; of a volume those along ``slice_axis_of``.

    Args:
        image: of the case.
        truth: on the image's canonical grid; of a 2D image, on any that covers it.
        task: structures, intensities and the axis of slices.
        sam: whose embeddings are used.
    """
    pixels = for_sam(image, task.image)
    if task.dimension == 2:
        return [_head_case(sam.embed(pixels), truth)]
    axis = slice_axis_of(task)
    parts, masks = np.moveaxis(pixels, axis, 0), np.moveaxis(truth.masks, 1 + axis, 0)
    unknown = [None] * len(parts) if truth.unknown is None else np.moveaxis(truth.unknown, 1 + axis, 0)
    labels = (LabelledMasks(*both) for both in zip(masks, unknown, strict=True))
    return [_head_case(sam.embed(part), label) for part, label in zip(parts, labels, strict=True)]


def slice_axis_of(task: Task) -> int:
    """The axis that volumes are cut along: the recipe's; z where that is left to each volume."""
    return max(0, "zyx".find(task.recipe.axis))


class EmbeddingHead:
    """A trained embedding head: a ``Predictor`` like the student."""

    def __init__(self, network: nn.Module, task: Task, version: str, sam: CachedSam, device: torch.device) -> None:
        self.network = network.eval().to(device)
        self.task, self.version, self.sam, self.device = task, version, sam, device

    @classmethod
    def load(cls, path: Path, task: Task, sam: CachedSam, device: str | None = None) -> EmbeddingHead:
        """Read a file that ``train_head`` wrote. Raises as ``Student.load``."""
        network = HeadNetwork(output_channels(task))
        version = load_weights(network, path, task)
        return cls(network, task, version, sam, pick_device(device))

    def predict(self, image: CaseImage, size: tuple[int, ...] | None = None) -> NDArray[Any]:
        """Probabilities float32 (S, *spatial) in [0, 1] on the image's canonical grid.

        Args:
            size: of a 2D image, another (y, x) to cover it with.
        """
        pixels = for_sam(image, self.task.image)
        if self.task.dimension == 2:
            embedding = self.sam.embed(pixels)
            return self.predict_embedding(
                embedding if size is None else replace(embedding, image_size=(size[0], size[1]))
            )
        axis = slice_axis_of(self.task)
        parts = [self.predict_embedding(self.sam.embed(part)) for part in np.moveaxis(pixels, axis, 0)]
        return np.stack(parts, axis=1 + axis)

    def predict_embedding(self, embedding: Embedding) -> NDArray[Any]:
        """Probabilities float32 (S, y, x) of one embedded image, at ``embedding.image_size``."""
        with torch.inference_mode():
            features = torch.from_numpy(embedding.features[:, :_EMBEDDING_CHANNELS])
            logits = self.network(features.to(self.device)).float()
            # The frame has as many pixels as the embedding has, fourfold; the model's own side may differ.
            height, width = _filled(embedding)
            probabilities = logits.sigmoid() if self.task.overlap else logits.softmax(dim=1)[:, 1:]
            # One structure after the other: a radiograph has millions of pixels, a jaw 32 teeth.
            parts = [_scale(p[:, None, :height, :width], embedding.image_size) for p in probabilities.unbind(dim=1)]
            return torch.cat(parts, dim=1)[0].cpu().numpy()


def train_head(cases: Sequence[HeadCase], task: Task, out_path: Path, training: HeadTraining = DEFAULT_TRAINING) -> str:
    """Train a head and write its last weights at once.

    Args:
        cases: slices to learn from.
        task: structures, and whether they may overlap.
        out_path: the model's file.
        training: seed, device, steps and progress.

    Returns:
        Its version, the SHA-256 of the file.

    Raises:
        UserError: no case.
    """
    if not cases:
        raise UserError("there is no human-labelled case to train an embedding head on")
    target = pick_device(training.device)
    steps = training.steps or head_steps(task)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(training.seed)
        network = HeadNetwork(output_channels(task)).to(target)
        optimizer = torch.optim.AdamW(network.parameters(), lr=_RATE, weight_decay=1e-2)
        batches = _Batches(cases, steps, training.seed, task.overlap)
        make_trainer(network, optimizer, batches, task, 1, steps, target, training.on_step).run()
    return save_model(out_path, network, task)


class _Batches:
    """Seeded batches of warped slices: rotated, zoomed and shifted in the space of features."""

    def __init__(self, cases: Sequence[HeadCase], steps: int, seed: int, overlap: bool = True) -> None:
        """Args: overlap: the task's; without it targets are label maps, with which 32 teeth take a quarter less."""
        self.cases, self.steps, self.seed, self.overlap = cases, steps, seed, overlap
        self.targets = [c.masks if overlap else torch.from_numpy(label_of(c.masks.numpy())) for c in cases]
        known = torch.ones(len(cases[0].masks))
        self.weights = torch.stack([known if case.weights is None else case.weights for case in cases])
        self.weights[:, never_known(list(self.weights.numpy()))] = 1

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        rng = np.random.default_rng(self.seed)
        noise = torch.Generator().manual_seed(self.seed)
        # Slices with something on them are half of what is seen: most of a volume is background.
        full = [i for i, case in enumerate(self.cases) if case.masks.any()]
        every = list(range(len(self.cases)))
        for _ in range(self.steps):
            drawn = [int(rng.choice(full if full and k % 2 == 0 else every)) for k in range(BATCH)]
            yield self._batch(drawn, rng, noise)

    def _batch(self, drawn: Sequence[int], rng: np.random.Generator, noise: torch.Generator) -> dict[str, torch.Tensor]:
        cases = [self.cases[i] for i in drawn]
        features = torch.stack([case.features for case in cases]).float()
        targets = torch.stack([self.targets[i] for i in drawn]).float()
        outside = torch.ones((len(cases), 1, *targets.shape[-2:]))
        for index, case in enumerate(cases):
            outside[index, :, : case.size[0], : case.size[1]] = 0
        angle, zoom = np.radians(rng.uniform(-15, 15, len(cases))), rng.uniform(0.9, 1.1, len(cases))
        shift = rng.uniform(-0.1, 0.1, (len(cases), 2))
        rows = [[zoom * np.cos(angle), -zoom * np.sin(angle), shift[:, 0]]]
        rows += [[zoom * np.sin(angle), zoom * np.cos(angle), shift[:, 1]]]
        warp = torch.tensor(np.array(rows).transpose(2, 0, 1), dtype=torch.float32)
        spread = features.std() * _NOISE
        features = F.grid_sample(features, F.affine_grid(warp, list(features.shape), False), align_corners=False)
        features = features + spread * torch.randn(features.shape, generator=noise)
        outside = self._with_unknown(outside, cases)
        # What the warp brings in from outside of the frame is as unknown as the padding.
        both = torch.cat([targets, outside - 1], dim=1)
        grid = F.affine_grid(warp, list(both.shape), False)
        both = F.grid_sample(both, grid, mode="nearest", align_corners=False)
        count = targets.shape[1]
        ignore = both[:, count:] > -0.5
        target = {"masks": both[:, :count]} if self.overlap else {"label": both[:, 0]}
        return {"image": features, "ignore": ignore, "weights": self.weights[list(drawn)], **target}

    def _with_unknown(self, outside: torch.Tensor, cases: Sequence[HeadCase]) -> torch.Tensor:
        """What is ignored, 0 or 1: the padding (B, 1, L, L) and where structures are unknown; where structures may
        overlap, and any is, a channel for each: (B, S, L, L)."""
        regions = [(index, case.ignore) for index, case in enumerate(cases) if case.ignore is not None]
        if regions and self.overlap:
            outside = outside.repeat(1, len(cases[0].masks), 1, 1)
        for index, region in regions:
            outside[index][region if self.overlap else region.any(dim=0, keepdim=True)] = 1
        return outside


def _head_case(embedding: Embedding, truth: LabelledMasks) -> HeadCase:
    side, size = 4 * embedding.features.shape[-1], _filled(embedding)
    features = torch.from_numpy(embedding.features[0, :_EMBEDDING_CHANNELS]).half()
    masks = _in_frame(truth.masks, size, side)
    if truth.unknown is None:
        return HeadCase(features, masks, size)
    weights = torch.from_numpy(truth.annotated.astype(np.float32))
    ignore = None if truth.ignore is None else _in_frame(truth.ignore, size, side)
    return HeadCase(features, masks, size, weights, ignore)


def _in_frame(masks: NDArray[Any], size: tuple[int, int], side: int) -> torch.Tensor:
    """Masks bool (S, y, x) in the head's frame: bool (S, side, side), False outside of ``size``."""
    framed = torch.zeros((len(masks), side, side), dtype=torch.bool)
    for index, mask in enumerate(masks):
        # One after the other, as in ``EmbeddingHead.predict_embedding``.
        shown = torch.from_numpy(np.ascontiguousarray(mask, dtype=np.float32))[None, None]
        shown = F.interpolate(shown, size, mode="bilinear", antialias=True, align_corners=False)
        framed[index, : size[0], : size[1]] = shown[0, 0] >= 0.5
    return framed


def _filled(embedding: Embedding) -> tuple[int, int]:
    """How much of the head's frame the image fills, (y, x)."""
    scale = 4 * embedding.features.shape[-1] / embedding.side
    height, width = (max(1, round(size * scale)) for size in embedding.input_size)
    return height, width


def _scale(maps: torch.Tensor, size: Any) -> torch.Tensor:
    return F.interpolate(maps, size, mode="bilinear", align_corners=False)
