"""The reader: a second student that sees through SAM's encoder and needs no prompt.

SAM's decoder can only redraw what somebody points at, and a student that learned from ten cases points badly. But the
encoder has seen far more images than any hospital has labels. So a few convolutions on its cached embeddings learn
where the structures lie, in about a minute. Readers take part in the rounds as members of the ensemble that predicts
coarse masks (``pseudolabels.ensemble``); they are never served: that would take SAM's encoder for every image.
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
from samstudent.sam.cache import EmbeddingCache
from samstudent.sam.embedding import Embedding
from samstudent.sam.model import SamBackend
from samstudent.student.data import label_of, never_known
from samstudent.student.network import output_channels
from samstudent.student.predict import load_weights, save_model
from samstudent.student.training import OnStep, make_trainer
from samstudent.task import Task
from samstudent.util.torch_device import pick_device

#: Slices in a batch.
BATCH = 6
_RATE = 1e-3
#: Standard deviation of the noise on features, as a share of their own.
_NOISE = 0.1
#: SAM 2 puts finer levels behind these; the reader's own are enough.
_EMBEDDING_CHANNELS = 256


class ReaderNetwork(nn.Module):
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
        seen = self.reduce(features)
        context = _scale(self.context(seen), seen.shape[-2:])
        mixed = self.mix(torch.cat([seen, context], dim=1))
        height, width = mixed.shape[-2:]
        drawn = self.head(_scale(mixed, (2 * height, 2 * width)))
        return _scale(drawn, (4 * height, 4 * width))


@dataclass(frozen=True)
class ReaderCase:
    """One slice to learn from, in SAM's padded frame of L = 4h pixels.

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


def reader_cases(
    image: CaseImage, truth: LabelledMasks, task: Task, backend: SamBackend, cache: EmbeddingCache | None
) -> list[ReaderCase]:
    """The slices of one labelled case: the image of a 2D case; of a volume those along ``reading_axis``.

    Args:
        truth: on the image's canonical grid; of a 2D image, on any that covers it.
    """
    seen = for_sam(image, task.image)
    if task.dimension == 2:
        return [_reader_case(_embed(seen, backend, cache), truth)]
    axis = reading_axis(task)
    parts, masks = np.moveaxis(seen, axis, 0), np.moveaxis(truth.masks, 1 + axis, 0)
    unknown = [None] * len(parts) if truth.unknown is None else np.moveaxis(truth.unknown, 1 + axis, 0)
    labels = (LabelledMasks(*both) for both in zip(masks, unknown, strict=True))
    return [_reader_case(_embed(part, backend, cache), label) for part, label in zip(parts, labels, strict=True)]


def reading_axis(task: Task) -> int:
    """The axis that volumes are cut along: the recipe's; z where that is left to each volume."""
    return max(0, "zyx".find(task.recipe.axis))


class Reader:
    """A trained reader: a ``Predictor`` like the student."""

    def __init__(
        self, network: nn.Module, task: Task, version: str, backend: SamBackend, cache: EmbeddingCache | None,
        device: torch.device,
    ) -> None:  # fmt: skip
        self.network = network.eval().to(device)
        self.task, self.version, self.backend, self.cache, self.device = task, version, backend, cache, device

    @classmethod
    def load(
        cls, path: Path, task: Task, backend: SamBackend, cache: EmbeddingCache | None, device: str | None = None
    ) -> Reader:
        """Read a file that ``train_reader`` wrote. Raises as ``Student.load``."""
        network = ReaderNetwork(output_channels(task))
        version = load_weights(network, path, task)
        return cls(network, task, version, backend, cache, pick_device(device))

    def predict(self, image: CaseImage, size: tuple[int, ...] | None = None) -> NDArray[Any]:
        """Probabilities float32 (S, *spatial) in [0, 1] on the image's canonical grid.

        Args:
            size: of a 2D image, another (y, x) to cover it with.
        """
        seen = for_sam(image, self.task.image)
        if self.task.dimension == 2:
            embedding = _embed(seen, self.backend, self.cache)
            return self.read(embedding if size is None else replace(embedding, image_size=(size[0], size[1])))
        axis = reading_axis(self.task)
        parts = [self.read(_embed(part, self.backend, self.cache)) for part in np.moveaxis(seen, axis, 0)]
        return np.stack(parts, axis=1 + axis)

    def read(self, embedding: Embedding) -> NDArray[Any]:
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


def train_reader(
    cases: Sequence[ReaderCase], task: Task, out_path: Path, *, steps: int | None = None, seed: int = 0,
    device: str | None = None, on_step: OnStep | None = None,
) -> str:  # fmt: skip
    """Train a reader and write its last weights at once. Returns its version, the SHA-256 of the file.

    Args:
        steps: None: ``task.trust.reader_steps``.

    Raises:
        UserError: no case.
    """
    if not cases:
        raise UserError("there is no human-labelled case to train a reader on")
    target = pick_device(device)
    steps = steps or task.trust.reader_steps
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = ReaderNetwork(output_channels(task)).to(target)
        optimizer = torch.optim.AdamW(network.parameters(), lr=_RATE, weight_decay=1e-2)
        batches = _Batches(cases, steps, seed, task.overlap)
        make_trainer(network, optimizer, batches, task, 1, steps, target, on_step).run()
    return save_model(out_path, network, task)


class _Batches:
    """Seeded batches of warped slices: rotated, zoomed and shifted in the space of features."""

    def __init__(self, cases: Sequence[ReaderCase], steps: int, seed: int, overlap: bool = True) -> None:
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

    def _with_unknown(self, outside: torch.Tensor, cases: Sequence[ReaderCase]) -> torch.Tensor:
        """What is ignored, 0 or 1: the padding (B, 1, L, L) and where structures are unknown; where structures may
        overlap, and any is, a channel for each: (B, S, L, L)."""
        regions = [(index, case.ignore) for index, case in enumerate(cases) if case.ignore is not None]
        if regions and self.overlap:
            outside = outside.repeat(1, len(cases[0].masks), 1, 1)
        for index, region in regions:
            outside[index][region if self.overlap else region.any(dim=0, keepdim=True)] = 1
        return outside


def _reader_case(embedding: Embedding, truth: LabelledMasks) -> ReaderCase:
    side, size = 4 * embedding.features.shape[-1], _filled(embedding)
    features = torch.from_numpy(embedding.features[0, :_EMBEDDING_CHANNELS]).half()
    masks = _in_frame(truth.masks, size, side)
    if truth.unknown is None:
        return ReaderCase(features, masks, size)
    weights = torch.from_numpy(truth.annotated.astype(np.float32))
    ignore = None if truth.ignore is None else _in_frame(truth.ignore, size, side)
    return ReaderCase(features, masks, size, weights, ignore)


def _in_frame(masks: NDArray[Any], size: tuple[int, int], side: int) -> torch.Tensor:
    """Masks bool (S, y, x) in the reader's frame: bool (S, side, side), False outside of ``size``."""
    framed = torch.zeros((len(masks), side, side), dtype=torch.bool)
    for index, mask in enumerate(masks):
        # One after the other, as in ``Reader.read``.
        shown = torch.from_numpy(np.ascontiguousarray(mask, dtype=np.float32))[None, None]
        shown = F.interpolate(shown, size, mode="bilinear", antialias=True, align_corners=False)
        framed[index, : size[0], : size[1]] = shown[0, 0] >= 0.5
    return framed


def _filled(embedding: Embedding) -> tuple[int, int]:
    """How much of the reader's frame the image fills, (y, x)."""
    scale = 4 * embedding.features.shape[-1] / embedding.side
    height, width = (max(1, round(size * scale)) for size in embedding.input_size)
    return height, width


def _embed(image: NDArray[np.uint8], backend: SamBackend, cache: EmbeddingCache | None) -> Embedding:
    return backend.embed(image) if cache is None else cache.embed(backend, image)


def _scale(maps: torch.Tensor, size: Any) -> torch.Tensor:
    return F.interpolate(maps, size, mode="bilinear", align_corners=False)
